"""A model of codes and its autoencoder by one command: the autoencoder is trained first, as a run inside of that run.

A recipe asks for it by `model.autoencoder`. The shape of the codes follows from the images, so that the recipe is
complete, and the run has its recipe, before the autoencoder is trained.
"""

from __future__ import annotations

from functools import reduce

import torch
from rich.console import Console

from ectype.config.recipe import Recipe, load_recipe, preset_names
from ectype.config.schema import Augment, DataInfo
from ectype.core.console import doing, progress_line, say
from ectype.core.distributed import World
from ectype.core.environment import environment
from ectype.core.errors import ModelError, RecipeError, did_you_mean
from ectype.core.meta_device import meta_device
from ectype.data.prepare import prepare
from ectype.models.base import Encodes, is_trained_to_encode
from ectype.models.latent_space import FrozenCoderConfig, LatentSpaceConfig, LearnsCodesConfig
from ectype.runs import checkpoint
from ectype.runs.load import check_same_recipe
from ectype.runs.run_dir import RunDir
from ectype.training.inner_run import CODES_PER_IMAGE, inner_budget, train_inner_run
from ectype.training.on_codes import autoencoder_run, recipe_after_autoencoder
from ectype.training.trainer import Diverged

__all__ = ["autoencoder_recipe", "choose_codes", "train_autoencoder"]

AUTO_PRESET = "ae"
MAX_PIXEL_SIDE = 32
"""Images with a longer side are modelled by their codes, if the recipe leaves it open."""


def choose_codes(recipe: Recipe, console: Console | None, *, has_weights: bool = False) -> Recipe:
    """Return the recipe with the autoencoder that is trained first, and with an inner model that suits its codes.

    A recipe that has these already stays as it is, so that a run's own recipe continues the run.

    Args:
        recipe: A resolved recipe. Its images are prepared if it leaves the choice to their size.
        console: Where progress is printed; None prints nothing.
        has_weights: Whether initial weights were given, which a GAN that learns pixels can start from.

    Raises:
        RecipeError: `model.autoencoder` is no preset.
        ModelError: It has no codes, or the model cannot be built on them.
    """
    model = recipe.model
    if not isinstance(model, LearnsCodesConfig) or model.autoencoder == "none":
        return recipe
    info = prepare(recipe.data, progress=progress_line(console)).info
    name = model.autoencoder
    if name == "auto":
        name = "none" if max(info.size) <= MAX_PIXEL_SIDE else AUTO_PRESET
        if name != "none" and (settings := _pixel_settings(recipe, has_weights)):
            say(
                console, f"{recipe.about.name} learns pixels, since {settings[0]} was set (autoencoder=ae: learn codes)"
            )
            name = "none"
    if name == "none":
        return recipe.model_copy(update={"model": model.model_copy(update={"autoencoder": name})})
    model = model.with_autoencoder(name)
    config = model.coder.model or _preset(name).model
    with meta_device():
        coder = config.build(info)
    if not (isinstance(coder, Encodes) and is_trained_to_encode(coder)):
        raise ModelError(f"model.autoencoder={name} has no codes of its own: name the preset of an autoencoder.")
    shape = tuple(coder.code_shape)
    found = model.on_codes(shape).model_copy(update={"coder": FrozenCoderConfig(model=config)})
    complete = recipe.model_copy(update={"model": found, "objective": recipe.objective.on_codes(shape)})
    _check_buildable(complete, info)
    return complete


def _pixel_settings(recipe: Recipe, has_weights: bool) -> list[str]:
    """Return what was changed in a preset that only a model of pixels uses."""
    sections = {"model": recipe.model.only_for_pixels, "objective": recipe.objective.only_for_pixels}
    names = [f"{section}.{key}" for section, keys in sections.items() for key in keys]
    if not names:
        return []
    if has_weights:
        return ["--from"]
    if recipe.about.name not in preset_names():
        return []
    default = load_recipe(recipe.about.name)
    return [name for name in names if _setting(recipe, name) != _setting(default, name)]


def _setting(recipe: Recipe, name: str) -> object:
    return reduce(getattr, name.split("."), recipe)


def _preset(name: str) -> Recipe:
    if name not in preset_names():
        raise RecipeError(
            f"model.autoencoder={name} is no preset; {did_you_mean(name, preset_names())} For your own recipe, "
            "train it first, and give its run instead of images."
        )
    return load_recipe(name)


def _check_buildable(recipe: Recipe, info: DataInfo) -> None:
    """Raise the errors of building the model before its autoencoder is trained."""
    with meta_device():
        recipe.objective.build(recipe.model.build(info), info, images=recipe.train.images)


def autoencoder_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the autoencoder that is trained before a model of its codes.

    It is the preset with the sections `data` and `run`, the seed and a part of the budget of the model's recipe. The
    preset's augmentation stays, unless the model's recipe has one.

    Args:
        recipe: A recipe from `choose_codes`.
    """
    model, train = recipe.model, recipe.train
    assert isinstance(model, LatentSpaceConfig)
    assert model.coder.model is not None
    preset, share = _preset(model.autoencoder), model.autoencoder_share
    minutes = None if train.minutes is None else train.minutes * share
    budget = inner_budget(train, minutes, share / (1 - share) / CODES_PER_IMAGE)
    # Samples are drawn from the model of the codes, so that the autoencoder needs no prior of its own.
    found = preset.override({**budget, "train.seed": train.seed, "train.prior": "none"})
    augment = preset.data.augment if recipe.data.augment == Augment() else recipe.data.augment
    data = recipe.data.model_copy(update={"augment": augment})
    return found.model_copy(update={"data": data, "model": model.coder.model, "run": recipe.run})


def train_autoencoder(recipe: Recipe, run: RunDir, device: torch.device, world: World, console: Console | None) -> None:
    """Train the autoencoder of a run, or continue training it, unless the run's own training has begun.

    Args:
        recipe: The recipe of the run, from `choose_codes`.
        run: The run, which has its recipe from now on.
        device: Where to train.
        world: The processes that share the work.
        console: Where progress is printed; None prints nothing.

    Raises:
        RunError: The autoencoder was started with another recipe.
        EctypeError: It cannot be trained.
    """
    inner = autoencoder_run(recipe, run)
    if inner is None or world.broadcast(run.training_ended or bool(checkpoint.checkpoint_dirs(run.checkpoints))):
        return
    first = autoencoder_recipe(recipe)
    if world.is_first:
        if inner.claim():
            check_same_recipe(inner, first, console)
        if not run.recipe_file.is_file():
            run.write_start(recipe, environment(device))
        if not inner.training_ended:
            say(console, _first_sentence(recipe, first))
    try:
        train_inner_run(first, inner, device, world, console)
    except Diverged as error:
        if world.is_first:
            run.write_summary({"state": "failed", "reason": f"autoencoder: {error}"})
        raise
    finally:
        if world.is_first:
            inner.remove_if_not_started()
            if not inner.path.exists():
                run.recipe_file.unlink()  # nothing was trained: it is no run yet
    if world.is_first:
        left = recipe_after_autoencoder(recipe, inner).train.minutes
        part = f"{recipe.train.images:,} images" if left is None else f"{left:.3g} minutes are left"
        say(console, f"training {recipe.about.name} on the codes of {inner.path} ({part})")
        doing(console, "loading the autoencoder")


def _first_sentence(recipe: Recipe, first: Recipe) -> str:
    """Return what is trained with which part of the budget."""
    assert isinstance(recipe.model, LatentSpaceConfig)
    part = f"{first.train.images:,} images"
    if recipe.train.minutes is not None:
        part = f"{first.train.minutes:.3g} of {recipe.train.minutes:.3g} minutes"
    return f"training an autoencoder first ({part}), then the {recipe.model.inner.kind} on its codes"
