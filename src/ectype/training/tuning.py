"""Settings that are chosen once, at the start of a run, by timing its steps and its checks."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import torch

from ectype.config.recipe import Recipe
from ectype.training.loop import Measure
from ectype.training.micro_batch import find_micro_batch
from ectype.training.trainer import Trainer

__all__ = ["TunedSettings", "tune_settings"]

MIN_UPDATES_PER_EPOCH_CHECK = 100
"""Minimum number of updates between two checks with `monitor.every=epoch`: with few images, two checks that are closer
together differ mostly by noise."""
MAX_CHECK_SHARE = 0.07
"""Fraction of the training time that checks may take with `monitor.every=auto`: under a tenth, with room for a machine
that is busier later."""
MAX_CHECKS = 40
"""Maximum number of checks in a budget with `monitor.every=auto`."""


class TunedSettings(NamedTuple):
    """Settings that are chosen once at the start and stored in every checkpoint."""

    budget: int
    every: int
    micro_batch: int | None = None
    """Images at a time; None for all. Halved during the run if memory runs out."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """As in the recipe, or what timing has found to be fastest; so are the next two."""
    channels_last: bool | Literal["auto"] = "auto"
    threads: int | None = None

    def applied_to(self, recipe: Recipe) -> Recipe:
        """Return a recipe with these settings instead of those that it leaves open."""
        speed = {"precision": self.precision, "channels_last": self.channels_last}
        return recipe.model_copy(
            update={
                "train": recipe.train.model_copy(update=speed),
                "run": recipe.run.model_copy(update={"threads": self.threads}),
            }
        )


def tune_settings(trainer: Trainer, measure: Measure | None, *, most: float = 2.0) -> TunedSettings:
    """Convert minutes to images, and `auto` to an interval and a micro-batch, by timing steps of a copy.

    Args:
        trainer: A trainer at its start.
        measure: The measurement of a check, which is timed as well.
        most: Seconds to spend on timing steps.
    """
    recipe = trainer.recipe
    trainer.micro_batch = find_micro_batch(trainer)
    minutes, every = recipe.train.model_minutes, recipe.monitor.every
    budget = recipe.train.images
    if every == "epoch":
        every = max(len(trainer.loader), MIN_UPDATES_PER_EPOCH_CHECK * trainer.batch)
    if minutes is not None or every == "auto":
        copy = trainer.dry_run_copy()
        if recipe.train.compile:  # a copy is not compiled, and would be timed at another speed
            for part in copy.objective.compilable_modules():
                part.compile()
        for _ in range(3):
            copy.step()
        started, steps = time.perf_counter(), 0
        # Steps exchange messages, so all processes must make the same number, although their clocks differ.
        while trainer.world.broadcast((elapsed := time.perf_counter() - started) < most or steps < 5):
            copy.step()
            _synchronize(trainer.device)
            steps += 1
        per_image = elapsed / (steps * trainer.batch)
        trainer.micro_batch = copy.micro_batch
        started = time.perf_counter()
        if measure is not None and trainer.world.is_first:
            measure(copy.model)
        check = time.perf_counter() - started
        if minutes is not None:
            share = check / every if isinstance(every, int) else MAX_CHECK_SHARE * per_image
            budget = max(trainer.batch, int(minutes * 60 / (per_image + share)))
        if every == "auto":
            every = max(budget // MAX_CHECKS, int(check / per_image / MAX_CHECK_SHARE))
    rounded = max(trainer.batch, -(-min(int(every), budget) // trainer.batch) * trainer.batch)
    train = recipe.train
    chosen = TunedSettings(
        budget, rounded, trainer.micro_batch, train.precision, train.channels_last, recipe.run.threads
    )
    return trainer.world.broadcast(chosen)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
