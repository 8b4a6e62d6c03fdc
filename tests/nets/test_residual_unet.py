from __future__ import annotations

import pytest
import torch
from torch import nn

from ectype.config.schema import DataInfo
from ectype.nets.residual_unet import ResidualUNetConfig
from ectype.nets.unet import UNetConfig

INFO = DataInfo(3, (64, 64))


def net(*, deep: bool = False, **keys):
    torch.manual_seed(0)
    return ResidualUNetConfig(**{"width": 8, **keys}).build(INFO, 2, deep=deep)


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (5, 200)])
@pytest.mark.parametrize("norm", ["group", "none"])
def test_any_size_comes_back_as_it_was(size: tuple[int, int], norm: str) -> None:
    with torch.no_grad():
        assert net(norm=norm).eval()(torch.rand(2, 3, *size)).shape == (2, 2, *size)


def test_nothing_is_computed_at_full_size_and_nothing_depends_on_the_other_images_of_a_batch() -> None:
    unet, image = net().eval(), torch.rand(3, 3, 64, 64)
    sides: list[int] = []
    for part in unet.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda _part, inputs, _output: sides.append(inputs[0].shape[2]))
    with torch.no_grad():
        together = unet(image)
        assert max(sides) == 64 // 4
        assert min(sides) == 64 // 4 // 2**2
        unet.train()
        torch.testing.assert_close(unet(image[:1]), together[:1])


@pytest.mark.parametrize("kind", [UNetConfig, ResidualUNetConfig])
@pytest.mark.parametrize("fold", [1, 2, 4])
def test_every_output_can_start_at_given_values(kind: type[UNetConfig], fold: int) -> None:
    unet = kind(width=8, levels=2, fold=fold).build(INFO, 2, deep=True)
    unet.start_at(torch.tensor([0.25, 0.75]))
    with torch.no_grad():
        for output in unet.forward_levels(torch.rand(2, 3, 64, 64)):
            assert torch.equal(output[:, 0], torch.full_like(output[:, 0], 0.25))
            assert torch.equal(output[:, 1], torch.full_like(output[:, 1], 0.75))


def test_a_fresh_residual_block_is_the_identity_and_learns() -> None:
    unet = net()
    pointwise, residual = unet.down[0]
    hidden = pointwise(torch.rand(2, 48, 16, 16))
    assert torch.equal(residual(hidden), hidden)
    unet(torch.rand(2, 3, 64, 64)).square().mean().backward()
    for parameter in residual.body[-1].parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
