"""Charts as JSON for plotly.js. Text and grid colors come from the page, so that they follow light and dark mode."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ectype.core.escape import for_html

__all__ = ["Chart", "Line", "bar_chart", "heatmap", "line_chart", "point_chart", "scatter_chart"]

PALETTE = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#ff9da7", "#8a8f98"),
    *("#1f4e79", "#a85b0c", "#2f6b2b", "#96282a", "#6d4468", "#3d7f7a", "#a88a12", "#5f4436", "#d8566a", "#565b63"),
)
"""Twenty colors that are distinguishable in light and dark mode; further classes start again."""
MAX_INTEGER_TICKS = 20
"""Number of bars up to which every bar has a tick."""
MAX_LABELED_CLASSES = 20
"""Number of rows of a heatmap up to which its cells show their values."""


@dataclass(frozen=True)
class Chart:
    """A chart in a page.

    Attributes:
        title: Its name.
        caption: Text next to the title.
        data: Plotly's traces.
        layout: Plotly's layout.
        height: In pixels.
        webgl: Whether it needs WebGL.
    """

    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 320
    webgl: bool = False

    @property
    def spec(self) -> str:
        """The chart as JSON that is safe inside a script element."""
        text = json.dumps({"data": self.data, "layout": self.layout}, allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c")


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: In the legend.
        x: Horizontal coordinates.
        y: Vertical coordinates; None leaves a gap.
        color: Index into `PALETTE`.
        markers: Whether each point has a marker.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: int = 0
    markers: bool = False


def _round(value: float | None) -> float | None:
    """Round to five digits, more than can be seen. A value that is not finite becomes None, a gap."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def line_chart(
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
    """Draw curves over one axis.

    Args:
        title: Of the chart.
        caption: What it shows.
        curves: The curves.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        marks: Points to highlight, with their names.
        height: In pixels.
        log: Whether the vertical axis is logarithmic.
    """
    data: list[dict[str, Any]] = []
    for curve in curves:
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if curve.markers else "lines",
                "name": for_html(curve.name),
                "x": [_round(value) for value in curve.x],
                "y": [_round(value) for value in curve.y],
                "line": {"color": PALETTE[curve.color], "width": 2},
                "marker": {"size": 5},
            }
        )
    for i, (mark_x, mark_y, name) in enumerate(marks):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": for_html(name),
                "x": [mark_x],
                "y": [_round(mark_y)],
                "marker": {"size": 12, "symbol": ("star", "square")[i % 2], "color": PALETTE[3]},
            }
        )
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": for_html(x)}},
        "yaxis": {"title": {"text": for_html(y)}, **({"type": "log"} if log else {})},
        "hovermode": "x unified",
        "showlegend": len(data) > 1,
    }
    return Chart(title, caption, data, layout, height)


def point_chart(
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
    """Draw named points with vertical intervals over a logarithmic axis, and a line through some of them.

    Args:
        title: Of the chart.
        caption: What it shows.
        places: Coordinates of the points.
        intervals: Lower and upper end of each point's interval; None if there is none.
        names: Of the points.
        line: Coordinates that the line connects.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
    """
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [_round(a) for a, _ in line],
            "y": [_round(b) for _, b in line],
            "line": {"color": PALETTE[9], "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]
    for i, ((point_x, point_y), (low, high), name) in enumerate(zip(places, intervals, names, strict=True)):
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": for_html(name),
                "text": [for_html(name)],
                "textposition": "top center",
                "x": [_round(point_x)],
                "y": [_round(point_y)],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [_round(max(0.0, high - point_y)) if high is not None else None],
                    "arrayminus": [_round(max(0.0, point_y - low)) if low is not None else None],
                },
                "marker": {"size": 10, "color": PALETTE[i % len(PALETTE)]},
            }
        )
    layout = {
        "xaxis": {"title": {"text": for_html(x)}, "type": "log"},
        "yaxis": {"title": {"text": for_html(y)}},
        "showlegend": False,
        "hovermode": "closest",
    }
    return Chart(title, caption, data, layout, height=360)


def bar_chart(title: str, caption: str, values: Sequence[float], *, x: str, y: str) -> Chart:
    """Draw one bar for each value, numbered from 1."""
    places = list(range(1, len(values) + 1))
    data = [{"type": "bar", "x": places, "y": [_round(v) for v in values], "marker": {"color": PALETTE[0]}}]
    axis: dict[str, Any] = {"title": {"text": for_html(x)}}
    if len(values) <= MAX_INTEGER_TICKS:
        axis |= {"dtick": 1}
    layout = {"xaxis": axis, "yaxis": {"title": {"text": for_html(y)}}, "showlegend": False, "bargap": 0.1}
    return Chart(title, caption, data, layout, 260)


def heatmap(
    title: str, caption: str, values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]
) -> Chart:
    """Draw a table of fractions as a heatmap, the first row on top."""
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "z": [[_round(value) for value in row] for row in values],
            "x": [for_html(name) for name in columns],
            "y": [for_html(name) for name in rows],
            "zmin": 0,
            "zmax": 1,
            "colorscale": [[0, "rgba(78,121,167,0)"], [1, PALETTE[0]]],
            "texttemplate": "%{z:.2f}" if len(rows) <= MAX_LABELED_CLASSES else "",
            "showscale": False,
        }
    ]
    axis = {"type": "category"}
    layout = {"xaxis": axis, "yaxis": {**axis, "autorange": "reversed"}, "showlegend": False}
    return Chart(title, caption, data, layout, 120 + 32 * min(24, len(rows)))


def scatter_chart(
    title: str,
    caption: str,
    points: Float[Tensor, "n k"],
    axes: Sequence[str],
    names: Sequence[str],
    classes: Mapping[str, Sequence[int]],
) -> Chart:
    """Draw points in two or three dimensions, each class in its own color.

    Args:
        title: Of the chart.
        caption: What it shows.
        points: Two or three coordinates of each point.
        axes: Names of the axes.
        names: Text shown for each point on hover.
        classes: Class name → indices of its points; one class with an empty name if there are no classes.
    """
    in_space = points.shape[1] == 3
    data: list[dict[str, Any]] = []
    for i, (name, indices) in enumerate(classes.items()):
        coordinates = points[list(indices)].T.tolist()
        label = for_html(name)
        prefix = f"{label}<br>" if name else ""
        trace = {
            "type": "scatter3d" if in_space else "scatter",
            "mode": "markers",
            "name": label,
            "text": [prefix + for_html(names[index]) for index in indices],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"size": 3 if in_space else 6, "color": PALETTE[i % len(PALETTE)], "opacity": 0.8},
        }
        trace |= {axis: [_round(value) for value in row] for axis, row in zip("xyz", coordinates, strict=False)}
        data.append(trace)
    titles: dict[str, Any] = {
        f"{axis}axis": {"title": {"text": for_html(name)}} for axis, name in zip("xyz", axes, strict=False)
    }
    layout: dict[str, Any] = {"scene": {**titles, "aspectmode": "auto"}} if in_space else titles
    layout |= {"showlegend": len(classes) > 1, "hovermode": "closest"}
    return Chart(title, caption, data, layout, 480, in_space)
