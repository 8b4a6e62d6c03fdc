"""How a run is monitored: by its loss on held-out images, or by its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ectype.config.recipe import Recipe
from ectype.config.schema import DataInfo
from ectype.core.distributed import World
from ectype.core.errors import RecipeError
from ectype.data.loader import Loader
from ectype.evaluation.features import ExtractorInputs, choose_extractors
from ectype.evaluation.monitor import Monitor, Verdict
from ectype.evaluation.sample_monitor import MIN_MONITORED_IMAGES, SampleMonitor
from ectype.evaluation.validation import critic_damage_verdict, validation_function
from ectype.evaluation.verdict import verdict_function
from ectype.models.base import Samples
from ectype.objectives.base import Objective, Validates
from ectype.runs.run_dir import RunDir
from ectype.training.loop import Callback
from ectype.training.sample_evidence import SampleEvidence

__all__ = ["MonitoredImages", "Monitoring", "find_monitoring", "new_monitor"]


class Monitoring(NamedTuple):
    """How a run is monitored."""

    measure: Callable[[nn.Module], dict[str, float]]
    name: str = ""
    judge: Callable[[Mapping[str, float], Monitor], Verdict] | None = None
    floor: float | None = None
    spread: float = 0.0
    evidence: Callback | None = None


class MonitoredImages(NamedTuple):
    """The images that a model is compared with."""

    train: Loader
    """Training images, without augmentation."""
    held_out: Loader
    info: DataInfo
    place: Path
    """Directory of the prepared images, where what is measured on them is stored."""


def find_monitoring(
    recipe: Recipe,
    objective: Objective,
    images: MonitoredImages,
    run: RunDir,
    world: World,
    say: Callable[[str], None],
) -> Monitoring | None:
    """Return how a run is monitored; None if it cannot be.

    By default that is the loss on held-out images if it measures how good the model is, else the distance between
    samples and held-out images. Only the first process measures samples.

    Raises:
        RecipeError: `monitor.metric` does not suit the model.
    """
    metric, seed, held_out = recipe.monitor.metric, recipe.train.seed, images.held_out
    if metric == "auto":
        metric = "loss" if isinstance(objective, Validates) and objective.loss_ranks_models else "samples"
    if metric == "loss":
        if not isinstance(objective, Validates):
            raise RecipeError(
                f"monitor.metric=loss: the losses of {recipe.about.name} do not measure how good it is: set it to auto."
            )
        measure = validation_function(
            objective, held_out, images.info, images=recipe.monitor.images, seed=seed, device=held_out.device
        )
        return Monitoring(measure, judge=None if objective.critic_phase == "whole" else critic_damage_verdict)
    if not isinstance(objective.model, Samples):
        if recipe.monitor.metric == "samples":
            raise RecipeError(f"monitor.metric=samples: {recipe.about.name} draws no samples: set it to auto.")
        return None
    if min(len(images.train), len(held_out)) < MIN_MONITORED_IMAGES:
        say(
            f"{len(held_out)} held-out images are too few to monitor samples ({MIN_MONITORED_IMAGES} are needed): "
            "training uses the whole budget, and only pictures show how good the samples are."
        )
        return None
    if not world.is_first:
        return Monitoring(lambda model: {})
    chosen = choose_extractors(
        recipe.monitor.features, ExtractorInputs(images.train, images.info, images.place), quick=True
    )
    samples = SampleMonitor(images.info, images.train, held_out, chosen.extractors, images=recipe.monitor.images)
    say(f"{chosen.why}\n{samples.summary}")
    return Monitoring(
        samples,
        samples.name,
        verdict_function(samples.reference),
        samples.floor,
        samples.spread,
        SampleEvidence(samples, run),
    )


def new_monitor(recipe: Recipe, every: int, monitoring: Monitoring | None, world: World) -> Monitor:
    """Return the monitor of a run at its start.

    Args:
        recipe: The recipe of the run.
        every: Images between two checks.
        monitoring: How the run is monitored; None if it is not. The first process decides for all.
        world: The processes that share the work.
    """
    config = recipe.monitor
    name, floor, spread = world.broadcast(
        ("", None, 0.0) if monitoring is None else (monitoring.name, monitoring.floor, monitoring.spread)
    )
    return Monitor(
        every,
        config.patience,
        config.stretch,
        # Two measurements of the same generator differ by less than twice their spread in 95% of cases.
        2 * spread if config.min_delta == "auto" else config.min_delta,
        config.smoothing,
        name=name or "the loss on held-out images",
        floor=floor,
        stop_on_fatal=config.on_collapse != "warn",
    )
