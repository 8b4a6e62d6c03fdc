"""When to look at a run, and when to stop it.

A monitor is given a function that turns a model into one number, lower being better: a loss on held-out images, a
distance of samples. It does not know which. What it knows is how much such a number varies by itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ectype.objectives.base import Phase

__all__ = ["FATAL", "Monitor", "Verdict"]

FATAL = ("collapsed", "memorising", "spoiled")
"""Verdicts that end a run, or an attempt, where the recipe wants that."""
CERTAIN = 2
"""Checks in a row that must agree on it."""


class Verdict(NamedTuple):
    """What a check says of a generator."""

    name: str
    """healthy, learning, losing modes, collapsed, memorising, or memorising or shrunken; of a reconstruction that a
    critic has joined, healthy or spoiled."""
    words: str
    """The evidence."""


@dataclasses.dataclass
class Monitor:
    """The history of a measure and what follows from it. All of its state is in its fields."""

    every: int
    """Images between checks."""
    patience: int | None
    """Checks without a new minimum before stopping; None never stops."""
    stretch: float = 0.0
    """Stopping also needs so many times the images seen at the last minimum to pass without a new one."""
    min_delta: float = 0.0
    """How much lower counts as a new minimum."""
    smoothing: int = 1
    """Checks over which the measure is averaged."""
    name: str = "the measure"
    floor: float | None = None
    """The measure between real images and real images, where there is such a thing."""
    halts: bool = False
    """Whether a fatal verdict ends the run."""
    history: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    """(images seen, measure) of each check."""
    looks: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """All that each check found; a verdict compares a run with its own past."""
    verdicts: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    """(images seen, verdict) of each check that has one."""
    best: float = math.inf
    """Lowest smoothed measure."""
    best_seen: int | None = None
    minimum: float = math.inf
    """The last minimum that was lower than the one before by more than `min_delta`."""
    minimum_seen: int | None = None
    phase: Phase = "whole"
    """At the last check. While a critic is still to join, patience ends nothing; when its gradient counts, the measure
    no longer says what is best, and the newest weights are, unless the critic spoils them."""

    def due(self, before: int, seen: int) -> bool:
        """Whether a check falls into the step from `before` to `seen` images."""
        return before // self.every != seen // self.every

    def record(
        self, seen: int, values: Mapping[str, float], verdict: Verdict | None = None, phase: Phase = "whole"
    ) -> bool:
        """Take a check's result in, the measure first; returns whether it is the best so far."""
        value = next(iter(values.values()))
        self.phase = phase
        self.history.append((seen, value))
        self.looks.append(dict(values))
        if verdict is not None:
            self.verdicts.append((seen, verdict.name))
        recent = [found for _, found in self.history[-self.smoothing :] if math.isfinite(found)]
        if not math.isfinite(value):
            return False
        smooth = sum(recent) / len(recent)
        if phase == "judged":
            kept = verdict is None or verdict.name not in FATAL
            if kept:
                self.best, self.best_seen = smooth, seen
            return kept
        if smooth < self.minimum - self.min_delta:
            self.minimum, self.minimum_seen = smooth, seen
        better = smooth < self.best
        if better:
            self.best, self.best_seen = smooth, seen
        return better

    @property
    def waited(self) -> int:
        """Checks since the last minimum."""
        return sum(1 for seen, _ in self.history if self.minimum_seen is None or seen > self.minimum_seen)

    @property
    def fatal(self) -> str | None:
        """The verdict that ends the run; None while there is none."""
        last = {verdict for _, verdict in self.verdicts[-CERTAIN:]}
        certain = len(self.verdicts) >= CERTAIN and len(last) == 1
        return last.pop() if self.halts and certain and last <= set(FATAL) else None

    @property
    def healthy_seen(self) -> int | None:
        """Images seen at the last check with a good verdict."""
        return next((seen for seen, verdict in reversed(self.verdicts) if verdict == "healthy"), None)

    @property
    def done(self) -> bool:
        """Whether patience is at its end, or the verdict is."""
        if self.fatal is not None:
            return True
        if self.phase != "whole" or self.patience is None or self.waited < self.patience:
            return False
        return self.minimum_seen is None or self.history[-1][0] >= (1 + self.stretch) * self.minimum_seen

    def reason(self) -> str:
        """Why it stopped, in words."""
        at = f", at {self.best_seen:,} images" if self.best_seen is not None else ""
        if self.fatal is not None:
            return f"{self.fatal} at {CERTAIN} checks in a row; {self.name} was best{at}"
        beyond = f" by more than its own spread of {self.min_delta:.3g}" if self.min_delta else ""
        stretched = f", while the images seen grew {1 + self.stretch:.3g}-fold" if self.stretch else ""
        floor = f" (between real and real images it is {self.floor:.4g})" if self.floor is not None else ""
        return (
            f"{self.name} has set no new minimum{beyond} for {self.waited} checks, {self.every:,} images apart"
            f"{stretched}: the best was {self.best:.4g}{floor}{at}"
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Monitor:
        """Back from a checkpoint."""
        pairs = {key: [tuple(entry) for entry in state[key]] for key in ("history", "verdicts")}
        return cls(**{**state, **pairs})
