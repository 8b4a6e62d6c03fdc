"""The linear filter that models which restore images are compared with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ectype.evaluation.linear_filter import SIDE_PX, fit_linear_filter


def smooth(n: int, seed: int, channels: int = 2) -> torch.Tensor:
    small = torch.rand(n, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, (20, 20), mode="bicubic").clamp(0, 1)


def noisy(images: torch.Tensor) -> torch.Tensor:
    return images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(9))


def test_it_is_the_least_squares_fit_of_scikit_learn() -> None:
    from sklearn.linear_model import LinearRegression

    images, radius = smooth(40, 0), SIDE_PX // 2
    corrupted = noisy(images)
    found = fit_linear_filter((corrupted[i : i + 16], images[i : i + 16]) for i in range(0, 40, 16))
    windows = F.unfold(F.pad(corrupted, (radius,) * 4, mode="replicate"), SIDE_PX).transpose(1, 2).flatten(0, 1)
    wanted = LinearRegression().fit(windows.numpy(), images.movedim(1, -1).flatten(0, 2).numpy())
    assert torch.allclose(found.weight.flatten(1), torch.from_numpy(wanted.coef_), atol=2e-3)
    assert torch.allclose(found.bias, torch.from_numpy(wanted.intercept_), atol=2e-3)


def test_it_removes_most_noise_of_unseen_images_and_stays_in_range() -> None:
    images = smooth(40, 1)
    restored = fit_linear_filter([(noisy(smooth(200, 0)), smooth(200, 0))]).apply(noisy(images))
    assert float((restored - images).square().mean()) < 0.25 * 0.2**2
    assert 0 <= restored.min() <= restored.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_images_that_never_change_are_returned(value: float) -> None:
    images = torch.full((3, 1, 8, 8), value)
    assert torch.allclose(fit_linear_filter([(images, images)]).apply(images), images, atol=1e-5)
