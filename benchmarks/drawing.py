"""Line charts as SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

__all__ = ["Panel", "charts"]

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2")
WIDE, HIGH, LEFT, TOP, BOTTOM = 380, 300, 56, 40, 46
APART = 24
"""Minimum distance of two labels of an axis in pixels, so that they do not overlap."""


class Panel(NamedTuple):
    """One chart."""

    title: str
    x: str
    y: str
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]]
    """Name → (x, y, low, high) from left to right."""


def charts(panels: Sequence[Panel], place: Path) -> None:
    """Draw panels side by side with logarithmic axes, intervals, and one legend below."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    height = HIGH + 22 * len(names) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE * len(panels)} {height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * WIDE} 0)">{_panel(panel, names)}</g>')
    for i, name in enumerate(names):
        y = HIGH + 18 + 22 * i
        parts.append(
            f'<line x1="{LEFT}" x2="{LEFT + 28}" y1="{y - 4}" y2="{y - 4}" stroke="{COLOURS[i]}" stroke-width="3"/>'
        )
        parts.append(f'<text x="{LEFT + 36}" y="{y}">{escape(name)}</text>')
    place.write_text("".join(parts) + "</svg>\n", encoding="utf-8")


def _panel(panel: Panel, names: Sequence[str]) -> str:
    points = [point for curve in panel.curves.values() for point in curve]
    xs = sorted({point[0] for point in points})
    low, high = min(p[2] for p in points), max(p[3] for p in points)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin

    def across(x: float) -> float:
        share = 0.5 if xs[0] == xs[-1] else math.log(x / xs[0]) / math.log(xs[-1] / xs[0])
        return LEFT + 14 + share * (WIDE - LEFT - 44)

    def up(y: float) -> float:
        return HIGH - BOTTOM - (y - low) / (high - low) * (HIGH - BOTTOM - TOP)

    parts = [f'<text x="{LEFT}" y="20" font-size="14" font-weight="bold">{escape(panel.title)}</text>']
    step = _step(high - low)
    for k in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = up(k * step)
        parts.append(f'<line x1="{LEFT}" x2="{WIDE - 16}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{k * step:g}</text>')
    written = -math.inf
    for x in xs:
        if across(x) - written >= APART:
            written = across(x)
            parts.append(f'<text x="{written:.1f}" y="{HIGH - BOTTOM + 18}" text-anchor="middle">{x:,g}</text>')
    parts.append(f'<text x="{(LEFT + WIDE) / 2}" y="{HIGH - 8}" text-anchor="middle">{escape(panel.x)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 6}" fill="#555555">{escape(panel.y)}</text>')
    for name, curve in panel.curves.items():
        colour = COLOURS[names.index(name)]
        line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _, _ in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, bottom, top in curve:
            parts.append(
                f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{up(bottom):.1f}" y2="{up(top):.1f}" '
                f'stroke="{colour}"/><circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5" fill="{colour}"/>'
            )
    return "".join(parts)


def _step(span: float) -> float:
    """Return the distance of grid lines: about six in all."""
    rough = span / 6
    size = 10 ** math.floor(math.log10(rough))
    return next(size * k for k in (1, 2, 5, 10) if size * k >= rough)
