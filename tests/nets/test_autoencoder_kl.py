"""Compares the AutoencoderKL of diffusers with its use as a network of ectype."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError, RecipeError
from ectype.models.autoencoder import AutoencoderConfig, GaussianAutoencoder
from ectype.models.base import evaluating
from ectype.models.bottlenecks import GaussianBottleneckConfig
from ectype.nets.autoencoder_kl import KLConfig, KLDecoder, KLEncoder
from tests.export.kl import GROUPS, SHAPE, made

pytest.importorskip("diffusers")


def ours(size: tuple[int, int] = (16, 24), channels: int = 3, **keys: Any) -> GaussianAutoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig.model_validate(
        {
            "net": KLConfig(**{**SHAPE, **GROUPS, **keys}),
            "bottleneck": {"kind": "gaussian"},
            "likelihood": {"kind": "mse", "output": "linear"},
        }
    )
    model = config.build(DataInfo(channels, size))
    assert isinstance(model, GaussianAutoencoder)
    return model


def filled(model: GaussianAutoencoder, theirs: Any) -> GaussianAutoencoder:
    for part in (model.encoder, model.decoder):
        part.load_state_dict({name: theirs.state_dict()[name] for name in part.state_dict()})
    return model


@pytest.mark.parametrize("keys", [{}, {"use_quant_conv": False, "use_post_quant_conv": False}], ids=["plain", "bare"])
def test_codes_and_images_are_those_of_diffusers(keys: dict[str, Any]) -> None:
    theirs, image = made(**keys), torch.rand(2, 3, 16, 24)
    model = filled(ours(**keys), theirs)
    names = {name for part in (model.encoder, model.decoder) for name in part.state_dict()}
    assert names == set(theirs.state_dict())
    with evaluating(model):
        found, expected = model.posterior(image), theirs.encode(2 * image - 1).latent_dist
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.log_variance, expected.logvar)
        assert torch.equal(found.sigma, expected.std)
        torch.testing.assert_close(model.decode_unclamped(found.mean), (theirs.decode(expected.mean).sample + 1) / 2)


def test_a_log_variance_is_bounded_and_a_kl_summed_as_in_diffusers() -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    params = torch.cat([torch.randn(4, 3, 2, 2), 25 * torch.randn(4, 3, 2, 2)], dim=1)
    found, expected = (GaussianBottleneckConfig().build((3, 2, 2)), DiagonalGaussianDistribution(params))
    coded = found(params, lambda *shape: torch.zeros(shape))
    assert expected.logvar.min() == -30
    assert expected.logvar.max() == 20
    torch.testing.assert_close(coded.penalties["KL"].sum((1, 2, 3)), expected.kl())


def test_sides_must_be_whole_numbers_of_places() -> None:
    net = KLConfig(block_out_channels=(8, 8, 8, 8))
    assert net.code_shape(DataInfo(3, (32, 64))) == (4, 4, 8)
    with pytest.raises(ModelError, match=r"size=100 is not a multiple of 8.* such as 96 or 104\.$"):
        net.code_shape(DataInfo(3, (100, 64)))
    with pytest.raises(ModelError, match=r"size=6 is not a multiple of 8.* such as 8\.$"):
        net.code_shape(DataInfo(3, (6, 8)))


def test_groups_must_divide_channels() -> None:
    with pytest.raises(RecipeError, match="norm_num_groups=8 does not divide the 12 channels"):
        load_recipe("vae-kl", ["block_out_channels=[16, 12]"])


def test_an_identity_bottleneck_gets_no_log_variances() -> None:
    model = AutoencoderConfig(net=KLConfig(**SHAPE, **GROUPS)).build(DataInfo(1, (16, 16)))
    assert model.encode(torch.rand(2, 1, 16, 16)).shape == (2, 3, 8, 8)


def test_the_decoder_starts_near_the_mean_image() -> None:
    model, mean = ours(channels=1), torch.full((1, 16, 24), 0.8)
    with evaluating(model):
        before = model.decode_unclamped(torch.zeros(1, *model.code_shape))
        model.initialize_from_data(mean, lambda: mean[None])
        after = model.decode_unclamped(torch.zeros(1, *model.code_shape))
    bias = model.decoder.get_parameter("decoder.conv_out.bias")
    assert bias.item() == pytest.approx(0.6)
    torch.testing.assert_close(after - before, torch.full_like(after, float((after - before).mean())))


def test_the_last_layer_is_the_decoders_last() -> None:
    model = ours()
    assert model.last_layer is model.decoder.get_parameter("decoder.conv_out.weight")


def test_a_kept_encoder_has_no_gradient_and_stays_in_evaluation_mode() -> None:
    model = ours(train="decoder").train()
    assert isinstance(model.encoder, KLEncoder)
    assert isinstance(model.decoder, KLDecoder)
    assert not any(module.training for module in model.encoder.modules())
    assert all(module.training for module in model.decoder.modules())
    model.decode(model.encode(torch.rand(2, 3, 16, 24))).mean().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.decoder.parameters())
    with pytest.raises(ModelError, match="train=decoder would freeze a randomly initialized encoder: give --from"):
        model.encoder.check_trainable_from_scratch()
    trainable = ours().encoder
    assert isinstance(trainable, KLEncoder)
    trainable.check_trainable_from_scratch()


def test_names_of_earlier_versions_are_understood() -> None:
    model, found = ours(), made().state_dict()
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(name: str) -> str:
        for new, was in earlier.items():
            name = name.replace(f".{new}.", f".{was}.")
        return name

    renamed: dict[str, Tensor] = {old(name): value for name, value in found.items()}
    assert renamed.keys() != found.keys()
    assert isinstance(model.encoder, KLEncoder)
    back = model.encoder.upgrade_keys(renamed)
    assert all(torch.equal(back[name], value) for name, value in found.items())


def test_without_diffusers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.vae", None)
    with pytest.raises(ModelError, match=r"net=diffusers needs diffusers: pip install 'ectype\[diffusers\]'\.$"):
        ours()
