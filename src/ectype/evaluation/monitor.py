"""When to check a run, and when to stop it.

A monitor is given the result of a function that turns a model into one value, lower being better: a loss on held-out
images, or a distance of samples. It does not know which one it is, only how much such a value varies by chance.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ectype.evaluation.figure_names import display_name
from ectype.objectives.base import CriticPhase
from ectype.runs.run_dir import RunDir

__all__ = ["CHECKS_TO_CONFIRM", "FATAL_VERDICTS", "Monitor", "Verdict", "best_check", "best_check_text"]

FATAL_VERDICTS = ("collapsed", "memorising", "spoiled")
"""Verdicts that end a run or an attempt where the recipe says so."""
CHECKS_TO_CONFIRM = 2
"""Consecutive checks that must agree on such a verdict."""
OLD_FIELDS = {"looks": "values", "halts": "stop_on_fatal"}
"""Field in checkpoints of earlier versions → field."""


class Verdict(NamedTuple):
    """Judgement of a check on a model."""

    name: str
    """Of a generator: healthy, learning, undertrained, losing modes, collapsed, memorising, or memorising or shrunken.
    Of an autoencoder that is trained with a critic: healthy, or spoiled."""
    evidence: str
    """What the verdict is based on."""


@dataclasses.dataclass
class Monitor:
    """History of a monitored value, and whether it says that training should stop. All state is in the fields.

    Attributes:
        every: Images between checks.
        patience: Checks without a new minimum before stopping; None never stops.
        stretch: Stopping also requires that the images seen have grown by this factor of those seen at the last
            minimum.
        min_delta: How much lower a value must be to count as a new minimum.
        smoothing: Checks over which the value is averaged.
        name: Display name of the value.
        floor: The value for real images against real images, where it has one.
        stop_on_fatal: Whether a fatal verdict ends the run.
        history: (images seen, value) of each check.
        values: All values of each check by key; a verdict compares a run with its own past.
        verdicts: (images seen, name of the verdict) of each check that has one.
        best: Lowest smoothed value.
        best_seen: Images seen at the best check; None before there is one.
        minimum: Last minimum that was lower than the one before by more than `min_delta`.
        minimum_seen: Images seen at that minimum.
        phase: Phase of the objective at the last check. While a critic is still to join, patience does not stop the
            run. When the critic's gradient counts, the value no longer says what is best: the newest weights are,
            unless the critic has damaged them.
        is_last_check: Whether the run ends with the check that the next verdict is on.
        seen: Images seen before that check.
        updates: Updates of the weights before that check.
    """

    every: int
    patience: int | None
    stretch: float = 0.0
    min_delta: float = 0.0
    smoothing: int = 1
    name: str = "the monitored value"
    floor: float | None = None
    stop_on_fatal: bool = False
    history: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    values: list[dict[str, float]] = dataclasses.field(default_factory=list)
    verdicts: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    best: float = math.inf
    best_seen: int | None = None
    minimum: float = math.inf
    minimum_seen: int | None = None
    phase: CriticPhase = "whole"
    is_last_check: bool = False
    seen: int = 0
    updates: int = 0

    def due(self, before: int, seen: int) -> bool:
        """Return whether a check is due in the step from `before` to `seen` images."""
        return before // self.every != seen // self.every

    def ends_with(self, seen: int, values: Mapping[str, float], phase: CriticPhase = "whole") -> bool:
        """Return whether patience runs out with a check of these values, which is not recorded."""
        after = copy.deepcopy(self)
        after.record(seen, values, phase=phase)
        return after.done

    def record(
        self, seen: int, values: Mapping[str, float], verdict: Verdict | None = None, phase: CriticPhase = "whole"
    ) -> bool:
        """Add the result of a check.

        Args:
            seen: Images seen.
            values: Key → value; the first one is monitored.
            verdict: The verdict on these values, if there is one.
            phase: Phase of the objective.

        Returns:
            Whether this is the best check so far.
        """
        value = next(iter(values.values()))
        self.phase = phase
        self.history.append((seen, value))
        self.values.append(dict(values))
        if verdict is not None:
            self.verdicts.append((seen, verdict.name))
        recent = [found for _, found in self.history[-self.smoothing :] if math.isfinite(found)]
        if not math.isfinite(value):
            return False
        smooth = sum(recent) / len(recent)
        if phase == "judged":
            kept = verdict is None or verdict.name not in FATAL_VERDICTS
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
    def checks_since_minimum(self) -> int:
        """Number of checks since the last minimum."""
        return sum(1 for seen, _ in self.history if self.minimum_seen is None or seen > self.minimum_seen)

    @property
    def fatal(self) -> str | None:
        """The verdict that ends the run; None while there is none."""
        last = {verdict for _, verdict in self.verdicts[-CHECKS_TO_CONFIRM:]}
        confirmed = len(self.verdicts) >= CHECKS_TO_CONFIRM and len(last) == 1
        return last.pop() if self.stop_on_fatal and confirmed and last <= set(FATAL_VERDICTS) else None

    @property
    def healthy_seen(self) -> int | None:
        """Images seen at the last check whose verdict was healthy; None if there was none."""
        return next((seen for seen, verdict in reversed(self.verdicts) if verdict == "healthy"), None)

    @property
    def done(self) -> bool:
        """Whether training should stop, because patience has run out or because of a fatal verdict."""
        if self.fatal is not None:
            return True
        if self.phase != "whole" or self.patience is None or self.checks_since_minimum < self.patience:
            return False
        return self.minimum_seen is None or self.history[-1][0] >= (1 + self.stretch) * self.minimum_seen

    def reason(self) -> str:
        """Return why training stopped."""
        at = f", at {self.best_seen:,} images" if self.best_seen is not None else ""
        if self.fatal is not None:
            return f"{self.fatal} at {CHECKS_TO_CONFIRM} checks in a row; {self.name} was best{at}"
        beyond = f" lower by more than {self.min_delta:.3g}" if self.min_delta else ""
        stretched = f", while the images seen grew {1 + self.stretch:.3g}-fold" if self.stretch else ""
        floor = f" (for real images it is {self.floor:.4g})" if self.floor is not None else ""
        return (
            f"{self.name} has had no new minimum{beyond} for {self.checks_since_minimum} checks, {self.every:,} images "
            f"apart{stretched}: the best was {self.best:.4g}{floor}{at}"
        )

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Monitor:
        """Return the monitor whose `state` is in a checkpoint."""
        fields = {OLD_FIELDS.get(key, key): value for key, value in state.items()}
        pairs = {key: [tuple(entry) for entry in fields[key]] for key in ("history", "verdicts")}
        return cls(**{**fields, **pairs})


def best_check(run: RunDir) -> str:
    """Return the name and the best value of what a run is monitored by; empty before its first check."""
    return best_check_text(*run.monitored_values())


def best_check_text(key: str, checks: Sequence[tuple[int, float]]) -> str:
    """Return what `best_check` does, of the name and the (images seen, value) of each check."""
    return f"held-out {display_name(key)} {min(value for _, value in checks):.5g}" if checks else ""
