"""What several models' figures say of each other, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from ectype.measure.evaluation import Evaluation, Figure, number

__all__ = ["Standing", "Value", "sentences", "standings"]

LEVEL = 0.95


class Value(NamedTuple):
    """One figure of one arm."""

    mean: float
    low: float | None
    """Of the interval; None where there is none."""
    high: float | None
    each: tuple[float, ...]
    """Of every seed."""


class Standing(NamedTuple):
    """One figure of all arms that have it."""

    name: str
    unit: str
    better: str
    """higher or lower."""
    values: dict[str, Value]
    beside: dict[str, float]
    """The same measure of something simple."""
    alike: bool = True
    """Whether all arms were measured on images prepared alike: else nothing follows from who has more."""

    @property
    def best(self) -> str:
        """The arm with the best mean."""
        choose = max if self.better == "higher" else min
        return choose(self.values, key=lambda arm: self.values[arm].mean)

    @property
    def clear(self) -> str | None:
        """The best arm, if it can be told apart from every other."""
        best = self.best
        others = [arm for arm in self.values if arm != best]
        return best if others and all(self.apart(best, other) for other in others) else None

    def apart(self, one: str, other: str) -> tuple[float, float] | None:
        """The 95% interval of one arm's mean minus another's, if it leaves 0 out; None where they cannot be told apart,
        or were not measured alike.

        With several seeds of both it is Welch's, over seeds. With one, the intervals over test images must not overlap.
        """
        a, b = self.values[one], self.values[other]
        if not self.alike:
            return None
        if min(len(a.each), len(b.each)) > 1:
            low, high = _welch(a.each, b.each)
        elif a.low is None or a.high is None or b.low is None or b.high is None:
            return None
        else:
            low, high = a.low - b.high, a.high - b.low
        return None if low <= 0 <= high else (low, high)


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The interval of the difference of two means whose spreads may differ (Welch 1947)."""
    apart = float(np.mean(a) - np.mean(b))
    errors = [float(np.var(each, ddof=1)) / len(each) for each in (a, b)]
    if not sum(errors):
        return apart, apart
    freedom = sum(errors) ** 2 / sum(e**2 / (len(each) - 1) for e, each in zip(errors, (a, b), strict=True))
    wide = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * sum(errors) ** 0.5
    return apart - wide, apart + wide


def _value(figures: Sequence[Figure]) -> Value:
    each = tuple(figure.value for figure in figures)
    mean = float(np.mean(each))
    if len(each) == 1:
        return Value(mean, figures[0].low, figures[0].high, each)
    wide = float(stats.t.ppf((1 + LEVEL) / 2, len(each) - 1) * np.std(each, ddof=1) / len(each) ** 0.5)
    return Value(mean, mean - wide, mean + wide, each)


def standings(arms: Mapping[str, Sequence[Evaluation]], *, alike: bool = True) -> list[Standing]:
    """Every figure that is better one way, of the arms that have it.

    The interval of a mean over several seeds is Student's, over seeds; of one seed, the evaluation's, over test images.

    Args:
        arms: Name → an evaluation for each seed. What has none is left out.
        alike: Whether all were measured on images prepared alike.
    """
    some = {name: list(found) for name, found in arms.items() if found}
    order = dict.fromkeys(f.name for found in some.values() for f in found[0].figures if f.better is not None)
    result = []
    for name in order:
        values: dict[str, Value] = {}
        first: Figure | None = None
        for arm, found in some.items():
            figures = [figure for one in found if (figure := one.get(name)) is not None and math.isfinite(figure.value)]
            if len(figures) == len(found):
                values[arm] = _value(figures)
                first = first or figures[0]
        if first is not None and first.better is not None:
            result.append(Standing(name, first.unit, first.better, values, first.beside, alike))
    return result


def sentences(found: Sequence[Standing], arms: Sequence[str]) -> list[str]:
    """What the figures support, one sentence each; that they support nothing is said too."""
    said = []
    for standing in found:
        unit = f" {standing.unit}" if standing.unit else ""
        without = [arm for arm in arms if arm not in standing.values]
        missing = (
            f" {' and '.join(without)} {'has' if len(without) == 1 else 'have'} no such figure." if without else ""
        )
        if len(standing.values) < 2 or not standing.alike:
            continue
        best = standing.best
        beaten, level = [], []
        for other, value in standing.values.items():
            if other == best:
                continue
            apart = standing.apart(best, other)
            if apart is None:
                level.append(other)
            else:
                low, high = sorted(map(abs, apart))
                by = f"by {number(low)} to {number(high)}" if low != high else f"by {number(low)}"
                beaten.append(f"{other} ({number(value.mean)}, {by})")
        if beaten:
            value = f"{number(standing.values[best].mean)}{unit}"
            text = f"{standing.name}: {best} ({value}) is better than {', '.join(beaten)}"
            text += f"; it cannot be told apart from {', '.join(level)}." if level else "."
        else:
            text = f"{standing.name}: {_and(standing.values)} cannot be told apart."
        said.append(text + missing)
    return said


def _and(names: Mapping[str, Value]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
