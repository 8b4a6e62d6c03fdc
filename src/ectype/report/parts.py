"""What a page is put together from."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ectype.measure.view import RunView
from ectype.report.charts import Chart
from ectype.report.pictures import Picture, strip

__all__ = ["Row", "Section", "said_of", "tiles"]


@dataclass(frozen=True)
class Row:
    """Pictures under one heading."""

    label: str
    pictures: list[Picture]
    caption: str = ""
    narrow: bool = False
    """Whether it may stand beside others."""
    tiles: bool = False
    """Whether its pictures are one set, close together."""


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    key: str
    title: str
    caption: str
    rows: list[Row] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    """Names and what is said of them."""


def said_of(view: RunView, place: int) -> str:
    """The name of a test image, with its class where it has one."""
    label = view.label(place)
    return f"{label}, {view.name(place)}" if label is not None else view.name(place)


def tiles(images: Tensor, of: str) -> list[Picture]:
    """Samples, one picture each."""
    return [strip(images[i : i + 1], f"sample {i + 1} of {of}") for i in range(len(images))]
