"""A learned prior: a flow on the codes of a run's model, trained as a run inside of that run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from ectype.config.recipe import Recipe, load_recipe
from ectype.core.console import say
from ectype.core.errors import ModelError
from ectype.models.flow import FlowConfig
from ectype.models.flow_density import FlowDensity
from ectype.models.latent_space import LatentSpaceConfig, LatentSpaceModel
from ectype.runs import checkpoint
from ectype.runs.load import load
from ectype.runs.model_files import FLOW, CodeSampler, load_model, store_density
from ectype.runs.run_dir import RunDir

__all__ = ["prior_dir", "prior_overrides", "train_prior"]

MIN_FLOW_UPDATES = 100
MIN_FLOW_MINUTES = 1 / 6
"""A flow with fewer updates or less time is worse than a mixture of Gaussians, and is not trained."""
FLOW_IMAGES_PER_IMAGE = 4.0
"""How many codes a flow is trained on in the time that an autoencoder takes for an image, roughly: it
turns a share of a budget in images into codes, without a clock."""


def prior_dir(run: RunDir) -> Path:
    """Return the directory of the flow on the codes of a run's selected weights; other weights have another one."""
    weights = checkpoint.load_json(run.model / checkpoint.MANIFEST)["model.safetensors"]
    return run.path / f"{FLOW}-{weights[:8]}"


def prior_overrides(recipe: Recipe) -> dict[str, Any]:
    """Return what a flow on the codes of a run takes from the run's recipe, and its share of the run's budget."""
    train = recipe.train
    same = ("device", "threads", "log_every", "pictures", "tensorboard")
    common: dict[str, Any] = {f"run.{key}": getattr(recipe.run, key) for key in same}
    common |= {"train.seed": train.seed, "monitor.features": recipe.monitor.features}
    if train.minutes is not None:
        return {**common, "train.minutes": train.minutes * train.prior_share}
    images = FLOW_IMAGES_PER_IMAGE * train.images * train.prior_share / (1 - train.prior_share)
    return {**common, "train.images": max(1, round(images))}


def train_prior(
    run: RunDir, recipe: Recipe, console: Console | None, train: Callable[[Path, dict[str, Any]], object]
) -> None:
    """Train the flow of a run whose model has codes, or continue training it, and save it as the model's density.

    Args:
        run: The run, which has ended.
        recipe: Its recipe.
        console: Where progress is printed; None prints nothing.
        train: Trains a flow on the run's codes in the directory and with the overrides that it is called with.

    Raises:
        ModelError: The model has no codes to sample.
    """
    model = load(run.path, device="cpu")
    if not isinstance(model, CodeSampler):
        raise ModelError(f"train.prior={recipe.train.prior}: the model of '{run.path}' has no codes; set prior=none.")
    if FLOW in model.densities:
        return
    overrides = prior_overrides(recipe)
    batch = load_recipe(FLOW).train.batch
    minutes, images = recipe.train.minutes, overrides.get("train.images", MIN_FLOW_UPDATES * batch)
    if images < MIN_FLOW_UPDATES * batch or (minutes or math.inf) * recipe.train.prior_share < MIN_FLOW_MINUTES:
        say(console, f"the budget is too small for a flow on the codes: samples are drawn from '{model.density}'")
        return
    place = prior_dir(run)
    say(console, f"training a flow on the codes, from which samples are drawn → {place}")
    train(place, overrides)
    store_prior(run, place)


def store_prior(run: RunDir, place: Path) -> None:
    """Save the flow of a run inside of `run` as the density of that run's model."""
    flow, config = load_model(place / "model"), RunDir(place).recipe.model
    assert isinstance(flow, LatentSpaceModel)
    assert isinstance(config, LatentSpaceConfig)
    assert isinstance(config.inner, FlowConfig)
    store_density(run.model, FLOW, FlowDensity.of(flow, config.inner))
