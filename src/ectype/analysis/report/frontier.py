"""Quality against training time: which of several models is not beaten by one that was trained for less time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from ectype.analysis.report.charts import Chart, point_chart
from ectype.evaluation.comparison_stats import FigureComparison
from ectype.evaluation.figure_names import metric_of
from ectype.runs.run_dir import RunDir

__all__ = ["pareto_front", "quality_against_time", "training_minutes"]

MAX_CHARTS = 2
"""Number of figures that are drawn: one of samples, and one of reconstructions or masks."""
METRICS = ("log_likelihood_iw", "fd", "mean_dice", "psnr", "ssim")
"""Metrics that can be drawn, the most important first."""


def quality_against_time(runs: Mapping[str, Sequence[RunDir]], comparisons: Sequence[FigureComparison]) -> list[Chart]:
    """Draw main figures over the mean training time of the runs.

    Args:
        runs: Arm → its runs, one for each seed.
        comparisons: The figures of all arms.

    Returns:
        At most `MAX_CHARTS` charts, each of a figure that at least two arms have.
    """
    minutes = {
        arm: mean(map(training_minutes, some))
        for arm, some in runs.items()
        if some and all(map(training_minutes, some))
    }
    charts: list[Chart] = []
    for metric in METRICS:
        for comparison in comparisons:
            arms = [arm for arm in comparison.values if arm in minutes]
            is_drawn = comparison.comparable and metric_of(comparison.key) == metric
            if is_drawn and len(arms) > 1 and len(charts) < MAX_CHARTS:
                charts.append(_chart(comparison, arms, minutes))
                break
    return charts


def training_minutes(run: RunDir) -> float:
    """Return the minutes that a run was trained for, with checks, all attempts, and an autoencoder trained first."""
    summary = run.summary()
    attempts = [
        summary.get("autoencoder", {}),
        summary,
        *(run.attempt(entry["attempt"]).summary() for entry in summary.get("attempts", [])),
    ]
    return sum(each.get("seconds", 0.0) for each in attempts) / 60


def _chart(comparison: FigureComparison, arms: Sequence[str], minutes: Mapping[str, float]) -> Chart:
    values = {arm: comparison.values[arm] for arm in arms}
    places = [(minutes[arm], values[arm].mean) for arm in arms]
    front = [arms[i] for i in pareto_front(places, higher=comparison.better == "higher")]
    caption = (
        f"{comparison.better.capitalize()} is better. No model that was trained for less time is better than those on "
        f"the line: {', '.join(front)}."
    )
    return point_chart(
        f"{comparison.name} against training time",
        caption,
        places,
        [(v.low, v.high) for v in values.values()],
        list(arms),
        [(minutes[arm], values[arm].mean) for arm in front],
        x="minutes of training",
        y=f"{comparison.name} {comparison.unit}".strip(),
    )


def pareto_front(places: Sequence[tuple[float, float]], *, higher: bool) -> list[int]:
    """Return the indices of the pairs (cost, quality) that no other pair beats in both, the cheapest first.

    Args:
        places: Cost and quality of each candidate.
        higher: Whether a higher quality is better.

    >>> pareto_front([(1.0, 20.0), (2.0, 19.0), (3.0, 25.0)], higher=True)
    [0, 2]
    """
    sign = 1 if higher else -1
    order = sorted(range(len(places)), key=lambda i: (places[i][0], -sign * places[i][1]))
    best, front = float("-inf"), []
    for i in order:
        if sign * places[i][1] > best:
            best = sign * places[i][1]
            front.append(i)
    return front
