"""Measures of closeness against scikit-image, baselines against what linear algebra says of them."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from ectype.evaluation.metrics.image_errors import (
    MAX_BASELINE_ELEMENTS,
    MAX_BASELINE_IMAGES,
    MAX_PSNR_DB,
    image_errors,
    num_baseline_images,
    psnr,
)
from ectype.evaluation.metrics.intervals import mean_interval


def noisy_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(6, 3, 20, 24, generator=generator)
    strength = torch.linspace(0.01, 0.5, 6).view(-1, 1, 1, 1)
    return (target + strength * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def test_mse_and_psnr_equal_scikit_image():
    image, target = noisy_pairs()
    found = image_errors(image, target)
    pairs = [(a.double().numpy(), b.double().numpy()) for a, b in zip(target, image, strict=True)]
    np.testing.assert_allclose(found.mse, [mean_squared_error(a, b) for a, b in pairs], rtol=1e-5)
    np.testing.assert_allclose(found.psnr, [peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs], rtol=1e-5)


def test_mean_psnr_is_not_the_psnr_of_the_mean_error():
    image, target = noisy_pairs()
    found = image_errors(image, target)
    assert found.psnr.mean() > psnr(found.mse.mean()[None]) + 1


def test_exact_copies_count_as_the_largest_psnr():
    _, target = noisy_pairs()
    found = image_errors(target, target)
    assert found.psnr.tolist() == [MAX_PSNR_DB] * 6
    assert psnr(torch.tensor([1e-10]))[0].item() == pytest.approx(100.0)
    assert psnr(torch.tensor([1e-9]))[0].item() == pytest.approx(90.0)


def test_interval_covers_the_true_mean_nineteen_times_in_twenty():
    draws = torch.randn(4000, 100, generator=torch.Generator().manual_seed(1)) * 3 + 2
    covered = sum(low <= 2 <= high for low, high in map(mean_interval, draws)) / 4000
    assert covered == pytest.approx(0.95, abs=0.015)


def test_interval_of_one_value_is_no_number():
    assert all(math.isnan(end) for end in mean_interval(torch.ones(1)))


def test_baselines_stay_within_memory():
    assert num_baseline_images(500, 784) == 500
    assert num_baseline_images(10**6, 784) == MAX_BASELINE_IMAGES
    assert num_baseline_images(10**6, 3 * 512 * 512) * 3 * 512 * 512 <= MAX_BASELINE_ELEMENTS
