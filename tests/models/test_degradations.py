from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ectype.config.schema import DataInfo
from ectype.core.errors import RecipeError
from ectype.data.loader import evaluation_batches
from ectype.models.degradations import DEGRADATIONS, check_degradations, degrade

MOMENT = evaluation_batches(DataInfo(3, (24, 32)), 0, torch.device("cpu"))[1](0, 4)
GRID = torch.linspace(0, 6, 32)
IMAGE = (0.5 + 0.4 * torch.sin(torch.arange(1, 5).view(4, 1, 1, 1) * (GRID + GRID[:24, None]))).expand(4, 3, 24, 32)
AMOUNTS = {"blur": 2.0, "downscale": 3.0, "grey": 1.0, "noise": 0.2, "mask": 0.5, "jpeg": 10.0}


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_spoils_images_the_same_way_at_the_same_moment(name: str, channels: int) -> None:
    image = torch.rand(4, channels, 24, 32, generator=torch.Generator().manual_seed(1))
    degradations = {name: AMOUNTS[name]}
    one, two = degrade(image, degradations, MOMENT), degrade(image, degradations, MOMENT)
    assert one.shape == image.shape
    assert torch.equal(one, two)
    if (name, channels) != ("grey", 1):
        assert not torch.equal(one, image)
    if name != "noise":
        assert one.min() >= 0
        assert one.max() <= 1


def test_amounts_mean_what_they_say() -> None:
    image = IMAGE
    assert float((degrade(image, {"noise": 0.2}, MOMENT) - image).std()) == pytest.approx(0.2, rel=0.05)
    masked = (degrade(image.clamp(min=0.01), {"mask": 0.3}, MOMENT) == 0).all(1).float().mean()
    assert float(masked) == pytest.approx(0.3, abs=0.03)
    expected = gaussian_filter(image[0, 0].numpy(), 2.0, mode="nearest", truncate=3.0)
    assert np.abs(degrade(image, {"blur": 2.0}, MOMENT)[0, 0].numpy() - expected).max() < 1e-5
    colors = torch.rand(4, 3, 24, 32)
    grey = degrade(colors, {"grey": 1.0}, MOMENT)
    assert torch.allclose(grey[:, 0], grey[:, 2])
    assert torch.equal(degrade(colors, {"grey": 0.0}, MOMENT), colors)
    low, high = (degrade(image, {"jpeg": q}, MOMENT) for q in (5.0, 95.0))
    assert (high - image).abs().mean() < 0.01 < (low - image).abs().mean()


def test_an_amount_may_be_drawn_for_each_image() -> None:
    image = torch.full((64, 1, 16, 16), 0.5)
    context = evaluation_batches(DataInfo(1, (16, 16)), 0, torch.device("cpu"))[1](0, 64)
    spread = (degrade(image, {"noise": (0.1, 0.4)}, context) - image).flatten(1).std(1)
    assert 0.08 < float(spread.min()) < 0.15
    assert 0.33 < float(spread.max()) < 0.45


def test_they_are_applied_in_one_order() -> None:
    assert list(check_degradations({"jpeg": 50, "noise": 0.1, "blur": 1})) == ["blur", "noise", "jpeg"]


@pytest.mark.parametrize(
    "degradations, message",
    [
        ({"nois": 0.2}, "no degradation 'nois'; did you mean 'noise'"),
        ({"mask": 1.5}, "mask: 1.5} is out of range: give the fraction of the pixels set to 0, from 0 to 1"),
        ({"noise": (0.3, 0.1)}, "the smaller first"),
    ],
)
def test_what_cannot_be_is_refused(degradations: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_degradations(degradations)
