from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.models.autoencoder import Autoencoder, AutoencoderConfig
from ectype.nets.blocks import SelfAttention2d
from ectype.nets.conv import ConvConfig
from ectype.nets.resampling import DownConv, UpConv, Upsampling

MNIST = DataInfo(1, (28, 28))
KINDS: list[Upsampling] = ["nearest", "transposed", "shuffle", "residual_shuffle"]


@pytest.mark.parametrize("size", [8, 512])
def test_the_generic_net_goes_from_8_to_512_pixels(size: int) -> None:
    model = AutoencoderConfig(net=ConvConfig(width=4, max_width=16)).build(DataInfo(3, (size, size)))
    with torch.no_grad():
        assert model.reconstruct(torch.rand(1, 3, size, size)).shape == (1, 3, size, size)


def test_a_map_as_code() -> None:
    config = ConvConfig(width=8, latent=(4, 7, 7))
    assert config.code_shape(MNIST) == (4, 7, 7)
    assert config.encoder(MNIST, 2)(torch.rand(2, 1, 28, 28)).shape == (2, 8, 7, 7)
    with pytest.raises(ModelError, match=r"latent=\[4, 8, 8\].*choose from 14×14, 7×7, 4×4"):
        ConvConfig(latent=(4, 8, 8)).encoder(MNIST, 1)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("up", KINDS)
def test_a_decoder_of_maps_takes_other_maps(up: Upsampling, patch: int) -> None:
    """Decode a crop of a code, or a larger one: each position still becomes a patch of the same size."""
    config = ConvConfig(width=8, latent=(4, 7, 7), patch=patch, up=up, shortcut=True)
    encoder, decoder = config.encoder(MNIST, 1), config.decoder(MNIST, 1)
    with torch.no_grad():
        assert decoder(torch.randn(2, 4, 7, 7)).shape == (2, 1, 28, 28)
        code = encoder(torch.rand(2, 1, 56, 20))
        assert code.shape == (2, 4, 14, 5)
        assert decoder(code).shape == (2, 1, 56, 20)


@pytest.mark.parametrize("patch, side", [(1, 14), (2, 14), (4, 7)])
def test_the_first_level_stands_at_the_size_of_the_patches(patch: int, side: int) -> None:
    config = ConvConfig(width=8, patch=patch)
    assert config.sizes(MNIST)[1] == (side, side)
    with pytest.raises(ModelError, match="choose from 14×14, 7×7, 4×4"):
        ConvConfig(latent=(4, 28, 28), patch=patch).encoder(MNIST, 1)
    for latent in ((4, 14, 14), (4, 7, 7), (4, 4, 4)):  # each of those can be chosen
        chosen = ConvConfig(width=8, latent=latent, patch=patch)
        code = chosen.encoder(MNIST, 1)(torch.rand(2, 1, 28, 28))
        assert code.shape == (2, *latent)
        assert chosen.decoder(MNIST, 1)(code).shape == (2, 1, 28, 28)


@pytest.mark.parametrize("change", [{}, {"patch": 2}, {"patch": 4}, {"depth": 0}, {"kernel": 5}], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_with_shortcuts_a_fresh_network_only_lowers_the_resolution(channels: int, change: dict) -> None:
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(4, channels, 8, 8), size=(64, 64), mode="bicubic").clamp(0, 1)
    lowered = F.interpolate(F.avg_pool2d(image, 8), scale_factor=8)
    away = {}
    for shortcut, up in ((True, "residual_shuffle"), (False, "shuffle")):
        fields = {"width": 32, "max_width": 64, "latent": (channels, 8, 8), **change}
        config = ConvConfig.model_validate({**fields, "shortcut": shortcut, "up": up})
        info = DataInfo(channels, (64, 64))
        with torch.no_grad():
            reconstruction = config.decoder(info, 1)(config.encoder(info, 1)(image))
        away[shortcut] = float((reconstruction - lowered).square().mean().sqrt())
    assert away[True] < 0.1
    assert away[False] > 0.3


def test_where_there_are_no_blocks_an_activation_stands_between_the_levels() -> None:
    """Otherwise the layers between two convolutions would be one linear map."""
    config = ConvConfig(width=8, depth=0)
    for net in (config.encoder(MNIST, 1), config.decoder(MNIST, 1)):
        kinds = [type(layer) for layer in net.children() if isinstance(layer, DownConv | UpConv | nn.SiLU)]
        resized = [place for place, kind in enumerate(kinds) if kind is not nn.SiLU]
        assert len(resized) == 2
        assert nn.SiLU in kinds[resized[0] : resized[1]]


# ── Attention ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("channels", [4, 64, 128, 100])
def test_attention_starts_as_the_identity_and_learns(channels: int) -> None:
    block, x = SelfAttention2d(channels), torch.randn(2, channels, 5, 3)
    torch.testing.assert_close(block(x), x)
    block(x).square().sum().backward()
    assert block.answer.weight.grad is not None
    assert float(block.answer.weight.grad.abs().max()) > 0


def test_attention_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    block = SelfAttention2d(128)
    assert block.heads == 2
    nn.init.normal_(block.answer.weight, std=0.1)
    x = torch.randn(2, 128, 3, 4)
    with torch.no_grad():
        rows = block.ask(block.norm(x)).flatten(2).mT
        query, key, value = (part.unflatten(2, (2, 64)).transpose(1, 2) for part in rows.chunk(3, dim=2))
        found = torch.softmax(query @ key.mT / 8, dim=-1) @ value
        expected = x + block.answer(found.transpose(1, 2).flatten(2).mT.reshape(x.shape))
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("side, levels", [(0, 0), (7, 1), (8, 1), (16, 2), (512, 3)])
def test_attention_is_kept_to_low_resolution(side: int, levels: int) -> None:
    config, info = ConvConfig(width=8, bottom=8, attention=side), DataInfo(3, (56, 56))
    assert config.sizes(info)[1:] == [(28, 28), (14, 14), (7, 7)]
    for net in (config.encoder(info, 1), config.decoder(info, 1)):
        assert sum(isinstance(layer, SelfAttention2d) for layer in net.modules()) == levels


# ── The systems at their own sizes ───────────────────────────────────────────────────────────────────────────────────


def built(name: str, **changes: object) -> Autoencoder:
    recipe = load_recipe(name, changes)
    side = recipe.data.size if isinstance(recipe.data.size, int) else 512
    with torch.device("meta"):
        model = recipe.model.build(DataInfo(3, (side, side)))
    assert isinstance(model, Autoencoder)
    return model.eval()


def gigaflop(model: Autoencoder) -> float:
    """Count the operations of a reconstruction in units of 10⁹, two for each multiply-add."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        image = torch.empty(1, *model.info.shape, device="meta")
        assert model.reconstruct(image).shape == image.shape
    return counter.get_total_flops() / 1e9


def test_decoder_512_is_the_documented_one() -> None:
    model = built("decoder-512")
    assert isinstance(model.decoder, nn.Sequential)
    first, shape = model.decoder[0], model.decoder[1]
    assert isinstance(first, nn.Linear)
    assert isinstance(shape, nn.Unflatten)
    assert (first.in_features, shape.unflattened_size) == (1024, (512, 8, 8))
    ups = [layer for layer in model.decoder if isinstance(layer, UpConv)]
    assert [up.size for up in ups] == [(side, side) for side in (16, 32, 64, 128, 256, 512)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode(torch.empty(1, 3, 512, 512, device="meta"))
    assert counter.get_total_flops() / 1e9 < 1, "a cheap encoder"


@pytest.mark.parametrize("up", ["nearest", "transposed"])
def test_ae_conv_512_is_the_documented_one(up: Upsampling) -> None:
    model = built("ae-conv-512", up=up)
    downs = [layer for layer in model.encoder.modules() if isinstance(layer, DownConv)]
    widths = [3, 32, 64, 128, 256, 256, 256, 256]
    assert [(down.in_channels, down.out_channels) for down in downs] == list(itertools.pairwise(widths))
    assert {(down.kernel_size, down.stride) for down in downs} == {((5, 5), (2, 2))}
    assert 3 * 512 * 512 / model.code_shape[0] == 768


def test_the_experiment_on_faces_has_one_network() -> None:
    ae, vae = load_recipe("ae-conv-256"), load_recipe("vae-conv-256")
    assert ae.plain()["model"]["net"] == vae.plain()["model"]["net"]
    assert built("ae-conv-256").code_shape == built("vae-conv-256").code_shape == (512,)
    assert vae.monitor.patience == 2
    assert load_recipe("gan-conv-256").plain()["model"]["latent_dim"] == 512


@pytest.mark.parametrize("name", ["ae", "decoder-512", "ae-conv-512"])
def test_512_pixels_are_affordable(name: str) -> None:
    assert gigaflop(built(name)) < 30


@pytest.mark.parametrize("change", [{"up": up} for up in KINDS] + [{"patch": 2}, {"patch": 4, "attention": 8}], ids=str)
def test_each_kind_of_decoder_starts_at_the_mean(change: dict) -> None:
    model = AutoencoderConfig(net=ConvConfig.model_validate({"width": 8, **change})).build(DataInfo(3, (32, 32)))
    with torch.no_grad():
        before = model.decoder(torch.zeros(1, 64)).mean((0, 2, 3))
        mean = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1).expand(3, 32, 32)
        model.initialize_from_data(mean, lambda: mean[None])
        moved = model.decoder(torch.zeros(1, 64)).mean((0, 2, 3)) - before
    assert moved[0] < moved[1] < moved[2]
    torch.testing.assert_close(moved[2] - moved[0], 2 * torch.logit(torch.tensor(0.9)), atol=1.0, rtol=0)
