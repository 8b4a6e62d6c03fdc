"""When to look at a run, and when to stop it.

A monitor is given a function that turns a model into one number, lower being better: a loss on held-out images, a
distance of samples. It does not know which.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

__all__ = ["Monitor"]


@dataclasses.dataclass
class Monitor:
    """The history of a measure and what follows from it. All of its state is in its fields."""

    every: int
    """Images between checks."""
    patience: int | None
    """Checks without a new best before stopping; None never stops."""
    min_delta: float = 0.0
    """How much lower counts as better."""
    history: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    """(images seen, measure) of each check."""
    best: float = math.inf
    best_seen: int | None = None

    def due(self, before: int, seen: int) -> bool:
        """Whether a check falls into the step from `before` to `seen` images."""
        return before // self.every != seen // self.every

    def record(self, seen: int, value: float) -> bool:
        """Take a check's result in; returns whether it is the best so far."""
        self.history.append((seen, value))
        better = math.isfinite(value) and value < self.best - self.min_delta
        if better:
            self.best, self.best_seen = value, seen
        return better

    @property
    def waited(self) -> int:
        """Checks since the best."""
        return sum(1 for seen, _ in self.history if self.best_seen is None or seen > self.best_seen)

    @property
    def done(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self.waited >= self.patience

    def reason(self) -> str:
        """Why it stopped, in words."""
        return f"no better for {self.waited} checks, {self.every:,} images apart: the best was at {self.best_seen:,}"

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Monitor:
        """Back from a checkpoint."""
        return cls(**{**state, "history": [tuple(entry) for entry in state["history"]]})
