from __future__ import annotations

import math

import pytest
import torch

from ectype.errors import ModelError
from ectype.models.autoencoder import AutoencoderConfig
from ectype.nets.blocks import Down, Residual, Up, halved
from ectype.nets.coder import CoderConfig
from ectype.nets.conv import ConvConfig
from ectype.nets.reference import DeepConvConfig, SmallConvConfig
from ectype.sections import DataInfo

MNIST = DataInfo(1, (28, 28))
NETS = [
    {"kind": "mlp"},
    {"kind": "mlp", "hidden": []},
    {"kind": "conv", "width": 8},
    {"kind": "conv", "width": 8, "depth": 0},
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
    assert config.code_numbers(info) == math.prod(shape)


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


def test_the_reference_encoder_has_43428_parameters() -> None:
    encoder = SmallConvConfig(latent_dim=4).encoder(MNIST, 1)
    assert sum(p.numel() for p in encoder.parameters()) == 43_428


def test_the_feature_extractor_has_12544_numbers() -> None:
    assert DeepConvConfig().code_shape(MNIST) == (256, 7, 7)
    assert DeepConvConfig().code_numbers(MNIST) == 12_544


def test_too_small_an_image_is_refused_with_the_least_size() -> None:
    with pytest.raises(ModelError, match="9×9"):
        SmallConvConfig().encoder(DataInfo(1, (8, 8)), 1)


def test_upsampling_draws_no_checkerboard() -> None:
    """A fresh block on constant input gives a constant, away from the padded border."""
    torch.manual_seed(0)
    out = Up(8, 4, (16, 16))(torch.ones(1, 8, 8, 8))[:, :, 2:-2, 2:-2].detach()
    assert float((out - out.mean((2, 3), keepdim=True)).abs().max()) < 1e-6
    checkered = torch.nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)(torch.ones(1, 8, 8, 8))[
        :, :, 2:-2, 2:-2
    ].detach()
    assert float(checkered.std((2, 3)).mean()) > 1e-2, "the comparison must be able to fail"


def test_residual_blocks_start_as_the_identity_and_down_halves() -> None:
    x = torch.randn(2, 8, 7, 9)
    torch.testing.assert_close(Residual(8, "silu")(x), x)
    assert Down(8, 4)(x).shape[2:] == halved((7, 9)) == (4, 5)


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
        model.start_from(mean)
        with torch.no_grad():
            shown = model.decode(torch.zeros(1, 16))[0]
        assert float((shown - mean).abs().mean()) < 0.05
        untouched = config.model_copy(update={"start_at_mean": False}).build(DataInfo(3, (12, 12)))
        untouched.start_from(mean)
        assert float((untouched.decode(torch.zeros(1, 16))[0] - mean).abs().mean().detach()) > 0.1
