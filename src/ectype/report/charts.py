"""Charts as the JSON that plotly.js draws; colours come from the page, so that they follow light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from jaxtyping import Float
from torch import Tensor

__all__ = ["Chart", "Line", "bars", "heat", "lines", "points", "scatter"]

PALETTE = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#ff9da7", "#8a8f98"),
    *("#1f4e79", "#a85b0c", "#2f6b2b", "#96282a", "#6d4468", "#3d7f7a", "#a88a12", "#5f4436", "#d8566a", "#565b63"),
)
"""Twenty colours that are told apart on light and dark; more classes begin again."""


@dataclass(frozen=True)
class Chart:
    """A drawing in a page."""

    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 320
    deep: bool = False
    """Whether it needs WebGL."""

    @property
    def spec(self) -> str:
        """JSON that may stand inside a script element."""
        text = json.dumps({"data": self.data, "layout": self.layout}, allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c")


def _plain(value: float | None) -> float | None:
    """Five digits, which is more than can be seen; None, a gap, where it is no number."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: int = 0
    dots: bool = False


def lines(
    title: str,
    caption: str,
    curves: Sequence[Line],
    *,
    x: str,
    y: str = "",
    marks: Sequence[tuple[float, float, str]] = (),
    height: int = 300,
    log: bool = False,
) -> Chart:
    """Curves over one axis, points of which may be marked with a word; `log` scales what they show."""
    data: list[dict[str, Any]] = []
    for curve in curves:
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if curve.dots else "lines",
                "name": curve.name,
                "x": [_plain(value) for value in curve.x],
                "y": [_plain(value) for value in curve.y],
                "line": {"color": PALETTE[curve.colour], "width": 2},
                "marker": {"size": 5},
            }
        )
    for i, (across, up, name) in enumerate(marks):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [across],
                "y": [_plain(up)],
                "marker": {"size": 12, "symbol": ("star", "square")[i % 2], "color": PALETTE[3]},
            }
        )
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}, **({"type": "log"} if log else {})},
        "hovermode": "x unified",
    }
    layout["showlegend"] = len(data) > 1
    return Chart(title, caption, data, layout, height)


def points(
    title: str,
    caption: str,
    places: Sequence[tuple[float, float]],
    intervals: Sequence[tuple[float | None, float | None]],
    names: Sequence[str],
    line: Sequence[tuple[float, float]],
    *,
    x: str,
    y: str,
) -> Chart:
    """Named points with intervals over a logarithmic axis, and a line through some of them."""
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [_plain(a) for a, _ in line],
            "y": [_plain(b) for _, b in line],
            "line": {"color": PALETTE[9], "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]
    for i, ((across, up), (low, high), name) in enumerate(zip(places, intervals, names, strict=True)):
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": escape(name),
                "text": [escape(name)],
                "textposition": "top center",
                "x": [_plain(across)],
                "y": [_plain(up)],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [_plain(max(0.0, high - up)) if high is not None else None],
                    "arrayminus": [_plain(max(0.0, up - low)) if low is not None else None],
                },
                "marker": {"size": 10, "color": PALETTE[i % len(PALETTE)]},
            }
        )
    layout = {
        "xaxis": {"title": {"text": x}, "type": "log"},
        "yaxis": {"title": {"text": y}},
        "showlegend": False,
        "hovermode": "closest",
    }
    return Chart(title, caption, data, layout, height=360)


def bars(title: str, caption: str, values: Sequence[float], *, x: str, y: str) -> Chart:
    """One bar per number, from 1."""
    places = list(range(1, len(values) + 1))
    data = [{"type": "bar", "x": places, "y": [_plain(v) for v in values], "marker": {"color": PALETTE[0]}}]
    axis: dict[str, Any] = {"title": {"text": x}}
    if len(values) <= 20:
        axis |= {"dtick": 1}
    layout = {"xaxis": axis, "yaxis": {"title": {"text": y}}, "showlegend": False, "bargap": 0.1}
    return Chart(title, caption, data, layout, 260)


def heat(
    title: str, caption: str, values: Sequence[Sequence[float]], down: Sequence[str], across: Sequence[str]
) -> Chart:
    """A table of shares as squares, the darker the larger, the first row on top."""
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "z": [[_plain(value) for value in row] for row in values],
            "x": [escape(name, quote=False) for name in across],
            "y": [escape(name, quote=False) for name in down],
            "zmin": 0,
            "zmax": 1,
            "colorscale": [[0, "rgba(78,121,167,0)"], [1, PALETTE[0]]],
            "texttemplate": "%{z:.2f}" if len(down) <= 20 else "",
            "showscale": False,
        }
    ]
    axis = {"type": "category"}
    layout = {"xaxis": axis, "yaxis": {**axis, "autorange": "reversed"}, "showlegend": False}
    return Chart(title, caption, data, layout, 120 + 32 * min(24, len(down)))


def scatter(
    title: str,
    caption: str,
    points: Float[Tensor, "n k"],
    axes: Sequence[str],
    names: Sequence[str],
    classes: Mapping[str, Sequence[int]],
) -> Chart:
    """Points in the plane or in space, a colour for each class.

    Args:
        title: Of the chart.
        caption: What is seen.
        points: Two or three coordinates each.
        axes: What they are.
        names: Shown when a point is touched.
        classes: Name → places of its points; a single one without a name where there are none.
    """
    deep = points.shape[1] == 3
    data: list[dict[str, Any]] = []
    for i, (name, places) in enumerate(classes.items()):
        own = points[list(places)].T.tolist()
        shown_name = escape(name, quote=False)  # Plotly reads some HTML in texts
        about = f"{shown_name}<br>" if name else ""
        trace = {
            "type": "scatter3d" if deep else "scatter",
            "mode": "markers",
            "name": shown_name,
            "text": [about + escape(names[place], quote=False) for place in places],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"size": 3 if deep else 6, "color": PALETTE[i % len(PALETTE)], "opacity": 0.8},
        }
        trace |= {axis: [_plain(value) for value in row] for axis, row in zip("xyz", own, strict=False)}
        data.append(trace)
    shown: dict[str, Any] = {f"{axis}axis": {"title": {"text": name}} for axis, name in zip("xyz", axes, strict=False)}
    layout: dict[str, Any] = {"scene": {**shown, "aspectmode": "auto"}} if deep else shown
    layout |= {"showlegend": len(classes) > 1, "hovermode": "closest"}
    return Chart(title, caption, data, layout, 480, deep)
