"""Models of runs and of others, and the images of a recipe: loaded, shipped anew, given the densities they lack."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from ectype.console import progress_line
from ectype.data.feed import Feed
from ectype.data.prepare import Prepared, prepare
from ectype.data.store import Store, open_store
from ectype.errors import CheckpointError, ModelError, RunError, did_you_mean
from ectype.models.base import Model, evaluating
from ectype.models.densities import DENSITIES, Density, fit_density
from ectype.objectives.base import Objective
from ectype.recipe import Recipe, load_recipe
from ectype.sections import DataConfig
from ectype.share.hub import located
from ectype.training import checkpoint
from ectype.training.distributed import choose_device
from ectype.training.position import looking
from ectype.training.rundir import RunDir
from ectype.training.shipped import DrawsCodes, load_model, ship, store_density
from ectype.untrusted import inside, read_json

__all__ = ["adopt", "density_of", "keep", "load", "open_data", "recipe_of"]

CODES = 10_000
"""Images whose codes a density is fitted on, at most."""


def open_data(config: DataConfig, console: Console | None = None) -> tuple[Prepared, Store]:
    """Prepare images, or find them prepared, and say what was found."""
    prepared = prepare(config, progress=progress_line(console))
    if console is not None:
        console.print(prepared.summary, highlight=False, soft_wrap=True)
        for note in prepared.notes:
            console.print(f"  {note}", highlight=False, soft_wrap=True)
    return prepared, open_store(prepared, config)


def keep(run: RunDir | str | Path, step: int, *, store: Store | None = None) -> None:
    """Ship the weights of a checkpoint as the run's model, and fit its densities where it needs them.

    A run that has not ended ships them until it does.

    Raises:
        CheckpointError: No such checkpoint, or it is damaged.
    """
    run = run if isinstance(run, RunDir) else RunDir.existing(run)
    _ship(run, step, store)
    run.amend_summary({"shipped_step": step, "shipped_attempt": 0})


def _ship(run: RunDir, step: int, store: Store | None = None) -> None:
    place = run.checkpoint(step)
    if not checkpoint.verify(place):
        have = ", ".join(str(checkpoint.step_of(path)) for path in checkpoint.places(run.checkpoints))
        raise CheckpointError(
            f"no whole checkpoint of step {step} in '{run.path}'; have {have or 'none'} (the best and the last are "
            "kept; train with run.keep_every=50k to keep one for each so many images)."
        )
    recipe, state = run.recipe, checkpoint.load_state(place)
    store = store or open_data(recipe.data)[1]
    averaged = place / "average.safetensors"
    if averaged.is_file():
        weights = checkpoint.load_tensors(averaged)
    else:
        held = checkpoint.load_tensors(place / "objective.safetensors")
        objective = recipe.objective.build(recipe.model.build(store.info), store.info, images=recipe.train.images)
        objective.load_state_dict(held)
        assert isinstance(objective, Objective)
        weights = objective.model.state_dict()
    ship(run.model, recipe, store.info, weights, step=state["step"], seen=state["seen"])
    model = load_model(run.model)
    if isinstance(model, DrawsCodes) and len(store.split("train")) > 1:
        # Where codes were trained towards a prior, a mixture beside it shows what the prior misses of them.
        for name in ("gaussian", "gmm") if model.prior is None else ("gmm",):
            _fit(run, model, name, store)


def adopt(run: RunDir, attempt: RunDir) -> None:
    """Ship an attempt's model as its run's."""
    with checkpoint.committed(run.model) as scratch:
        for file in attempt.model.iterdir():
            if file.name != checkpoint.MANIFEST:
                shutil.copy2(file, scratch / file.name)


def load(path: str | Path, *, device: str = "auto") -> Model:
    """The model of a run, of a model directory, or of a name on the Hub such as `user/name`, ready to use.

    A place that is there goes before a name. What comes from elsewhere is checked and none of it is run; see
    `ectype.untrusted`.

    What it can do is in its methods: `reconstruct`, `encode`, `decode`, `sample`, `log_likelihood`; see
    `ectype.models.base`. Images are tensors [b, c, h, w] in [0, 1] of the size in its `info`. Its weights want no
    gradient; `requires_grad_()` trains it on.

    Raises:
        RunError: No such run, or it has shipped no model yet.
        CheckpointError: Its files are damaged, or claim what cannot be.
    """
    place = located(path)
    if not (place / "config.json").is_file():
        run = RunDir.existing(place)
        _ship_newest(run)
        place = run.model
    return load_model(place, choose_device(device)).requires_grad_(False)


def _ship_newest(run: RunDir) -> None:
    """Ship the newest checkpoint of a run that has not ended, unless a user has chosen one."""
    shipped = run.model / "config.json"
    if shipped.is_file() and (run.trained or "shipped_step" in run.summary()):
        return
    newest = checkpoint.latest(run.checkpoints)
    step = 0 if newest is None else checkpoint.step_of(newest)
    if shipped.is_file() and step in (0, checkpoint.load_json(shipped)["step"]):
        return
    if not step:
        raise RunError(f"'{run.path}' has no model yet: it was stopped before its first check; resume it first.")
    _ship(run, step)


def recipe_of(path: str | Path) -> Recipe:
    """The recipe of a run, or of a model that was handed on. Raises as `load` does."""
    place = located(path)
    handed = place / "recipe.json"
    if handed.is_file():
        return load_recipe(read_json(inside(place, handed.name)))
    return RunDir.existing(place).recipe


def density_of(run: RunDir, model: nn.Module, name: str) -> Density:
    """A density on the codes of a run's model, fitted on its training images and stored if it was not before."""
    if not isinstance(model, DrawsCodes):
        raise ModelError(f"the model of '{run.path}' draws no codes: leave --density out.")
    if name not in DENSITIES:
        raise ModelError(f"no density '{name}'; {did_you_mean(name, DENSITIES)}")
    if name not in model.densities:
        _fit(run, model, name, open_data(run.recipe.data)[1])
    return model.densities[name]


def _fit(run: RunDir, model: nn.Module, name: str, store: Store) -> None:
    assert isinstance(model, DrawsCodes)
    recipe, device = run.recipe, next(model.parameters()).device
    feed = Feed(store.split("train"), recipe.data, device, training=False, seed=recipe.train.seed)
    numbers = int(torch.tensor(next(iter(model.densities.values())).shape).prod())
    most = max(2, min(CODES, 50_000_000 // numbers))
    with evaluating(model):
        codes = [
            model.encode(b.image).cpu()
            for b, _ in feed.sequence(*looking(store.info, recipe.train.seed, device), most=most)
        ]
    model.densities[name] = fit_density(name, torch.cat(codes), seed=recipe.train.seed)
    store_density(run.model, name, model.densities[name])
