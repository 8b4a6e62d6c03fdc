from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from ectype.config.schema import DataInfo, Target
from ectype.core.errors import ModelError
from ectype.models.translator import TranslatorConfig
from ectype.nets.backbones import Backbone
from ectype.nets.dense_predictor import reflect_pad_to_multiple
from ectype.nets.unet import BackboneUNetConfig, UNetConfig

INFO = DataInfo(3, (64, 64))


def net(info: DataInfo = INFO, channels: int = 2, *, deep: bool = False, **keys):
    torch.manual_seed(0)
    return UNetConfig(**{"width": 4, **keys}).build(info, channels, deep=deep)


def test_it_is_the_documented_net() -> None:
    unet = UNetConfig(width=64, max_width=1024).build(DataInfo(3, (256, 256)), 2, deep=False)
    kinds = [type(layer) for layer in unet.down[0]]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU, nn.Conv2d, nn.BatchNorm2d]
    assert unet.down[0][2].negative_slope == 0.2
    assert [block[0].out_channels for block in unet.down] == [64, 128, 256, 512, 1024]
    assert all(isinstance(up[0], nn.ConvTranspose2d) for up in unet.decoder.ups)
    # milesial's U-Net has 31.04 million parameters with 2×2 transposed convolutions; here they are 4×4.
    transposed = sum(p.numel() for up in unet.decoder.ups for p in up.parameters())
    rest = sum(p.numel() for p in unet.parameters()) - transposed
    theirs = 31_037_698 - sum(2 * w * w * 4 + w for w in (64, 128, 256, 512))
    assert rest == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("size", [(197, 233), (300, 512), (31, 31), (16, 16), (17, 200)])
@pytest.mark.parametrize("up", ["transposed", "nearest", "shuffle", "residual_shuffle"])
def test_any_size_comes_back_as_it_was(size: tuple[int, int], up: str) -> None:
    unet = net(up=up, norm="group").eval()
    with torch.no_grad():
        assert unet(torch.rand(1, 3, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("skip", ["concat", "sum", "none"])
def test_skips_carry_what_pooling_loses(skip: str) -> None:
    unet = net(skip=skip, norm="group").eval()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    # Without skips a pixel of the output still depends on the input, through the bottom.
    (grad,) = torch.autograd.grad(unet(image)[0, 0, 32, 32], image)
    assert grad.abs().sum() > 0
    taken = unet.decoder.blocks[0][0].in_channels
    assert taken == (8 if skip == "concat" else 4)
    changed = net(skip=skip, norm="group").eval()
    nn.init.zeros_(changed.decoder.ups[0][0].weight)
    with torch.no_grad():
        one, two = changed(torch.rand(2, 3, 64, 64))
    # With the last upsampling set to 0, outputs differ only through skips.
    assert torch.allclose(one, two) == (skip == "none")


def test_levels_are_halves_of_each_other_and_the_whole_comes_first() -> None:
    unet = net(deep=True, levels=3)
    found = unet.forward_levels(torch.rand(2, 3, 40, 64))
    assert [tuple(level.shape) for level in found] == [(2, 2, 40, 64), (2, 2, 20, 32), (2, 2, 10, 16)]
    unet.eval()
    image = torch.rand(1, 3, 33, 50)
    with torch.no_grad():
        assert torch.equal(unet.forward_levels(image)[0][:, :, :33, :50], unet(image))
        assert unet.forward_levels(image)[0].shape == (1, 2, 40, 56)


def test_statistics_can_be_of_groups() -> None:
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net(norm="group").modules())
    assert any(isinstance(part, nn.BatchNorm2d) for part in net().modules())


def test_images_too_small_for_the_levels_are_refused() -> None:
    with pytest.raises(ModelError, match="levels=4 is too many for images of 8×8 pixels: set levels to at most 3"):
        net(DataInfo(1, (8, 8)))
    net(DataInfo(1, (8, 8)), levels=3)


def test_reflection_fills_any_lack() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    assert reflect_pad_to_multiple(image, 1) is image
    filled = reflect_pad_to_multiple(image, 8)
    assert filled.shape == (1, 1, 8, 8)
    assert torch.equal(filled[..., :3, :4], image)
    assert filled[0, 0, :, 0].tolist() == [0, 4, 8, 4, 0, 4, 8, 4]
    assert reflect_pad_to_multiple(torch.ones(1, 1, 1, 1), 4).shape == (1, 1, 4, 4)


ENCODERS = {
    "resnet18": [1, 2, 3, 4, 5],
    "mobilenet_v2": [1, 2, 3, 4, 5],
    "timm:convnext_atto": [2, 3, 4, 5],
    "timm:vit_tiny_patch16_224": [4],
    "timm:swin_tiny_patch4_window7_224": [2, 3, 4, 5],
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_networks_of_others_lead_the_way_down(encoder: str) -> None:
    torch.manual_seed(0)
    unet = BackboneUNetConfig.model_validate({"encoder": encoder, "width": 4}).build(INFO, 2, deep=False).eval()
    with torch.no_grad():
        shown = torch.rand(1, 3, 64, 96)
        maps = unet.backbone.pyramid(shown)
        assert sorted(maps) == ENCODERS[encoder]
        for level, found in maps.items():
            assert found.shape[2:] == (64 >> level, 96 >> level)
        image = torch.rand(1, 3, 97, 50)
        assert unet(image).shape == (1, 2, 97, 50)
        # The smallest map is the one that the network gives its classifier.
        torch.testing.assert_close(maps[max(maps)], unet.backbone(shown))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in unet.modules())


def test_encoders_of_one_size_are_refused() -> None:
    config = BackboneUNetConfig.model_validate({"encoder": "timm:levit_128"})
    with pytest.raises(ModelError, match=r"encoder=timm:levit_128 accepts images of 224×224 pixels only"):
        config.build(INFO, 2, deep=False)


def test_a_network_that_others_trained_starts_with_their_weights_and_moves_slowly() -> None:
    config = BackboneUNetConfig.model_validate(
        {"encoder": "timm:tf_efficientnet_lite0", "pretrained": True, "width": 4}
    )
    model = TranslatorConfig(net=config).build(INFO._replace(target=Target("images", 3)))
    (backbone,) = (part for part in model.modules() if isinstance(part, Backbone))
    before = backbone.net.published.conv_stem.weight.clone()
    backbone.load_pretrained_weights()
    assert not torch.equal(before, backbone.net.published.conv_stem.weight)
    own, theirs = model.parameter_groups()
    assert (own.lr_scale, theirs.lr_scale) == (1.0, 0.1)
    assert {id(p) for p in [*own.parameters, *theirs.parameters]} == {id(p) for p in model.parameters()}
    found = model.net(torch.rand(2, 3, 64, 64))
    found.square().mean().backward()
    assert backbone.net.published.conv_stem.weight.grad.abs().sum() > 0


def test_grey_images_have_a_stem_of_their_own() -> None:
    unet = BackboneUNetConfig.model_validate({"encoder": "resnet18", "width": 4}).build(
        DataInfo(1, (64, 64)), 1, deep=True
    )
    assert [tuple(level.shape[2:]) for level in unet.forward_levels(torch.rand(1, 1, 40, 64))] == [
        (64 >> level, 64 >> level) for level in range(5)
    ]


@pytest.mark.parametrize("size", [(197, 233), (31, 31), (64, 64)])
@pytest.mark.parametrize("fold", [2, 3])
def test_folded_squares_come_back_where_they_were(size: tuple[int, int], fold: int) -> None:
    unet = net(fold=fold, levels=2, norm="group", deep=True).eval()
    image = torch.rand(1, 3, *size, requires_grad=True)
    found = unet(image)
    assert found.shape == (1, 2, *size)
    assert unet.multiple == fold * 4
    levels = unet.forward_levels(image)
    assert [levels[0].shape[2] // level.shape[2] for level in levels] == [1, 2]


def test_folded_answers_move_with_the_image() -> None:
    unet = net(fold=2, levels=1, norm="none").eval()
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        still, moved = unet(image), unet(image.roll((4, 8), (2, 3)))
    inside = (slice(None), slice(None), slice(44, 84), slice(44, 84))
    torch.testing.assert_close(still.roll((4, 8), (2, 3))[inside], moved[inside], rtol=1e-4, atol=1e-5)


def test_folding_saves_work() -> None:
    def multiplications(**keys: int) -> int:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(width=16, norm="group", **keys).eval()(torch.rand(1, 3, 64, 64))
        return counter.get_total_flops()

    assert multiplications(fold=2, levels=3) < multiplications(fold=1, levels=4) / 2


def test_without_normalisation_a_signal_keeps_its_size() -> None:
    unet = UNetConfig(width=16, norm="none").build(INFO, 2, deep=False)
    assert not any(isinstance(part, nn.BatchNorm2d | nn.GroupNorm) for part in unet.modules())
    sizes: list[float] = []
    for block in unet.down:
        block.register_forward_hook(lambda module, given, found: sizes.append(float(found.detach().square().mean())))
    unet(torch.randn(4, 3, 64, 64))
    # Max pooling raises it a little at each level; PyTorch's initialization would lose nine tenths at each.
    assert all(0.2 < after / before < 5 for before, after in pairwise(sizes))
