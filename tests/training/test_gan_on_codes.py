"""The presets `gan` and `cgan` learn codes of an autoencoder of large images, and pixels of small ones."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import ectype
from ectype.analysis.diagnose.advice import advice_for_verdict
from ectype.config.recipe import Recipe, load_recipe
from ectype.models.gan import Generator, GeneratorModelConfig
from ectype.models.latent_space import LatentSpaceConfig, LatentSpaceModel
from ectype.nets.critics import MLPCriticConfig
from ectype.nets.generators import MLPGeneratorConfig
from ectype.objectives.adversarial import AdversarialConfig
from ectype.training.autoencoder_first import choose_codes
from ectype.training.run import train
from tests.conformance.small import small

LARGE = {"data.size": 40, "split.duplicates": "ignore"}


def chosen(name: str = "gan", has_weights: bool = False, **changes: object) -> tuple[Recipe, str]:
    said = StringIO()
    recipe = load_recipe(name, {"data.source": "digits", **LARGE, **changes})
    return choose_codes(recipe, Console(file=said, width=200), has_weights=has_weights), said.getvalue()


@pytest.mark.parametrize("name", ["gan", "cgan"])
def test_large_images_are_learned_as_codes(name: str) -> None:
    recipe, said = chosen(name)
    model, objective = recipe.model, recipe.objective
    assert isinstance(model, LatentSpaceConfig)
    assert isinstance(model.inner, GeneratorModelConfig)
    assert (model.autoencoder, model.inner.autoencoder) == ("ae", "none")
    assert isinstance(model.inner.net, MLPGeneratorConfig)
    assert isinstance(objective, AdversarialConfig)
    assert isinstance(objective.adversary.critic, MLPCriticConfig)
    assert "learns pixels" not in said
    assert choose_codes(recipe, None) == recipe, "the run's own recipe continues the run"


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"data.size": 32}, ""),
        ({"model.autoencoder": "none"}, ""),
        ({"model.net.width": 16}, "model.net"),
        ({"objective.adversary.critic.width": 16}, "objective.adversary.critic"),
        ({"objective.adversary.augment.policy": ["cutout"]}, "objective.adversary.augment"),
    ],
)
def test_pixels_are_learned_where_codes_would_ignore_a_setting(changes: dict[str, object], reason: str) -> None:
    recipe, said = chosen(**changes)
    assert isinstance(recipe.model, GeneratorModelConfig)
    assert recipe.model.autoencoder == "none"
    assert (f"learns pixels, since {reason} was set" in said) == bool(reason)


def test_initial_weights_are_those_of_a_gan_of_pixels() -> None:
    recipe, said = chosen(has_weights=True)
    assert isinstance(recipe.model, GeneratorModelConfig)
    assert "since --from was set" in said


def test_codes_are_not_augmented_by_advice() -> None:
    for recipe, expected in ((chosen()[0], False), (chosen(**{"model.autoencoder": "none"})[0], True)):
        advice = advice_for_verdict(recipe, "collapsed", 3)
        assert any("augment" in key for each in advice for key in each.overrides) is expected
        assert all(recipe.override(each.overrides) for each in advice), "advice fits the recipe of the run"


@pytest.mark.trains
@pytest.mark.parametrize("name", ["gan", "cgan"])
def test_autoencoder_and_generator_are_one_model(name: str, tmp_path: Path) -> None:
    changes = {"model.autoencoder": "ae", "monitor.features": "pixels", "monitor.images": 100}
    recipe = small(name, **{**changes, "train.images": 640, "monitor.every": 320, "run.pictures": 4})
    run = train(recipe, out=tmp_path / "run")
    model = ectype.load(run.path, device="cpu")
    assert isinstance(model, LatentSpaceModel)
    assert isinstance(model.inner, Generator)
    assert model.conditional is (name == "cgan")
    label = torch.arange(4) if model.conditional else None
    first, again = (model.sample(4, label=label, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape[1:] == model.info.shape
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    ectype.sample(run.path, 4, out=tmp_path / "samples.png")
    assert np.asarray(Image.open(tmp_path / "samples.png")).std() > 0
