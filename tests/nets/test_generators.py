from __future__ import annotations

import pytest
import torch
from torch import nn

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.nets.critics import ConvCriticConfig, MLPCriticConfig
from ectype.nets.generators import ConvGeneratorConfig, MLPGeneratorConfig
from ectype.nets.resampling import Upsampling

MNIST = DataInfo(1, (28, 28), classes=tuple("0123456789"))
SIZES = [(8, 8), (9, 11), (16, 16), (28, 28), (31, 33), (64, 48), (100, 37), (512, 512)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_convolutional_players_take_any_size(size: tuple[int, int], channels: int) -> None:
    info = DataInfo(channels, size)
    with torch.no_grad():
        fake = ConvGeneratorConfig(width=4, max_width=8, depth=1).build(5, info)(torch.randn(2, 5))
        assert fake.shape == (2, channels, *size)
        critic = ConvCriticConfig(width=4, max_width=8, depth=1).build(channels, size, 3)
        assert critic(fake, torch.randn(2, 3)).shape == (2, critic.num_features)


def layers(net: nn.Module) -> list[tuple[int, int]]:
    return [(layer.in_features, layer.out_features) for layer in net.modules() if isinstance(layer, nn.Linear)]


def test_the_documented_fully_connected_players() -> None:
    for preset, noise, num_labels in (("gan-mlp", 64, 0), ("cgan-mlp", 100, 10)):
        recipe = load_recipe(preset)
        model = recipe.model.build(MNIST)
        assert layers(model) == [(noise + num_labels, 256), (256, 256), (256, 784)]
        objective = recipe.objective.build(model, MNIST, images=1000)
        critic = objective.players["critic"]
        assert layers(critic) == [(784 + num_labels, 256), (256, 256), (256, 1)]
        kinds = [type(layer).__name__ for layer in critic.modules() if not list(layer.children())]
        assert kinds.count("LeakyReLU") == 2
        assert [layer.negative_slope for layer in critic.modules() if isinstance(layer, nn.LeakyReLU)] == [0.2, 0.2]
        with torch.no_grad():
            label = torch.arange(3) if num_labels else None
            assert model.sample(3, label=label).shape == (3, 1, 28, 28)


def test_fully_connected_nets_take_extra_numbers() -> None:
    critic = MLPCriticConfig(hidden=(16,)).build(1, (4, 4), 2)
    image, extra = torch.rand(3, 1, 4, 4), torch.rand(3, 2)
    assert critic(image, extra).shape == (3, 16)
    assert not torch.equal(critic(image, extra), critic(image, extra + 1))
    assert MLPGeneratorConfig(hidden=()).build(7, DataInfo(3, (4, 6)))(torch.rand(2, 7)).shape == (2, 3, 4, 6)


def test_no_normalisation_whose_statistics_a_penalty_would_fight() -> None:
    critic = ConvCriticConfig(depth=1).build(3, (32, 32), 0)
    assert not [layer for layer in critic.modules() if "Norm" in type(layer).__name__]


@pytest.mark.parametrize("up", ["nearest", "transposed", "shuffle", "residual_shuffle"])
def test_fresh_generators_draw_no_checkerboard_but_by_transposed_convolution(up: Upsampling) -> None:
    """Away from the border a constant map stays constant through every level."""
    net = ConvGeneratorConfig(width=8, max_width=8, depth=0, up=up).build(4, DataInfo(1, (64, 64)))
    assert isinstance(net, nn.Sequential)
    with torch.no_grad():
        image = net[1:](torch.ones(1, 8, 8, 8))[0, 0, 24:40, 24:40]
    relative_std = float(image.std() / image.abs().max())
    assert relative_std > 1e-2 if up == "transposed" else relative_std < 1e-5


@pytest.mark.parametrize("up", ["transposed", "shuffle", "residual_shuffle"])
def test_generators_of_every_kind_reach_odd_sizes(up: Upsampling) -> None:
    net = ConvGeneratorConfig(width=4, max_width=8, up=up).build(5, DataInfo(3, (31, 45)))
    assert net(torch.randn(2, 5)).shape == (2, 3, 31, 45)
