"""Compares losses on pixels with torch, numpy and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio

from ectype.core.errors import ModelError
from ectype.losses.pixels import bce, charbonnier, gradient, l1, mse, psnr

GENERATOR = torch.Generator().manual_seed(0)
OUTPUT = torch.rand(3, 2, 5, 7, generator=GENERATOR)
TARGET = torch.rand(3, 2, 5, 7, generator=GENERATOR)


@pytest.mark.parametrize(
    "ours, theirs", [(mse, F.mse_loss), (l1, F.l1_loss), (bce, F.binary_cross_entropy)], ids=["mse", "l1", "bce"]
)
def test_equals_torch(ours, theirs) -> None:
    expected = [theirs(o, t) for o, t in zip(OUTPUT, TARGET, strict=True)]
    torch.testing.assert_close(ours(OUTPUT, TARGET), torch.stack(expected))


def test_psnr_is_what_scikit_image_finds_and_heeds_images_alike() -> None:
    near = torch.stack([0.999 * TARGET[0], 0.9 * TARGET[1], TARGET[2]])
    near = near.detach().requires_grad_()
    value = psnr(near, TARGET)
    for output, image, short in zip(near, TARGET, value, strict=True):
        if not torch.equal(output, image):
            found = peak_signal_noise_ratio(image.double().numpy(), output.detach().double().numpy(), data_range=1)
            # The value that is added to the error in the logarithm is 60 dB below 1.
            assert 60 - short.item() == pytest.approx(-10 * math.log10(10 ** (-found / 10) + 1e-6), abs=1e-4)
    assert value[2].item() == 0
    # Reducing the error by a tenth changes the loss equally for images with small and with large errors.
    half = psnr(TARGET + 0.9 * (near.detach() - TARGET), TARGET)
    gains = (value - half).detach()
    assert gains[1].item() == pytest.approx(-20 * math.log10(0.9), abs=1e-3)
    assert gains[0].item() > 0.1 * gains[1].item()
    (grad,) = torch.autograd.grad(value.sum(), near)
    assert grad.isfinite().all()


def test_charbonnier_is_the_formula_and_smooth_at_zero() -> None:
    error = (OUTPUT - TARGET).numpy()
    expected = np.sqrt(error**2 + 1e-6).mean((1, 2, 3))
    np.testing.assert_allclose(charbonnier(OUTPUT, TARGET).numpy(), expected, rtol=1e-6)
    same = TARGET.clone().requires_grad_()
    value = charbonnier(same, TARGET)
    torch.testing.assert_close(value, torch.full((3,), 1e-3))
    assert not torch.autograd.grad(value.sum(), same)[0].any()


def test_gradient_is_that_of_differences() -> None:
    o, t = OUTPUT.numpy(), TARGET.numpy()
    across = np.abs(np.diff(o, axis=3) - np.diff(t, axis=3)).mean((1, 2, 3))
    down = np.abs(np.diff(o, axis=2) - np.diff(t, axis=2)).mean((1, 2, 3))
    np.testing.assert_allclose(gradient(OUTPUT, TARGET).numpy(), (across + down) / 2, rtol=1e-5)
    assert float(gradient(TARGET + 0.1, TARGET).max()) < 1e-6
    assert float(gradient(1 - TARGET, TARGET).min()) > 0.1  # the sign counts


def test_gradient_refuses_a_single_row() -> None:
    with pytest.raises(ModelError, match=r"at least 2 × 2 pixels, got \(1, 7\)"):
        gradient(OUTPUT[:, :, :1], TARGET[:, :, :1])


def test_bce_bears_certain_outputs() -> None:
    output = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 1, 2, 2).requires_grad_()
    target = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
    value = bce(output, target)
    assert value.item() == pytest.approx(-math.log(1e-12) / 2, rel=1e-5)
    assert torch.autograd.grad(value.sum(), output)[0].isfinite().all()


@pytest.mark.parametrize("off", [-0.01, 1.02])
def test_bce_refuses_linear_outputs(off: float) -> None:
    output = OUTPUT.clone()
    output[1, 0, 0, 0] = off
    with pytest.raises(ModelError, match=r"bce needs outputs in \[0, 1\], got .* to .*output=sigmoid"):
        bce(output, TARGET)


def test_bce_leaves_what_is_not_a_number_to_the_trainer() -> None:
    output = OUTPUT.clone()
    output[1] = float("nan")
    assert bce(output, TARGET).isnan().tolist() == [False, True, False]
