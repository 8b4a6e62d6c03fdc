from __future__ import annotations

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ectype.analysis.cost import cost, layers
from ectype.config.recipe import load_recipe, preset_names
from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError, TrainingError
from ectype.models.base import Encodes, Model, Reconstructs, Samples
from ectype.models.flop import count_flops
from ectype.training.step_memory import step_memory


class Convolving(Model):
    def __init__(self) -> None:
        super().__init__(DataInfo(3, (8, 10)))
        self.layer = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.back = nn.ConvTranspose2d(5, 3, 2, stride=2)

    def reconstruct(self, image: Tensor) -> Tensor:
        return self.back(self.layer(image))


class Attending(Model):
    def __init__(self) -> None:
        super().__init__(DataInfo(4, (6, 6)))
        self.weight = nn.Parameter(torch.ones(1))

    def reconstruct(self, image: Tensor) -> Tensor:
        tokens = image.flatten(2).transpose(1, 2)[:, None] * self.weight
        return F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].transpose(1, 2).view_as(image)


class Idle(Model):
    def __init__(self) -> None:
        super().__init__(DataInfo(1, (4, 4)))


def test_arithmetic_is_two_for_each_multiply_add() -> None:
    # 5·3·3·3 multiply-adds for each of 4·5 places, then 5·3 for each of 8·10.
    assert count_flops(Convolving()) == ("reconstruct", 2 * (20 * 135 + 80 * 15))
    # Two products of 36×4 and 36×36 matrices, whatever kernel attention would use.
    assert count_flops(Attending()) == ("reconstruct", 2 * 2 * 36 * 36 * 4)
    assert count_flops(Idle()) is None


def test_counting_leaves_a_model_in_training() -> None:
    model = Convolving().train()
    count_flops(model)
    assert model.layer.training


def test_the_linear_autoencoder_by_hand() -> None:
    found = cost(load_recipe("ae-linear", {"size": 28, "channels": 1}))
    assert found.parameters == 784 * 20 + 20 + 20 * 784 + 784
    assert found.flop == 2 * 2 * 784 * 20
    assert (found.code_elements, found.assumed) == (20, False)
    assert found.lines() == [
        "At 28×28 px, 1 channel:",
        "parameters: 32,164",
        "GFLOP per image: 6.272e−05 (reconstruct; 2 per multiply-add)",
        "compression: 784 image values ÷ 20 code dimensions = 39.20",
    ]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_states_what_it_costs(name: str) -> None:
    found = cost(load_recipe(name))
    assert found.flop is not None
    assert found.flop > 0
    assert found.players, "every player can be counted without weights that others trained"
    assert found.parameters <= sum(found.players.values())
    assert found.operation in ("reconstruct", "sample", "translate")


@pytest.mark.parametrize("name", ["ae", "cgan", "vae-mlp"])
def test_what_is_stated_is_that_of_the_real_model(name: str) -> None:
    recipe = load_recipe(name, {"size": 16, "channels": 1})
    found, info = cost(recipe), DataInfo(1, (16, 16), tuple("0123456789"), (0.1,) * 10)
    model = recipe.model.build(info)
    objective = recipe.objective.build(model, info, images=100)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.players == {
        player: sum(p.numel() for p in module.parameters()) for player, module in objective.players.items()
    }
    assert count_flops(model) == (found.operation, found.flop)
    assert (found.operation == "reconstruct") == isinstance(model, Reconstructs)
    assert isinstance(model, Samples)
    assert (found.code_elements is None) == (not isinstance(model, Encodes))
    if isinstance(model, Encodes):
        assert found.code_elements == math.prod(model.code_shape)
    said = "\n".join(found.lines())
    assert ("players: " in said) == (len(found.players) > 1)
    assert "At 16×16 px, 1 channel:" in said


def test_nothing_is_drawn_or_computed() -> None:
    found = cost(load_recipe("vae-mlp", {"hidden": 4 * [16_384], "size": 16, "channels": 1}))
    assert found.parameters > 6 * 16_384**2  # 6 GB


def test_the_size_is_the_recipes_or_said_to_be_assumed() -> None:
    open_ = cost(load_recipe("ae", {"size": "auto"}))
    assert open_.info.shape == (3, 64, 64)
    assert "the images decide" in open_.lines()[0]
    large = cost(load_recipe("ae", {"size": [96, 128], "channels": 3}))
    assert large.lines()[0] == "At 128×96 px, 3 channels:"
    assert large.flop > 2 * open_.flop
    with pytest.raises(ModelError, match="at least 9×9"):
        cost(load_recipe("ae-conv", {"size": 8}))


def test_layers_are_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchinfo")
    said = layers(load_recipe("ae-conv", {"size": 28, "channels": 1}))
    rows = [line for line in said.splitlines() if "Conv2d:" in line]
    assert len(rows) == 3
    assert all(size in row for size, row in zip(("14, 14", "7, 7", "3, 3"), rows, strict=True))
    assert "1,168" in rows[1]  # 16·(8·3·3 + 1)
    assert "=" not in said
    monkeypatch.setitem(sys.modules, "torchinfo", None)
    with pytest.raises(ModelError, match=r"--layers needs torchinfo: pip install 'ectype\[layers\]'"):
        layers(load_recipe("ae-conv"))


@pytest.mark.slow
def test_memory_of_a_step_is_measured() -> None:
    changes = {"size": 16, "channels": 1, "run.device": "cpu", "train.ema_images": 0}
    recipe = load_recipe("vae-mlp", {**changes, "hidden": [4000, 4000]})
    found, weights = step_memory(recipe), 4 * cost(recipe).parameters
    # Weights, gradients and two moments, and a few things beside.
    assert 3.8 * weights < found.peak - found.before < 6 * weights
    assert found.images == 1
    assert "with 1 image at a time" in found.line()


@pytest.mark.slow
def test_memory_is_measured_with_as_many_images_as_a_net_needs_and_errors_are_told() -> None:
    packed = load_recipe("gan-mlp", {"size": 8, "channels": 1, "pack": 2, "run.device": "cpu"})
    assert step_memory(packed).images == 2
    with pytest.raises(TrainingError, match=r"ModelError.*at least 9×9"):
        step_memory(load_recipe("ae-conv", {"size": 8, "run.device": "cpu"}))
