"""Quality against the time that training took: which of several models nothing else beats at its price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from ectype.measure.standing import Standing
from ectype.report.charts import Chart, points
from ectype.training.rundir import RunDir

__all__ = ["frontier", "unbeaten"]

CHARTS = 2
"""Figures that are drawn, at most: of samples, and of reconstructions or masks."""
FIRST = ("log-likelihood", "FD-", "FID", "mean Dice", "PSNR", "SSIM")


def frontier(runs: Mapping[str, Sequence[RunDir]], standings: Sequence[Standing]) -> list[Chart]:
    """A chart for each main figure that at least two arms have, over what their runs took to train on average."""
    spent = {arm: mean(map(_trained, some)) for arm, some in runs.items() if some and all(map(_trained, some))}
    charts: list[Chart] = []
    for start in FIRST:
        for standing in standings:
            arms = [arm for arm in standing.values if arm in spent]
            drawn = standing.alike and standing.name.startswith(start)
            if drawn and len(arms) > 1 and len(charts) < CHARTS:
                charts.append(_chart(standing, arms, spent))
                break
    return charts


def _trained(run: RunDir) -> float:
    """Minutes that training took, all tries together: critics, penalties and many draws of a code cost their time."""
    said = run.summary()
    tries = [said, *(run.attempt(entry["attempt"]).summary() for entry in said.get("attempts", []))]
    return sum(each.get("seconds", 0.0) for each in tries) / 60


def _chart(standing: Standing, arms: Sequence[str], spent: Mapping[str, float]) -> Chart:
    values = {arm: standing.values[arm] for arm in arms}
    places = [(spent[arm], values[arm].mean) for arm in arms]
    front = [arms[i] for i in unbeaten(places, higher=standing.better == "higher")]
    said = (
        f"{standing.better.capitalize()} is better. On the line: {', '.join(front)}, which none beats that was trained "
        "for less time."
    )
    return points(
        f"{standing.name} against time",
        said,
        places,
        [(v.low, v.high) for v in values.values()],
        list(arms),
        [(spent[arm], values[arm].mean) for arm in front],
        x="minutes of training",
        y=f"{standing.name} {standing.unit}".strip(),
    )


def unbeaten(places: Sequence[tuple[float, float]], *, higher: bool) -> list[int]:
    """Which of (price, quality) no other beats in both, the cheapest first (Pareto)."""
    sign = 1 if higher else -1
    order = sorted(range(len(places)), key=lambda i: (places[i][0], -sign * places[i][1]))
    best, found = float("-inf"), []
    for i in order:
        if sign * places[i][1] > best:
            best = sign * places[i][1]
            found.append(i)
    return found
