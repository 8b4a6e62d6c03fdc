"""Two models trained in one run, an autoencoder and a model of its codes: one is a run inside of the other's run."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from rich.console import Console

from ectype.config.recipe import Recipe
from ectype.config.schema import TrainConfig
from ectype.core.distributed import World
from ectype.runs.run_dir import RunDir
from ectype.training.session import TrainingSession

__all__ = ["CODES_PER_IMAGE", "inner_budget", "train_inner_run"]

CHECKS = 20
"""Checks of an inner run whose budget is given in images."""
CODES_PER_IMAGE = 4.0
"""Codes that a flow is trained on in the time that `ae` takes for an image, at 64 px on two cores. It turns a share of
a budget in images into codes, or codes into images, without a clock, so that the result does not depend on one."""


def inner_budget(train: TrainConfig, minutes: float | None, factor: float) -> dict[str, Any]:
    """Return overrides of the budget of an inner run.

    Args:
        train: The training section of the outer run.
        minutes: The part of its budget in minutes, if it has one.
        factor: Images of the inner run for each image of the outer run, for a budget in images.
    """
    if train.minutes is not None:
        return {"train.minutes": minutes}
    images = max(1, round(train.images * factor))
    # The best check is selected, so that checks must not depend on a clock either.
    return {"train.images": images, "monitor.every": -(-images // CHECKS)}


def train_inner_run(recipe: Recipe, run: RunDir, device: torch.device, world: World, console: Console | None) -> None:
    """Train the inner run, or continue training it; see `TrainingSession` for the arguments."""
    with run.locked() if world.is_first else nullcontext():
        session = TrainingSession(recipe, run, device, world, None)  # the outer run has described the images
        session.console = console
        session.go()
        session.loggers.close()
