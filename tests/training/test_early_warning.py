"""The warning about equal reconstructions: only when more training will not make them different."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ectype.config.recipe import Recipe, load_recipe
from ectype.data.dataset import open_store
from ectype.data.loader import Loader
from ectype.data.prepare import prepare
from ectype.training.early_warning import EarlyWarning
from ectype.training.loop import Check
from ectype.training.trainer import Trainer


class Faint(nn.Module):
    """Returns images at a contrast that can be set."""

    contrast = 1.0

    def reconstruct(self, image: Tensor) -> Tensor:
        return self.contrast * image


class StandIn(Trainer):
    """Has what the warning reads of a trainer."""

    def __init__(self, recipe: Recipe, model: nn.Module) -> None:
        self.recipe, self.budget, self._model = recipe, 1000, model

    @property
    def model(self) -> nn.Module:
        return self._model


@pytest.mark.parametrize(
    "steps, ratios, warned",
    [
        ((100, 200, 300), (0.001, 0.001, 0.001), True),
        ((50, 100, 150), (0.001, 0.001, 0.001), False),  # too early to say
        ((200, 300, 400), (0.02, 0.04, 0.08), False),  # they are becoming different
        ((200, 300, 400), (0.0001, 0.001, 0.002), True),  # noise around 0
        ((200, 300, 400), (0.5, 0.05, 0.5), False),
    ],
)
def test_it_warns_once_of_outputs_that_stay_alike(
    steps: tuple[int, ...], ratios: tuple[float, ...], warned: bool
) -> None:
    recipe = load_recipe("vae-mlp", {"data.source": "digits", "data.size": 8})
    store = open_store(prepare(recipe.data), recipe.data)
    held_out = Loader(store.split("val"), recipe.data, torch.device("cpu"), training=False)
    said: list[str] = []
    warning, model = EarlyWarning(held_out, store.info, said.append), Faint()
    trainer = StandIn(recipe, model)
    for step, ratio in zip(steps, ratios, strict=True):
        model.contrast = ratio**0.5
        warning.checked(trainer, Check(step, step, {}, False, False))
    assert [("nearly identical" in line) for line in said] == [True] * warned
