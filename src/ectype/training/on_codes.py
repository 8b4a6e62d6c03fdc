"""The recipe of a model that is trained on the codes of another run's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ectype.config.recipe import Recipe, load_recipe
from ectype.config.schema import Augment
from ectype.core.errors import ModelError
from ectype.models.base import Encodes, is_trained_to_encode
from ectype.models.latent_space import LatentSpaceConfig, LearnsCodesConfig
from ectype.runs.load import load
from ectype.runs.run_dir import RunDir

__all__ = ["autoencoder_run", "recipe_after_autoencoder", "recipe_on_codes", "trains_autoencoder"]


def recipe_on_codes(recipe: Recipe, run: RunDir, overrides: Sequence[str] | Mapping[str, Any]) -> Recipe:
    """Return a recipe that trains on the codes of a run's model, on the run's images."""
    place, trained = run.path.resolve(), run.selected_attempt.recipe
    # Refuse a model that cannot be trained on codes before the run's model is loaded.
    recipe.model.on_encoder_run(place, trained.model)
    model = load(run.path, device="cpu")
    if not (isinstance(model, Encodes) and is_trained_to_encode(model)):
        raise ModelError(f"the model of '{run.path}' has no codes of its own: give the run of an autoencoder.")
    # The size is the model's, also if the images change later.
    same = {"size": model.info.size, "channels": model.info.channels}
    # An autoencoder may learn from mirrored images, but samples should look like the images.
    data = trained.data.model_copy(update={**same, "augment": Augment()})
    suited = recipe.model_copy(update={"data": data, "model": recipe.model.on_codes(tuple(model.code_shape))})
    found = load_recipe(suited.plain(), overrides)
    # Last, so that no override can change the autoencoder.
    return found.model_copy(update={"model": found.model.on_encoder_run(place, trained.model)})


def trains_autoencoder(recipe: Recipe) -> bool:
    """Return whether a recipe asks for an autoencoder that is trained first, within the same run."""
    return isinstance(recipe.model, LearnsCodesConfig) and recipe.model.autoencoder != "none"


def autoencoder_run(recipe: Recipe, run: RunDir) -> RunDir | None:
    """Return the run of the autoencoder that is trained first, inside of a run; None if the recipe asks for none."""
    return RunDir(run.autoencoder) if trains_autoencoder(recipe) else None


def recipe_after_autoencoder(recipe: Recipe, run: RunDir) -> Recipe:
    """Return the recipe with what is known only when its autoencoder is trained: its weights, and the minutes left.

    Args:
        recipe: The recipe of a model of codes.
        run: The run of its autoencoder.
    """
    assert isinstance(recipe.model, LatentSpaceConfig)
    assert recipe.model.coder.model is not None
    share = 1 - recipe.model.autoencoder_share
    minutes = recipe.train.minutes_on_codes(share, run.summary().get("seconds", 0.0))
    return recipe.model_copy(
        update={
            "model": recipe.model.on_encoder_run(run.path, recipe.model.coder.model),
            "train": recipe.train.model_copy(update={"minutes": minutes}),
        }
    )
