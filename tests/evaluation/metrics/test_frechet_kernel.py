"""Distances against clean-fid, torchmetrics, torch-fidelity and scipy, and against what must be true of them."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from cleanfid.fid import frechet_distance
from scipy.special import logsumexp
from scipy.stats import wasserstein_distance
from sklearn.decomposition import PCA
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import _compute_fid

from ectype.core.errors import DataError
from ectype.data.loader import evenly_spaced
from ectype.evaluation.metrics import feature_likelihood, frechet_kernel
from ectype.evaluation.metrics.feature_likelihood import feature_likelihood_divergence
from ectype.evaluation.metrics.frechet_kernel import (
    fit_projection,
    frechet,
    kernel_distance,
    moments,
    sliced_wasserstein,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(n: int, d: int, seed: int, *, shift: float = 0.0, spread: float = 1.0) -> torch.Tensor:
    """Correlated Gaussians, the same in all seeds but for shift and spread."""
    mix = torch.randn(d, d, generator=seeded(99)) / math.sqrt(d)
    return spread * torch.randn(n, d, generator=seeded(seed)) @ mix + shift


def images(n: int, channels: int, size: int, seed: int) -> torch.Tensor:
    """Smooth blobs in [0, 1]."""
    coarse = torch.rand(n, channels, 5, 5, generator=seeded(seed))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


# ── Fréchet distance ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_moments_are_numpys():
    x = features(50, 7, 1, shift=3)
    found = moments(x)
    assert found.n == 50
    np.testing.assert_allclose(found.mean, x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.double().numpy(), rowvar=False), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found.root @ found.root, found.covariance)
    assert found.root is found.root


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated")
def test_frechet_distance_equals_three_peers():
    x, y = features(400, 48, 1), features(300, 48, 2, shift=0.2, spread=1.3)
    ours = frechet(moments(x), moments(y))
    arrays = [a for each in (x, y) for a in (each.double().numpy().mean(0), np.cov(each.numpy(), rowvar=False))]
    assert ours == pytest.approx(frechet_distance(*arrays), rel=1e-6)
    assert ours == pytest.approx(float(_compute_fid(*map(torch.from_numpy, arrays))), rel=1e-6)
    stats = [fid_features_to_statistics(each.double()) for each in (x, y)]
    assert ours == pytest.approx(
        fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"], rel=1e-6
    )


@pytest.mark.parametrize("n, m, d", [(20, 300, 64), (300, 20, 64), (20, 25, 64), (200, 200, 64)])
def test_frechet_distance_of_fewer_features_than_dimensions(n, m, d):
    """Tr (S^½ S' S^½)^½ is the nuclear norm of A Bᵀ where S = AᵀA and S' = BᵀB: exact without a single root."""
    x, y = features(n, d, 1).double(), features(m, d, 2, shift=0.1).double()
    a, b = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    means = (x.mean(0) - y.mean(0)).square().sum()
    truth = means + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    assert frechet(moments(x), moments(y)) == pytest.approx(float(truth), rel=1e-6)


def test_frechet_distance_of_known_gaussians():
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    a = frechet_kernel.Moments(torch.zeros(3, dtype=torch.float64), eye, 10)
    b = frechet_kernel.Moments(torch.full((3,), 2.0, dtype=torch.float64), torch.diag(scale**2), 10)
    assert frechet(a, b) == pytest.approx(12 + 0 + 1 + 4)
    assert frechet(b, a) == pytest.approx(17)


def test_frechet_distance_to_itself_is_zero_even_without_full_rank():
    found = moments(features(30, 100, 1))
    assert 0 <= frechet(found, found) < 1e-9 * float(found.covariance.trace())


@pytest.mark.parametrize("broken", [torch.ones(1, 3), torch.tensor([[1.0, math.nan], [0, 0], [2, 1]])])
def test_moments_refuse_what_has_none(broken):
    with pytest.raises(DataError, match="features are"):
        moments(broken)


def test_frechet_distance_of_different_features_is_refused():
    with pytest.raises(DataError, match="3 and 4 dimensions"):
        frechet(moments(features(9, 3, 0)), moments(features(9, 4, 0)))


@pytest.mark.parametrize("n, d, k, expected", [(200, 30, 8, 8), (20, 50, 8, 8), (10, 50, 128, 9), (200, 5, 128, 5)])
def test_projection_is_scikit_learns_pca(n, d, k, expected):
    x = features(n, d, 3, shift=5)
    fitted = fit_projection(x, k)
    assert fitted.directions.shape == (expected, d)
    torch.testing.assert_close(fitted.directions @ fitted.directions.T, torch.eye(expected, dtype=torch.float64))
    reference = PCA(expected, svd_solver="full").fit(x.double().numpy())
    np.testing.assert_allclose(fitted.apply(x).var(0), reference.explained_variance_, rtol=1e-8)
    assert fitted.explained == pytest.approx(reference.explained_variance_ratio_.sum())
    cosines = np.abs((fitted.directions.numpy() * reference.components_).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_distances_in_a_full_projection_are_those_of_the_features():
    x, y = features(200, 12, 1), features(200, 12, 2, spread=1.2)
    fitted = fit_projection(x, 12)
    projected = frechet(moments(fitted.apply(x)), moments(fitted.apply(y)))
    assert projected == pytest.approx(frechet(moments(x), moments(y)))


def test_projection_of_identical_features_is_refused():
    with pytest.raises(DataError, match="the same"):
        fit_projection(torch.full((20, 6), 0.3), 4)


# ── Kernel distance ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_kernel_distance_equals_torch_fidelitys_full_subset(chunk):
    x, y = features(150, 20, 1).double(), features(150, 20, 2, shift=0.3).double()
    theirs = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=150, verbose=False)
    found = kernel_distance(x, y, chunk=chunk)
    assert found == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_kernel_distance_of_unequal_sets_and_another_kernel():
    x, y = features(9, 4, 1).double(), features(6, 4, 2).double()

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((0.5 * (a @ b) + 2) ** 2)

    xx = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y, 2, 0.5, 2, chunk=4) == pytest.approx(xx + yy - 2 * xy)


def test_kernel_distance_has_no_bias():
    draws = [kernel_distance(features(20, 6, 2 * i), features(20, 6, 2 * i + 1)) for i in range(300)]
    assert min(draws) < 0
    assert abs(np.mean(draws)) < 3 * np.std(draws) / math.sqrt(300)


# ── Sliced Wasserstein distance ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size, levels", [(8, [8]), (28, [28]), (31, [31, 16]), (64, [64, 32, 16]), (48, [48, 24])])
def test_levels_of_the_pyramid(size, levels):
    found = sliced_wasserstein(images(6, 1, size, 0), images(6, 1, size, 1), generator=seeded(), patches=4)
    assert list(found.levels) == levels
    assert found.mean == pytest.approx(np.mean(list(found.levels.values())))


def test_pyramid_is_the_papers():
    """Its filter is scipy's convolution with the binomial kernel, mirrored at the edges."""
    x = images(2, 3, 32, 0).double()
    fine, coarse = frechet_kernel._pyramid(x)
    taps = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(taps, taps)[None, None]
    smaller = scipy.ndimage.convolve(x.numpy(), kernel, mode="mirror")[:, :, ::2, ::2]
    spread = np.zeros(x.shape)
    spread[:, :, ::2, ::2] = smaller
    np.testing.assert_allclose(coarse, smaller, atol=1e-12)
    np.testing.assert_allclose(fine, x.numpy() - scipy.ndimage.convolve(spread, 4 * kernel, mode="mirror"), atol=1e-12)


def test_patches_are_windows_of_their_own_image_brought_to_unit_variance():
    x = torch.rand(5, 2, 9, 8, generator=seeded())
    flat = frechet_kernel._patches(x, 30, seeded(1)).view(5, 30, 2, 7, 7)
    assert flat.mean((0, 1, 3, 4)).abs().max() < 1e-5
    torch.testing.assert_close(flat.var((0, 1, 3, 4), correction=0), torch.ones(2))
    windows = x.unfold(2, 7, 1).unfold(3, 7, 1)
    for i in range(5):
        own = windows[i].permute(1, 2, 0, 3, 4).reshape(-1, 2, 49)
        own = (own - own.mean(-1, keepdim=True)) / own.std(-1, keepdim=True)
        taken = flat[i].reshape(30, 2, 49)
        taken = (taken - taken.mean(-1, keepdim=True)) / taken.std(-1, keepdim=True)
        assert torch.cdist(taken.flatten(1), own.flatten(1)).amin(1).max() < 1e-2


def test_transport_of_one_direction_is_scipys():
    x, y = (torch.randn(40, 3, generator=seeded()), torch.randn(40, 3, generator=seeded(1)) + 1)
    direction = torch.nn.functional.normalize(torch.randn(1, 3, generator=seeded(2)), dim=1)
    found = frechet_kernel._projected_distance(direction, x, y) / 40
    expected = wasserstein_distance((x @ direction[0]).numpy(), (y @ direction[0]).numpy())
    assert found == pytest.approx(expected, rel=1e-5)


def test_sliced_wasserstein_takes_images_in_any_layout():
    real, fake = images(12, 3, 16, 0), images(12, 3, 16, 1)
    plain = sliced_wasserstein(real, fake, generator=seeded(3), patches=8, directions=32)
    last = sliced_wasserstein(
        real, fake.to(memory_format=torch.channels_last), generator=seeded(3), patches=8, directions=32
    )
    assert last.mean == pytest.approx(plain.mean)


def test_sliced_wasserstein_sees_noise_at_the_finest_level():
    real, fresh = images(200, 1, 64, 0), images(200, 1, 64, 1)
    noisy = (fresh + 0.05 * torch.randn(fresh.shape, generator=seeded(2))).clamp(0, 1)
    good = sliced_wasserstein(real, fresh, generator=seeded(3), patches=16, directions=64)
    bad = sliced_wasserstein(real, noisy, generator=seeded(3), patches=16, directions=64)
    assert bad.levels[64] > 5 * good.levels[64]
    assert bad.levels[16] < 2 * good.levels[16]


def test_sliced_wasserstein_of_a_set_with_itself_in_chunks(monkeypatch):
    x, y = images(12, 3, 32, 0), images(20, 3, 32, 1)
    whole = sliced_wasserstein(x, y, generator=seeded(), patches=8, directions=32)
    monkeypatch.setattr(frechet_kernel, "MAX_PROJECTED_ELEMENTS", 12 * 8 * 5)
    chunked = sliced_wasserstein(x, y[evenly_spaced(20, 12)], generator=seeded(), patches=8, directions=32)
    assert whole.levels == pytest.approx(chunked.levels)
    flat = torch.full((12, 3, 32, 32), 0.5)
    assert sliced_wasserstein(flat, flat, generator=seeded(), patches=8, directions=8).mean == 0


def test_sliced_wasserstein_refuses_images_without_patches():
    with pytest.raises(DataError, match="6 × 6 pixels"):
        sliced_wasserstein(images(3, 1, 6, 0), images(3, 1, 6, 0), generator=seeded())
    with pytest.raises(DataError, match="1 × 8 × 8 and 3 × 8 × 8"):
        sliced_wasserstein(images(3, 1, 8, 0), images(3, 3, 8, 0), generator=seeded())


# ── Feature likelihood divergence ────────────────────────────────────────────────────────────────────────────────────


def divergence(train: torch.Tensor, test: torch.Tensor, fake: torch.Tensor) -> float:
    return float(feature_likelihood_divergence(train, test, fake, generator=seeded(5)).value)


def test_likelihood_of_the_mixture_is_its_formula():
    centres, train, test = (torch.randn(n, 3, generator=seeded(n)).double() for n in (4, 30, 11))
    log_variances = feature_likelihood._fit_variances(centres, train).numpy()
    squared = ((test[:, None] - centres[None]) ** 2).sum(2).numpy()
    terms = -squared / (2 * np.exp(log_variances)) - 1.5 * (np.log(2 * np.pi) + log_variances)
    expected = -(logsumexp(terms, axis=1) - np.log(4)).mean() / 3
    assert float(feature_likelihood._mixture_losses(centres, train, test)[0].mean()) == pytest.approx(expected)


def test_fitted_variance_is_where_the_likelihood_is_highest():
    """One centre far from the background has each of its features to itself: σ² is their mean squared distance / d."""
    d = 20
    near = 0.3 * torch.randn(400, d, generator=seeded(1)).double()
    train = torch.cat([near, near + 100])
    centres = torch.zeros(2, d).double()
    centres[1] = 100
    found = feature_likelihood._fit_variances(centres, train).exp()
    torch.testing.assert_close(found, near.square().mean().expand(2), rtol=0.1, atol=0)


def test_a_missing_mode_is_worse_than_both():
    def modes(n: int, seed: int, second: int) -> torch.Tensor:
        x = features(n, 16, seed)
        x[:second] += 8
        return x

    train, test = modes(400, 1, 200), modes(400, 2, 200)
    both, one = (divergence(train, test, modes(200, 3, 100)), divergence(train, test, modes(200, 3, 0)))
    assert one > both + 20


def test_copies_and_noise_are_worse_than_fresh_images_and_fresh_is_about_the_baseline():
    train, test, fresh = (features(500, 16, seed) for seed in (1, 2, 3))
    good = divergence(train, test, fresh[:250])
    assert abs(good) < 5
    assert divergence(train, test, train[:250]) > good + 20
    assert divergence(train, test, fresh[:250] + torch.randn(250, 16, generator=seeded(8))) > good + 10


def test_half_of_the_training_set_is_the_baseline():
    train, test, fake = (features(60, 5, seed) for seed in (1, 2, 3))
    generator = seeded(5)
    torch.randperm(60, generator=generator)  # which fakes are used is drawn first
    order = torch.randperm(60, generator=generator)
    shift, scale = test.double().mean(0), test.double().std(0)
    real, held_out, made = ((x.double() - shift) / scale for x in (train, test, fake))
    half, _ = feature_likelihood._mixture_losses(real[order[:30]], real[order[30:]], held_out)
    found = feature_likelihood_divergence(train, test, fake, generator=seeded(5))
    torch.testing.assert_close(
        found.per_image, 100 * (feature_likelihood._mixture_losses(made, real, held_out)[0] - half)
    )


def test_leaving_centres_out_is_computed_without_them():
    train, test, fake = (features(60, 5, seed).double() for seed in (1, 2, 3))
    _, without = feature_likelihood._mixture_losses(fake, train, test)
    variances, fewer = (feature_likelihood._fit_variances(fake, train), torch.arange(60) >= 3)
    logs = feature_likelihood._log_densities(feature_likelihood._squared_distances(test, fake), variances, 5)[
        :, fewer
    ].logsumexp(1)
    torch.testing.assert_close(without[0], ((math.log(57) - logs) / 5).mean())


def test_the_error_of_the_divergence_is_how_far_other_draws_move_it():
    train = features(400, 8, 1)
    draws = [
        feature_likelihood_divergence(train, features(300, 8, 2 + i), features(300, 8, 100 + i), generator=seeded(5))
        for i in range(24)
    ]
    moved = float(torch.tensor([each.value for each in draws]).std())
    said = sum(each.error for each in draws) / len(draws)
    of_images = float(draws[0].per_image.std()) / 300**0.5
    assert said == pytest.approx(moved, rel=0.4)
    assert said > 1.2 * of_images


def test_training_features_in_several_steps_fit_about_the_same(monkeypatch):
    train, test, fake = (features(300, 8, seed) for seed in (1, 2, 3))
    whole = divergence(train, test, fake[:90])
    monkeypatch.setattr(feature_likelihood, "MAX_CENTERS", 100)
    assert divergence(train, test, fake[:90]) == pytest.approx(whole, abs=3)


def test_too_few_training_features_are_refused():
    with pytest.raises(DataError, match="3 features are too few"):
        divergence(features(3, 4, 0), features(9, 4, 1), features(9, 4, 2))
