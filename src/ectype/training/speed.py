"""Choose how a CPU computes training steps: precision, memory format and threads, by timing each against the others."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from ectype.config.recipe import Recipe
from ectype.core.environment import has_bf16_units, numerics
from ectype.training.trainer import Diverged, Trainer

__all__ = ["FasterSteps", "find_faster_steps"]

MIN_RUN_SECONDS = 60.0
"""Shorter runs are not worth timing, and repeat exactly without it."""
MAX_TIMING_SHARE = 0.05
"""Fraction of a run's time that timing may take."""
WARM_UP_STEPS, STEPS_PER_ROUND = 3, 2
MIN_ROUNDS, MAX_ROUNDS, ROUNDS_SECONDS = 2, 10, 1.0
"""Rounds in which two ways are timed in turns: as many as fit into this many seconds, within the limits."""
HOPELESS = 10.0
"""Time of a first step, relative to the best so far, after which another way is not tried further: kernels that emulate
a precision are many times slower."""
MAX_RELATIVE_TIME = 0.9
"""Time of a step, relative to the best so far, below which another way is chosen: well below what varies by chance."""
MAX_LOSS_DIFFERENCE = 0.05
"""How much the losses of the first steps may differ, relative to their size."""


class FasterSteps(NamedTuple):
    """A way to compute steps, and how it was found."""

    recipe: Recipe
    """The recipe with the chosen precision, memory format and threads."""
    sentence: str
    """What was chosen and how much faster it is; empty if nothing was."""


class _Timed:
    """Copies of the first steps of a run, which are timed.

    Args:
        trainer: A trainer whose steps change nothing that is kept.
        limit: Seconds of the first step, above which there is no second.
    """

    def __init__(self, trainer: Trainer, limit: float = math.inf) -> None:
        self.trainer, self.recipe, self.times = trainer, trainer.recipe, list[float]()
        self.first = math.inf
        with self._here():
            for _ in range(WARM_UP_STEPS):
                self.first = min(self.first, self._time())  # whatever else the machine does at that moment
                if self.first > limit:
                    break
        self.losses = {key: value for key, value in trainer.take_metrics().items() if key.endswith("total")}

    def _here(self) -> AbstractContextManager[None]:
        return numerics(self.recipe.run.threads, deterministic=False)

    def _time(self) -> float:
        started = time.perf_counter()
        self.trainer.step()
        return time.perf_counter() - started

    def round(self) -> None:
        """Time a few steps."""
        with self._here():
            self.times += [self._time() for _ in range(STEPS_PER_ROUND)]

    @property
    def seconds(self) -> float:
        """Median time of a step."""
        return statistics.median(self.times)

    def agrees_with(self, other: _Timed) -> bool:
        """Return whether the losses of the first steps are nearly the same."""
        return all(
            math.isfinite(mine) and abs(mine - other.losses[key]) <= MAX_LOSS_DIFFERENCE * abs(other.losses[key])
            for key, mine in self.losses.items()
        )


def find_faster_steps(trainer: Trainer, build: Callable[[Recipe], Trainer]) -> FasterSteps:
    """Return a recipe whose steps are the fastest on this CPU, of those whose losses agree with the plain steps.

    A setting that the recipe makes is kept. Nothing is timed on other devices, in several processes, with compiled or
    deterministic networks, or where it would take too large a part of the run.

    Args:
        trainer: A trainer at its start.
        build: Returns a trainer of another recipe with the same weights, whose steps change nothing that is kept.
    """
    recipe = trainer.recipe
    train = recipe.train
    none = FasterSteps(recipe, "")
    if trainer.device.type != "cpu" or trainer.world.size > 1 or train.compile or train.deterministic:
        return none
    ways = list(_ways(recipe, trainer.device))
    minutes = train.model_minutes
    if not ways or (minutes is not None and minutes * 60 < MIN_RUN_SECONDS):
        return none
    plain = best = _Timed(build(recipe))
    seconds = minutes * 60 if minutes is not None else plain.first * train.images / train.batch
    timing = plain.first * len(ways) * (WARM_UP_STEPS + 2 * STEPS_PER_ROUND * MIN_ROUNDS)
    if seconds < MIN_RUN_SECONDS or timing > MAX_TIMING_SHARE * seconds:
        return none
    found: list[str] = []
    for change, words in ways:
        try:
            other = _Timed(build(best.recipe.override(change)), HOPELESS * best.first)
        except (Diverged, RuntimeError, MemoryError):  # such as a kernel that is missing for a precision
            continue
        if other.first > 2 * best.first or not other.agrees_with(plain):
            continue
        best.times.clear()
        rounds = ROUNDS_SECONDS / (2 * STEPS_PER_ROUND * best.first)
        for _ in range(min(MAX_ROUNDS, max(MIN_ROUNDS, round(rounds)))):
            best.round()
            other.round()
        if other.seconds < MAX_RELATIVE_TIME * best.seconds:
            found.append(f"{words} ({best.seconds / other.seconds:.2g} × as fast)")
            best = other
    return FasterSteps(best.recipe, ", ".join(found) and f"timed on this processor: {', '.join(found)}")


def _ways(recipe: Recipe, device: torch.device) -> Iterator[tuple[dict[str, object], str]]:
    """Yield the settings that the recipe leaves open, each as overrides and in words."""
    if recipe.train.precision == "auto" and has_bf16_units(device):
        yield {"train.precision": "bf16"}, "bf16"
    if recipe.train.channels_last == "auto":
        yield {"train.channels_last": True}, "channels last"
    if recipe.run.threads is None and torch.get_num_threads() > 1:
        yield {"run.threads": 1}, "one thread"
