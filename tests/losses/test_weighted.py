from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ectype.core.errors import ModelError, RecipeError
from ectype.losses import weighted
from ectype.losses.features import FeatureExtractor
from ectype.losses.lpips import LPIPS
from ectype.losses.pixels import mse
from ectype.losses.ssim import ms_ssim, ssim
from ectype.losses.weighted import LOSSES, WeightedLoss
from tests.losses.test_features import body


@pytest.fixture(autouse=True)
def _backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use LPIPS with a random backbone, because no package contains its weights."""
    features = FeatureExtractor("AlexNet", body("AlexNet"))
    monkeypatch.setitem(
        weighted.LOSSES, "lpips", lambda channels, network: LPIPS(channels, network="AlexNet", features=features)
    )


def images(channels: int = 3, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, channels, side, side, generator=generator)
    return 0.8 * target + 0.2 * torch.rand(target.shape, generator=generator), target


def mixed(channels: int = 3) -> WeightedLoss:
    return WeightedLoss(dict.fromkeys(LOSSES, 1.0), channels=channels, network="EfficientNet-Lite0")


@pytest.mark.parametrize("channels", [1, 3])
def test_every_loss_is_one_value_per_image_with_a_gradient_to_the_output(channels: int) -> None:
    losses = mixed(channels)
    output, target = images(channels)
    output.requires_grad_()
    values = losses(output, target)
    assert list(values) == list(LOSSES)
    alone = losses(output[1:], target[1:])
    for name, value in values.items():
        assert value.shape == (2,)
        assert (value > 0).all()
        torch.testing.assert_close(alone[name], value[1:], atol=1e-5, rtol=1e-4)
        (grad,) = torch.autograd.grad(value[0], output, retain_graph=True)
        assert grad[0].any()
        assert not grad[1].any()
        assert grad.isfinite().all()
        with torch.no_grad():
            # A step against the gradient reduces the loss; its length is the same for losses of all scales.
            nearer = losses.losses[name]((output - 0.01 * grad / grad.norm()).clamp(0, 1), target)
        assert nearer[0] < value[0], name


def test_losses_of_one_network_share_its_pass() -> None:
    output, target = images()
    losses = WeightedLoss({"perceptual": 1, "style": 1}, channels=3, network="EfficientNet-Lite0")
    passes: list[int] = []
    shared = losses.losses["style"].features.net
    assert shared is losses.losses["perceptual"].features.net
    shared.register_forward_hook(lambda *_: passes.append(1))
    together = losses(output, target)
    assert len(passes) == 2  # of the output and of the target
    for name, loss in losses.losses.items():
        assert torch.equal(loss(output, target), together[name])


def test_values_are_those_of_the_losses() -> None:
    output, target = images()
    values = WeightedLoss({"ssim": 0.5, "mse": 2, "ms_ssim": 1}, channels=3)(output, target)
    torch.testing.assert_close(values["ssim"], 1 - ssim(output, target))
    torch.testing.assert_close(values["ms_ssim"], 1 - ms_ssim(output, target))
    assert torch.equal(values["mse"], mse(output, target))  # unweighted


def test_equal_images_have_no_loss_but_what_the_conventions_say() -> None:
    _, target = images()
    for name, value in mixed()(target, target).items():
        expected = {
            "charbonnier": 1e-3,
            "bce": float(-(torch.special.xlogy(target, target) + torch.special.xlogy(1 - target, 1 - target)).mean()),
        }.get(name, 0.0)
        assert float(value.mean()) == pytest.approx(expected, abs=1e-6)


def test_autocast_changes_nothing() -> None:
    losses = mixed()
    output, target = images()
    output = output.bfloat16()  # as a network under autocast returns it
    expected = losses(output.float(), target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = losses(output, target)
    for name in LOSSES:
        assert cast[name].dtype == torch.float32
        assert torch.equal(cast[name], expected[name])


class Objective(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.losses = mixed()


def test_networks_of_losses_are_named_and_no_part_of_an_objective() -> None:
    objective = Objective()
    assert objective.losses.networks == {
        "perceptual": "EfficientNet-Lite0",
        "style": "EfficientNet-Lite0",
        "lpips": "AlexNet",
    }
    assert not objective.state_dict()
    assert not list(objective.parameters())
    output, target = images()
    expected = objective.losses(output, target)
    moved = copy.deepcopy(objective).train().to(torch.float64)
    for name, value in moved.losses(output.double(), target.double()).items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value.float(), expected[name], atol=1e-4, rtol=1e-3)
    assert torch.equal(objective.losses(output, target)["perceptual"], expected["perceptual"])


def test_outputs_may_leave_the_range_except_for_bce() -> None:
    output, target = images()
    output = output * 1.2 - 0.1
    rest = WeightedLoss({name: 1 for name in LOSSES if name != "bce"}, channels=3, network="EfficientNet-Lite0")
    assert all(value.isfinite().all() for value in rest(output, target).values())
    with pytest.raises(ModelError, match="output=sigmoid"):
        WeightedLoss({"bce": 1}, channels=3)(output, target)


def test_unknown_names_and_none_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"no loss 'ms-ssim'; did you mean 'ms_ssim'"):
        WeightedLoss({"mse": 1, "ms-ssim": 1}, channels=3)
    with pytest.raises(RecipeError, match=r"a loss needs a name and a weight, .* choose from: .*charbonnier"):
        WeightedLoss({}, channels=3)
