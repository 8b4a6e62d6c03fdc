"""A learned prior: a flow on the codes of a run's model, trained as a run inside of that run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ectype.config.recipe import Recipe, load_recipe
from ectype.core.console import say
from ectype.core.distributed import World
from ectype.models.flow import FlowConfig
from ectype.models.flow_density import FlowDensity
from ectype.models.latent_space import LatentSpaceConfig, LatentSpaceModel
from ectype.runs import checkpoint
from ectype.runs.load import load
from ectype.runs.model_files import FLOW, CodeSampler, load_model, store_density
from ectype.runs.run_dir import RunDir
from ectype.training.inner_run import CODES_PER_IMAGE, inner_budget, train_inner_run
from ectype.training.on_codes import recipe_on_codes

__all__ = ["prior_dir", "prior_overrides", "train_prior"]

MIN_FLOW_UPDATES = 100
MIN_FLOW_MINUTES = 1 / 6
"""A flow that would get less than this is not trained; one that turns out to make fewer updates is not used."""


def prior_dir(run: RunDir) -> Path:
    """Return the directory of the flow on the codes of a run's selected weights; other weights have another one."""
    weights = checkpoint.load_json(run.model / checkpoint.MANIFEST)["model.safetensors"]
    return run.path / f"{FLOW}-{weights[:8]}"


def prior_overrides(recipe: Recipe, seconds: float) -> dict[str, Any]:
    """Return what a flow on the codes of a run takes from the run's recipe, and its share of the run's budget.

    Args:
        recipe: The run's recipe.
        seconds: How long the run's own model was trained. What is left of a budget in minutes is the flow's as well.
    """
    train = recipe.train
    same = ("device", "threads", "log_every", "pictures", "loggers")
    common: dict[str, Any] = {f"run.{key}": getattr(recipe.run, key) for key in same}
    common["train.seed"] = train.seed
    # Cheap, and rises as soon as the flow memorizes; samples are measured once, at the end of the run.
    common["monitor.metric"] = "loss"
    factor = CODES_PER_IMAGE * train.prior_share / (1 - train.prior_share)
    return {**common, **inner_budget(train, train.minutes_on_codes(train.prior_share, seconds), factor)}


def train_prior(recipe: Recipe, run: RunDir, device: torch.device, console: Console | None) -> None:
    """Train the flow of a run, or continue training it, and save it as the density of the run's model.

    Args:
        recipe: The run's recipe.
        run: The run, whose own training has ended.
        device: Where to train.
        console: Where progress is printed; None prints nothing.
    """
    model = load(run.path, device="cpu")
    assert isinstance(model, CodeSampler)  # checked before the run was trained
    if FLOW in model.densities:
        return
    flow = recipe_on_codes(
        load_recipe(recipe.train.prior), run, prior_overrides(recipe, run.summary().get("seconds", 0.0))
    )
    too_short = flow.train.images < MIN_FLOW_UPDATES * flow.train.batch
    if flow.train.minutes is not None:
        too_short = flow.train.minutes < MIN_FLOW_MINUTES
    if too_short:
        say(console, f"the budget is too small for a flow on the codes: samples are drawn from '{model.density}'")
        return
    inner = RunDir(prior_dir(run))
    say(console, f"training a flow on the codes, from which samples are drawn → {inner.path}")
    train_inner_run(flow, inner, device, World(), console)
    if (updates := inner.summary()["step"]) < MIN_FLOW_UPDATES:
        few = f"only {updates:,} updates in its part of the budget"
        say(console, f"the flow made {few}: samples are drawn from '{model.density}'; give more --minutes")
        return
    trained = load_model(inner.model)
    assert isinstance(trained, LatentSpaceModel)
    assert isinstance(flow.model, LatentSpaceConfig)
    assert isinstance(flow.model.inner, FlowConfig)
    store_density(run.model, FLOW, FlowDensity.of(trained, flow.model.inner))
