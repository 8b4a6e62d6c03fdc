"""Compares SSIM with scikit-image, and with the formula for images that scikit-image rejects."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.ndimage import gaussian_filter
from skimage.measure import block_reduce
from skimage.metrics import structural_similarity

from ectype.losses.ssim import ms_ssim, ms_ssim_scales, ssim, ssim_radius


def pair(
    shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=dtype)
    return x, (x + 0.2 * torch.randn(shape, generator=generator, dtype=dtype)).clamp(0, 1)


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 33, 40), (1, 3, 11, 64)])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_equals_scikit_image(shape, data_range):
    x, y = (data_range * image for image in pair(shape))
    expected = [
        structural_similarity(
            a.numpy().astype(np.float64),
            b.numpy().astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range,
            channel_axis=0,
        )
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ssim(x, y, data_range=data_range).numpy(), expected, atol=1e-5)


def test_another_sigma_equals_scikit_image():
    x, y = pair((1, 1, 40, 40))
    expected = structural_similarity(
        x[0, 0].numpy(), y[0, 0].numpy(), gaussian_weights=True, sigma=2.5, use_sample_covariance=False, data_range=1
    )
    assert ssim(x, y, sigma=2.5).item() == pytest.approx(expected, abs=1e-5)


def test_flat_and_bright_images_lose_no_precision():
    x = torch.full((1, 1, 32, 32), 0.999)
    y = x - 1e-3 * torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert ssim(x, y).item() == pytest.approx(ssim(x.double(), y.double()).item(), abs=1e-4)


def test_identical_images_score_one_and_negatives_below_zero():
    x, _ = pair((2, 3, 24, 24))
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    assert (ssim(x, 1 - x) < 0).all()


@pytest.mark.parametrize("size, radius", [((28, 28), 5), ((11, 99), 5), ((10, 99), 4), ((8, 8), 3), ((4, 6), 1)])
def test_window_shrinks_to_the_largest_odd_one_that_fits(size, radius):
    assert ssim_radius(size) == radius


def test_small_images_follow_the_formula_with_the_smaller_window():
    x, y = pair((1, 1, 8, 9), dtype=torch.float64)
    offsets = np.arange(-3, 4)
    window = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets[None] ** 2) / 1.5**2)
    window /= window.sum()
    a, b = x[0, 0].numpy(), y[0, 0].numpy()
    values = []
    for i in range(2):
        for j in range(3):
            p, q = a[i : i + 7, j : j + 7], b[i : i + 7, j : j + 7]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    assert ssim(x, y).item() == pytest.approx(np.mean(values), abs=1e-10)


def test_gradient_is_that_of_finite_differences():
    x, y = pair((1, 2, 13, 12), dtype=torch.float64)
    assert torch.autograd.gradcheck(ssim, (x.requires_grad_(), y.requires_grad_()), fast_mode=True)


def test_autocast_changes_nothing():
    x, y = pair((2, 3, 32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ssim(x, y)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, ssim(x, y))


def test_shapes_that_differ_are_refused():
    with pytest.raises((ValueError, TypeCheckError)):  # the shape checks of the tests may raise first
        ssim(torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 16, 16))


def composed(x, y, exponents):
    """Compute the MS-SSIM of two arrays [h, w] from scikit-image's SSIM map and scipy's means at each scale."""
    value = 1.0
    for scale, exponent in enumerate(exponents):
        if scale:
            even = tuple(slice(side - side % 2) for side in x.shape)
            x, y = (block_reduce(image[even], (2, 2), np.mean) for image in (x, y))
        _, similarity = structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
        )
        mean_x, mean_y = (gaussian_filter(image, 1.5, truncate=3.5) for image in (x, y))
        luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        last = scale == len(exponents) - 1
        factor = (similarity if last else similarity / luminance)[5:-5, 5:-5].mean()
        value *= factor**exponent
    return value


WANG = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@pytest.mark.parametrize("shape, count", [((1, 3, 176, 200), 5), ((2, 1, 181, 179), 5), ((2, 1, 64, 70), 3)])
def test_several_scales_equal_a_composition_of_scikit_images(shape, count):
    x, y = pair(shape)
    x, y = (
        torch.nn.functional.avg_pool2d(image, 9, 1, 4) for image in (x, y)
    )  # smooth images, so that coarse scales matter
    y = y**1.5
    exponents = np.array(WANG[:count]) / sum(WANG[:count])
    expected = [
        np.mean([composed(p.double().numpy(), q.double().numpy(), exponents) for p, q in zip(a, b, strict=True)])
        for a, b in zip(x, y, strict=True)
    ]
    assert max(expected) < 0.99
    np.testing.assert_allclose(ms_ssim(x, y).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "size, count", [((176, 300), 5), ((175, 300), 4), ((88, 88), 4), ((44, 87), 3), ((28, 28), 2), ((8, 8), 1)]
)
def test_small_images_have_fewer_scales(size, count):
    assert ms_ssim_scales(size) == count


def test_one_scale_is_ssim():
    x, y = pair((2, 3, 16, 20))
    torch.testing.assert_close(ms_ssim(x, y), torch.stack([ssim(x[:, [c]], y[:, [c]]) for c in range(3)]).mean(0))


def test_opposite_images_have_a_gradient_towards_likeness():
    x, _ = pair((2, 1, 176, 176))
    opposite = (1 - x).requires_grad_()
    value = ms_ssim(opposite, x)
    assert ((value > 0) & (value < 0.2)).all()
    (grad,) = torch.autograd.grad(value.sum(), opposite)
    assert grad.isfinite().all()
    # The value increases at each step, also from where the formula of the paper is undefined.
    values = [ms_ssim(x + share * (1 - 2 * x), x) for share in (1, 0.8, 0.6, 0.4, 0.2, 0)]
    assert all((nearer > farther).all() for farther, nearer in pairwise(values))
    torch.testing.assert_close(values[-1], torch.ones(2))


def test_gradient_of_several_scales_is_that_of_finite_differences():
    x, y = pair((1, 1, 24, 25), dtype=torch.float64)
    assert torch.autograd.gradcheck(ms_ssim, (x.requires_grad_(), y.requires_grad_()), fast_mode=True)
    assert torch.autograd.gradcheck(ms_ssim, (x, 1 - y), fast_mode=True)
