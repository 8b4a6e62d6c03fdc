from __future__ import annotations

import math

import pytest
import torch

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.models.autoencoder import AutoencoderConfig
from ectype.nets.blocks import ResidualBlock
from ectype.nets.coder import CoderConfig
from ectype.nets.teaching import DeepConvConfig, SmallConvConfig

MNIST = DataInfo(1, (28, 28))
NETS = [
    {"kind": "mlp"},
    {"kind": "mlp", "hidden": []},
    {"kind": "conv", "width": 8},
    {"kind": "conv", "width": 8, "depth": 0, "kernel": 5, "up": "transposed"},
    {"kind": "conv", "width": 8, "patch": 4, "up": "shuffle", "encoder_depth": 0, "shortcut": True},
    {"kind": "conv", "width": 8, "patch": 2, "up": "residual_shuffle", "attention": 8},
    {"kind": "small-conv"},
    {"kind": "deep-conv", "width": 2},
]
SIZES = [(9, 9), (16, 16), (28, 28), (31, 33), (64, 48), (197, 233)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("plain", NETS, ids=str)
@pytest.mark.parametrize("heads", [1, 2])
def test_every_net_returns_the_size_it_was_given(plain: dict, size: tuple[int, int], heads: int) -> None:
    info = DataInfo(3, size)
    config = CoderConfig.model_validate(plain)
    with torch.no_grad():
        features = config.encoder(info, heads).eval()(torch.rand(2, 3, *size))
        shape = config.code_shape(info)
        assert features.shape == (2, heads * shape[0], *shape[1:])
        raw = config.decoder(info, heads).eval()(torch.randn(2, *shape))
    assert raw.shape == (2, heads * 3, *size)


def test_the_reference_encoder_has_43428_parameters() -> None:
    encoder = SmallConvConfig(latent_dim=4).encoder(MNIST, 1)
    assert sum(p.numel() for p in encoder.parameters()) == 43_428


def test_the_feature_extractor_has_12544_numbers() -> None:
    assert DeepConvConfig().code_shape(MNIST) == (256, 7, 7)
    assert math.prod(DeepConvConfig().code_shape(MNIST)) == 12_544


def test_too_small_an_image_is_refused_with_the_least_size() -> None:
    with pytest.raises(ModelError, match="9×9"):
        SmallConvConfig().encoder(DataInfo(1, (8, 8)), 1)


def test_residual_blocks_start_as_the_identity() -> None:
    x = torch.randn(2, 8, 7, 9)
    torch.testing.assert_close(ResidualBlock(8, "silu")(x), x)


def test_the_linear_autoencoder_has_no_activation() -> None:
    net = CoderConfig.model_validate({"kind": "mlp", "hidden": [], "latent_dim": 20})
    encoder, decoder = net.encoder(MNIST, 1), net.decoder(MNIST, 1)
    layers = [type(m).__name__ for m in [*encoder.modules(), *decoder.modules()] if not list(m.children())]
    assert layers == ["Flatten", "Linear", "Linear", "Unflatten"]


def test_starting_at_the_mean_image() -> None:
    mean = torch.rand(3, 12, 12) * 0.8 + 0.1
    for likelihood in ({"kind": "mse"}, {"kind": "l1", "output": "linear"}, {"kind": "discretised_logistic"}):
        config = AutoencoderConfig.model_validate({"net": {"kind": "mlp"}, "likelihood": likelihood})
        model = config.build(DataInfo(3, (12, 12)))
        model.initialize_from_data(mean, lambda: mean[None])
        with torch.no_grad():
            image = model.decode(torch.zeros(1, 16))[0]
        assert float((image - mean).abs().mean()) < 0.05
        untouched = config.model_copy(update={"start_at_mean": False}).build(DataInfo(3, (12, 12)))
        untouched.initialize_from_data(mean, lambda: mean[None])
        assert float((untouched.decode(torch.zeros(1, 16))[0] - mean).abs().mean().detach()) > 0.1
