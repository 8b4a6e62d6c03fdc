"""Statistical comparison of several models' figures: which differences the figures support, and which they do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from ectype.core.table import Table
from ectype.evaluation.figure_names import clip_to_range, display_name
from ectype.evaluation.figures import Evaluation, Figure, format_number

__all__ = [
    "ArmValue",
    "FigureComparison",
    "compare_figures",
    "comparison_sentences",
    "comparison_table",
    "multiple_comparison_note",
]

CONFIDENCE = 0.95


class ArmValue(NamedTuple):
    """One figure of one arm of a comparison."""

    mean: float
    low: float | None
    """Lower end of the 95% interval; None where there is no interval."""
    high: float | None
    per_seed: tuple[float, ...]
    """Value of each seed."""


class FigureComparison(NamedTuple):
    """One figure of all arms that have it."""

    key: str
    name: str
    """Display name of the figure."""
    unit: str
    better: Literal["lower", "higher"]
    values: dict[str, ArmValue]
    """Arm → value."""
    baselines: dict[str, float]
    """Key of a baseline → the same metric of it."""
    comparable: bool = True
    """Whether all arms were measured on the same images and in the same way; else no difference means anything."""
    group: str = ""
    """The group of the figure, such as reconstruction."""
    n: int | None = None
    """Images that the figure was computed on."""

    @property
    def named_baselines(self) -> dict[str, float]:
        """Display name of each baseline → its value."""
        return {display_name(key): value for key, value in self.baselines.items()}

    @property
    def best(self) -> str:
        """The arm with the best mean."""
        choose = max if self.better == "higher" else min
        return choose(self.values, key=lambda arm: self.values[arm].mean)

    @property
    def ranks(self) -> list[list[str]]:
        """The arms in order, the best first; one that does not differ from the best of a rank shares it."""
        sign = -1 if self.better == "higher" else 1
        ranks: list[list[str]] = []
        for arm in sorted(self.values, key=lambda arm: sign * self.values[arm].mean):
            if ranks and self.difference(ranks[-1][0], arm) is None:
                ranks[-1].append(arm)
            else:
                ranks.append([arm])
        return ranks

    @property
    def winner(self) -> str | None:
        """The best arm if it differs significantly from every other arm; else None."""
        best = self.best
        others = [arm for arm in self.values if arm != best]
        return best if others and all(self.difference(best, other) for other in others) else None

    def difference(self, one: str, other: str) -> tuple[float, float] | None:
        """Return the interval of one arm's mean minus another's, if it excludes 0.

        Intervals of all pairs of arms hold simultaneously in 95% of cases, so the best arm may be picked first. With
        several seeds of both arms they are over seeds. With one seed of both they are over test images, as if each arm
        had images of its own, which makes them too wide rather than too narrow. One seed does not compare with several.

        Returns:
            Both ends; None where the arms do not differ significantly, or are not comparable.
        """
        a, b = self.values[one], self.values[other]
        if not self.comparable:
            return None
        if min(len(a.per_seed), len(b.per_seed)) > 1:
            interval = _interval_over_seeds(a.per_seed, b.per_seed, len(self.values))
        elif len(a.per_seed) == len(b.per_seed):
            interval = _interval_over_images(a, b, len(self.values))
        else:
            return None
        return None if interval is None or interval[0] <= 0 <= interval[1] else interval


def _quantile(arms: int, degrees: float) -> float:
    """Return the standard errors that the largest difference among all pairs of arms has by chance (Tukey)."""
    if arms == 2:
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))
    if math.isfinite(degrees):  # rounded down, so that few values must be integrated
        degrees = math.floor(4 * degrees) / 4 if degrees < 10 else math.floor(degrees)
    return _studentized_range_quantile(arms, degrees)


@lru_cache(maxsize=512)
def _studentized_range_quantile(arms: int, degrees: float) -> float:
    return float(stats.studentized_range.ppf(CONFIDENCE, arms, degrees)) / 2**0.5


def _interval_over_seeds(a: Sequence[float], b: Sequence[float], arms: int) -> tuple[float, float] | None:
    """Return the interval of the difference of two of several means with unequal variances (Games and Howell 1976).

    None where neither varies: seeds that agree by chance do not show how far they vary.
    """
    difference = float(np.mean(a) - np.mean(b))
    variances = [float(np.var(values, ddof=1)) / len(values) for values in (a, b)]
    if not sum(variances):
        return None
    degrees = sum(variances) ** 2 / sum(v**2 / (len(values) - 1) for v, values in zip(variances, (a, b), strict=True))
    half = _quantile(arms, degrees) * sum(variances) ** 0.5
    return difference - half, difference + half


def _interval_over_images(a: ArmValue, b: ArmValue, arms: int) -> tuple[float, float] | None:
    """Return the interval of the difference of two figures that have intervals of their own (Zou and Donner 2008)."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    difference, factor = a.mean - b.mean, _quantile(arms, math.inf) / _quantile(2, math.inf)
    below = factor * math.hypot(a.mean - a.low, b.high - b.mean)
    above = factor * math.hypot(a.high - a.mean, b.mean - b.low)
    return difference - below, difference + above


def _arm_value(figures: Sequence[Figure]) -> ArmValue:
    values = tuple(figure.value for figure in figures)
    mean = float(np.mean(values))
    if len(values) == 1:
        return ArmValue(mean, figures[0].low, figures[0].high, values)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return ArmValue(mean, *clip_to_range(figures[0].key, mean - half, mean + half), values)


def compare_figures(arms: Mapping[str, Sequence[Evaluation]], *, comparable: bool = True) -> list[FigureComparison]:
    """Compare every figure with a direction that is good, among the arms that have it.

    The interval of a mean over several seeds is Student's, over seeds. With one seed it is the evaluation's, over test
    images.

    Args:
        arms: Arm → an evaluation for each seed. Arms without any are left out.
        comparable: Whether all arms were measured on images that were prepared in the same way.
    """
    evaluated = {arm: list(evaluations) for arm, evaluations in arms.items() if evaluations}
    keys = dict.fromkeys(
        figure.key for each in evaluated.values() for figure in each[0].figures if figure.better is not None
    )
    comparisons = []
    for key in keys:
        values: dict[str, ArmValue] = {}
        first: list[Figure] = []
        for arm, evaluations in evaluated.items():
            figures = [figure for each in evaluations if (figure := each.get(key)) and math.isfinite(figure.value)]
            if len(figures) == len(evaluations):
                values[arm] = _arm_value(figures)
                first.append(figures[0])
        if first and (better := first[0].better) is not None:
            baselines = {each: value for figure in reversed(first) for each, value in figure.baselines.items()}
            same_kind = len({figure.comparable_within for figure in first}) == 1
            name = first[0].name if same_kind else display_name(key)
            comparisons.append(
                FigureComparison(
                    key,
                    name,
                    first[0].unit,
                    better,
                    values,
                    baselines,
                    comparable and same_kind,
                    first[0].group,
                    first[0].n,
                )
            )
    return comparisons


def multiple_comparison_note(comparisons: Sequence[FigureComparison]) -> str:
    """Return how many of the differences are expected by chance; empty where nothing is compared."""
    compared = sum(comparison.comparable and len(comparison.values) > 1 for comparison in comparisons)
    if not compared:
        return ""
    return (
        f"All pairs of arms are compared at a joint 95% level for each figure. With {compared} figures, up to "
        f"{compared * (1 - CONFIDENCE):.1f} of them are expected to show a difference by chance."
    )


def comparison_sentences(comparisons: Sequence[FigureComparison], arms: Sequence[str]) -> list[str]:
    """Return one sentence for each figure that at least two arms have: which arms differ significantly.

    Args:
        comparisons: As `compare_figures` returns them.
        arms: All arms, those without a figure included.
    """
    return [
        _sentence(comparison, arms)
        for comparison in comparisons
        if len(comparison.values) >= 2 and comparison.comparable
    ]


def _sentence(comparison: FigureComparison, arms: Sequence[str]) -> str:
    best, values = comparison.best, comparison.values
    worse, level = [], []
    for other in values:
        difference = comparison.difference(best, other) if other != best else None
        if difference is not None:
            low, high = sorted(map(abs, difference))
            by = f"by {format_number(low)} to {format_number(high)}" if low != high else f"by {format_number(low)}"
            worse.append(f"{other} ({format_number(values[other].mean)}, {by})")
        elif other != best:
            level.append(other)
    if worse:
        unit = f" {comparison.unit}" if comparison.unit else ""
        value = f"{format_number(values[best].mean)}{unit}"
        text = f"{comparison.name}: {best} ({value}) is better than {', '.join(worse)}"
        text += f"; its difference from {_join_names(level)} is not significant." if level else "."
    else:
        text = f"{comparison.name}: {_join_names(values)} do not differ significantly."
    without = [arm for arm in arms if arm not in values]
    if without:
        text += f" {_join_names(without)} {'has' if len(without) == 1 else 'have'} no such figure."
    return text


def _join_names(names: Iterable[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def comparison_table(figures: Sequence[FigureComparison]) -> Table:
    """Return one row for each figure and arm: key, figure, arm, mean, low, high (95%), unit, better, best.

    `best` is True for the arm that is better than every other beyond chance; no arm has it where that is not known.
    """
    return Table(
        [
            {
                "key": figure.key,
                "figure": figure.name,
                "arm": arm,
                "mean": value.mean,
                "low": value.low,
                "high": value.high,
                "unit": figure.unit,
                "better": figure.better,
                "best": figure.winner == arm,
            }
            for figure in figures
            for arm, value in figure.values.items()
        ]
    )
