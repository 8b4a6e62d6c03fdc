"""What several models' figures say of each other, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from ectype.measure.evaluation import Evaluation, Figure, number

__all__ = ["Standing", "Value", "caution", "sentences", "standings"]

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
    """Whether all arms were measured on the same images, and by the same: else nothing follows from who has more."""

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
        """The interval of one arm's mean minus another's, if it leaves 0 out; None where they cannot be told apart, or
        were not measured alike.

        Intervals of all pairs of arms hold together in 95% of cases, so that the best may be looked for. With several
        seeds of both they are over seeds. With one of both they are over test images, as if each had images of its own:
        too wide rather than too narrow. One seed and several cannot be weighed against each other.
        """
        a, b = self.values[one], self.values[other]
        if not self.alike:
            return None
        if min(len(a.each), len(b.each)) > 1:
            found = _over_seeds(a.each, b.each, len(self.values))
        elif len(a.each) == len(b.each):
            found = _over_images(a, b, len(self.values))
        else:
            return None
        return None if found is None or found[0] <= 0 <= found[1] else found


def _quantile(arms: int, freedom: float) -> float:
    """Standard errors that a difference may have by chance, the largest among all pairs of so many arms (Tukey)."""
    if arms == 2:
        return float(stats.t.ppf((1 + LEVEL) / 2, freedom))
    if math.isfinite(freedom):  # a little fewer, so that few values must be integrated
        freedom = math.floor(4 * freedom) / 4 if freedom < 10 else math.floor(freedom)
    return _studentized(arms, freedom)


@lru_cache(maxsize=512)
def _studentized(arms: int, freedom: float) -> float:
    return float(stats.studentized_range.ppf(LEVEL, arms, freedom)) / 2**0.5


def _over_seeds(a: Sequence[float], b: Sequence[float], arms: int) -> tuple[float, float] | None:
    """The interval of the difference of two of several means whose spreads may differ (Games and Howell 1976).

    None where neither varies: of counts that agree by chance it cannot be told how far they vary.
    """
    apart = float(np.mean(a) - np.mean(b))
    errors = [float(np.var(each, ddof=1)) / len(each) for each in (a, b)]
    if not sum(errors):
        return None
    freedom = sum(errors) ** 2 / sum(e**2 / (len(each) - 1) for e, each in zip(errors, (a, b), strict=True))
    wide = _quantile(arms, freedom) * sum(errors) ** 0.5
    return apart - wide, apart + wide


def _over_images(a: Value, b: Value, arms: int) -> tuple[float, float] | None:
    """The interval of the difference of two figures that have intervals of their own (Zou and Donner 2008)."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    apart, more = a.mean - b.mean, _quantile(arms, math.inf) / _quantile(2, math.inf)
    below = more * math.hypot(a.mean - a.low, b.high - b.mean)
    above = more * math.hypot(a.high - a.mean, b.mean - b.low)
    return apart - below, apart + above


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
        seen: list[Figure] = []
        for arm, found in some.items():
            figures = [figure for one in found if (figure := one.get(name)) is not None and math.isfinite(figure.value)]
            if len(figures) == len(found):
                values[arm] = _value(figures)
                seen.append(figures[0])
        if seen and seen[0].better is not None:
            beside = {what: value for figure in reversed(seen) for what, value in figure.beside.items()}
            same = alike and len({figure.among for figure in seen}) == 1
            result.append(Standing(name, seen[0].unit, seen[0].better, values, beside, same))
    return result


def caution(found: Sequence[Standing]) -> str:
    """How often such sentences err; empty where there are none."""
    weighed = sum(standing.alike and len(standing.values) > 1 for standing in found)
    if not weighed:
        return ""
    return (
        f"Of each figure, all pairs of arms are weighed together at 95%; there are {weighed} figures, so that chance "
        f"alone makes up to {weighed * (1 - LEVEL):.1f} of them say what is not so."
    )


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
