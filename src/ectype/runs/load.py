"""Load the model of a run or from elsewhere, save a checkpoint as the model of its run, and open a recipe's images."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from ectype.config.recipe import Recipe, differences, load_recipe
from ectype.config.schema import DataConfig
from ectype.core.console import progress_line, say
from ectype.core.distributed import choose_device
from ectype.core.errors import CheckpointError, DataError, EctypeWarning, ModelError, RunError, did_you_mean
from ectype.core.safe_loading import path_inside, read_json
from ectype.data.dataset import ImageStore, open_store
from ectype.data.loader import Loader, evaluation_batches
from ectype.data.prepare import Prepared, prepare
from ectype.models.base import Model, evaluating
from ectype.models.densities import DENSITIES, Density, fit_density
from ectype.objectives.base import Objective
from ectype.runs import checkpoint
from ectype.runs.locate import locate_run
from ectype.runs.model_files import CodeSampler, load_model, save_model, store_density
from ectype.runs.run_dir import RunDir

__all__ = [
    "OpenData",
    "check_same_recipe",
    "density_of",
    "images_are_gone",
    "load",
    "move_images",
    "open_data",
    "open_run_images",
    "promote_attempt",
    "recipe_of",
    "ship_checkpoint",
    "trained_on",
]

OpenData = Callable[[DataConfig], tuple[Prepared, ImageStore]]
"""Opens the images of a recipe; a training session passes one that returns what it holds open already."""

MAX_DENSITY_CODES = 10_000
"""Maximum number of images whose codes a density is fitted to."""
MAX_DENSITY_ELEMENTS = 50_000_000
"""Maximum number of elements of these codes together."""


def open_data(config: DataConfig, console: Console | None = None) -> tuple[Prepared, ImageStore]:
    """Prepare images, or find them in the cache, and open them.

    Args:
        config: The data section of a recipe.
        console: Where a summary of the images is printed; None prints nothing.
    """
    prepared = prepare(config, progress=progress_line(console))
    for line in (prepared.summary, *(f"  {note}" for note in filter(None, (*prepared.notes, prepared.checked)))):
        say(console, line)
    return prepared, open_store(prepared, config)


def open_run_images(run: RunDir, opener: OpenData = open_data) -> tuple[Prepared, ImageStore]:
    """Open the images that a run was trained on.

    Raises:
        DataError: They cannot be used, or are not where they were.
    """
    config = run.recipe.data
    try:
        return opener(config)
    except DataError as error:
        if not images_are_gone(config):
            raise
        raise DataError(
            f"the images of '{run.path}' are not at '{config.source}' any more: give their new place once, by "
            f"`ectype evaluate {run.path} --data NEW`."
        ) from error


def images_are_gone(config: DataConfig) -> bool:
    """Return whether images are at a path that does not exist (any more)."""
    path = Path(config.source or "")
    return path.is_absolute() and not path.exists()


def trained_on(run: RunDir) -> str | None:
    """Return the fingerprint of the images that a run was trained on; None if no checkpoint says so."""
    own = checkpoint.checkpoint_dirs(run.selected_attempt.checkpoints)
    for place in reversed(own or checkpoint.checkpoint_dirs(RunDir(run.autoencoder).checkpoints)):
        with suppress(CheckpointError):
            return checkpoint.load_state(place).get("fingerprint")
    return None


def move_images(run: RunDir, source: str | Path, console: Console | None = None) -> None:
    """Store in a run, in its further attempts, and in the runs inside of it, where its images are now.

    Args:
        run: The run.
        source: The new place of the same images.
        console: Where progress is printed; None prints nothing.

    Raises:
        DataError: There are no usable images at the new place.
        RunError: They are not the images that the run was trained on.
    """
    text = str(Path(source).resolve()) if Path(source).exists() else str(source)
    recipe, known = run.recipe, trained_on(run)
    if text == recipe.data.source:
        return
    moved = recipe.data.model_copy(update={"source": text})
    if known not in (None, open_data(moved, console)[0].fingerprint):
        raise RunError(
            f"the images in '{source}' are not those that '{run.path}' was trained on, at '{recipe.data.source}': give "
            "the place of the same images, with the same names."
        )
    for file in (run.recipe_file, *run.path.glob("*/recipe.yaml"), *run.path.glob("attempts/*/recipe.yaml")):
        changed = RunDir(file.parent)
        recipe = changed.recipe
        changed.write_recipe(recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": text})}))


def check_same_recipe(run: RunDir, recipe: Recipe, console: Console | None) -> Recipe:
    """Check that a run has this recipe, and return it. If only the place of its images differs, store the new one.

    A run of a version that did not look for near-duplicates keeps its splits.

    Raises:
        RunError: It has another recipe.
    """
    if not run.has_key("data.split.duplicates"):
        recipe = recipe.override({"data.split.duplicates": "ignore"})
    changed = differences(run.recipe, recipe)
    if set(changed) == {"data.source"} and recipe.data.source is not None and images_are_gone(run.recipe.data):
        move_images(run, recipe.data.source, console)
    elif changed:
        keys = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
        raise RunError(f"'{run.path}' was started with another recipe ({keys}): restore these, or give another --out.")
    return recipe


def ship_checkpoint(run: RunDir | str | Path, step: int, *, store: ImageStore | None = None) -> None:
    """Save the weights of a checkpoint as the model of its run, and fit the densities on its codes if it has any.

    If training continues, its end replaces the model.

    Args:
        run: The run.
        step: The step of the checkpoint.
        store: The run's images, if they are open already.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    run = run if isinstance(run, RunDir) else RunDir.existing(run)
    _save_as_model(run, step, store)
    run.update_summary({"shipped_step": step, "shipped_attempt": 0})


def _save_as_model(run: RunDir, step: int, store: ImageStore | None = None) -> None:
    directory = run.checkpoint(step)
    if not checkpoint.verify(directory):
        steps = ", ".join(str(checkpoint.step_of(path)) for path in checkpoint.checkpoint_dirs(run.checkpoints))
        raise CheckpointError(
            f"no complete checkpoint of step {step} in '{run.path}'; it has {steps or 'none'} (the best and the last "
            "are kept; train with run.keep_every=50k to keep one per 50,000 images)."
        )
    recipe, state = run.recipe, checkpoint.load_state(directory)
    store = store or open_run_images(run)[1]
    average = directory / "average.safetensors"
    if average.is_file():
        weights = checkpoint.load_tensors(average)
    else:
        objective = recipe.objective.build(recipe.model.build(store.info), store.info, images=recipe.train.images)
        objective.load_state_dict(checkpoint.load_tensors(directory / "objective.safetensors"))
        assert isinstance(objective, Objective)
        weights = objective.model.state_dict()
    save_model(run.model, recipe, store.info, weights, step=state["step"], seen=state["seen"])
    model = load_model(run.model)
    if isinstance(model, CodeSampler) and len(store.split("train")) > 1:
        # If codes were trained towards a prior, a mixture fitted to them shows where the prior does not match.
        for name in ("gaussian", "gmm") if model.prior is None else ("gmm",):
            _fit_density(run, model, name, store)


def promote_attempt(run: RunDir, attempt: RunDir) -> None:
    """Copy the model of an attempt to its run."""
    with checkpoint.verified_directory(run.model) as scratch:
        for file in attempt.model.iterdir():
            if file.name != checkpoint.MANIFEST:
                shutil.copyfile(file, scratch / file.name)


def load(path: str | Path, *, device: str = "auto") -> Model:
    """Return the model of a run, of a model directory, or of a repository on the Hub, ready to use.

    What the model can do are its methods: `reconstruct`, `encode`, `decode`, `sample`, `log_likelihood`, …; see
    `ectype.models.base`. Images are tensors [b, c, h, w] in [0, 1] of the size in its `info`. Its weights have
    `requires_grad=False`; call `requires_grad_()` to train it further.

    Files from elsewhere are checked, and no code in them is executed; see `ectype.core.safe_loading`.

    Args:
        path: A directory, or a name on the Hub such as `user/name`. An existing directory has precedence.
        device: cpu, cuda, mps or auto.

    Raises:
        RunError: There is no such run, or it has no model yet.
        CheckpointError: Files are damaged, or do not fit together.
    """
    directory = locate_run(path)
    if not (directory / "config.json").is_file():
        run = RunDir.existing(directory)
        _save_newest(run)
        directory = run.model
        _warn_if_partly_trained(run)
    model = load_model(directory, choose_device(device)).requires_grad_(False)
    model.checks_inputs = True
    return model


def _warn_if_partly_trained(run: RunDir) -> None:
    """Warn if training did not end by itself, so that the model is not what the recipe would give."""
    if run.training_ended:
        return
    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        return
    budget = checkpoint.load_state(newest)["choices"]["budget"]
    seen = checkpoint.load_json(run.model / "config.json")["seen"]
    warnings.warn(
        f"'{run.path}' is partly trained: its model has seen {seen:,} of {budget:,} images; --resume continues it.",
        EctypeWarning,
        stacklevel=3,
    )


def _save_newest(run: RunDir) -> None:
    """Save the newest checkpoint of a run that has not ended as its model, unless a user has selected one."""
    saved = run.model / "config.json"
    if saved.is_file() and (run.training_ended or "shipped_step" in run.summary()):
        return
    newest = checkpoint.latest(run.checkpoints)
    step = 0 if newest is None else checkpoint.step_of(newest)
    if saved.is_file() and step in (0, checkpoint.load_json(saved).get("step")):
        return
    if not step:
        raise RunError(f"'{run.path}' has no model yet: it was stopped before its first check; resume it first.")
    _save_as_model(run, step)


def recipe_of(path: str | Path) -> Recipe:
    """Return the recipe of a run, or of an exported model. Raises as `load` does."""
    directory = locate_run(path)
    exported = directory / "recipe.json"
    if exported.is_file():
        return load_recipe(read_json(path_inside(directory, exported.name)))
    return RunDir.existing(directory).recipe


def density_of(run: RunDir, model: nn.Module, name: str) -> Density:
    """Return a density on the codes of a run's model. If it is new, fit it to the training images and save it.

    Raises:
        ModelError: The model has no codes to sample, or there is no density of this name.
    """
    if not isinstance(model, CodeSampler):
        raise ModelError(f"the model of '{run.path}' does not sample codes: leave --density out.")
    if name not in DENSITIES:
        raise ModelError(f"no density '{name}'; {did_you_mean(name, DENSITIES)}")
    if name not in model.densities:
        _fit_density(run, model, name, open_run_images(run)[1])
    return model.densities[name]


def _fit_density(run: RunDir, model: nn.Module, name: str, store: ImageStore) -> None:
    assert isinstance(model, CodeSampler)
    recipe, device = run.recipe, next(model.parameters()).device
    loader = Loader(store.split("train"), recipe.data, device, training=False, seed=recipe.train.seed)
    code_elements = int(torch.tensor(next(iter(model.densities.values())).shape).prod())
    num_images = max(2, min(MAX_DENSITY_CODES, MAX_DENSITY_ELEMENTS // code_elements))
    size, context = evaluation_batches(store.info, recipe.train.seed, device)
    with evaluating(model):
        batches = loader.batches(size, context, max_images=num_images)
        codes = [model.continuous_code(batch.image).cpu() for batch, _ in batches]
    model.densities[name] = fit_density(name, torch.cat(codes), seed=recipe.train.seed)
    store_density(run.model, name, model.densities[name])
