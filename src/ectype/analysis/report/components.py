"""The building blocks of a report page."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ectype.analysis.report.charts import Chart
from ectype.analysis.report.pictures import Picture, strip
from ectype.analysis.run_view import RunView

__all__ = ["Row", "Section", "image_title", "sample_pictures"]


@dataclass(frozen=True)
class Row:
    """Pictures under one heading.

    Attributes:
        label: The heading; may be empty.
        pictures: From left to right.
        caption: Text below the pictures.
        narrow: Whether other rows may stand next to it.
        tiles: Whether the pictures form one set and are shown close together.
    """

    label: str
    pictures: list[Picture]
    caption: str = ""
    narrow: bool = False
    tiles: bool = False


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        key: The end of its id in the HTML.
        title: Its heading.
        caption: Text below the heading.
        rows: Rows of pictures.
        charts: Charts below the pictures.
        facts: Terms and their descriptions, above the pictures.
    """

    key: str
    title: str
    caption: str
    rows: list[Row] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)


def image_title(view: RunView, place: int) -> str:
    """Return the name of a test image, after its class if it has one."""
    label = view.label(place)
    return f"{label}, {view.name(place)}" if label is not None else view.name(place)


def sample_pictures(images: Tensor, source: str) -> list[Picture]:
    """Return one picture for each sample. `source` names what drew them."""
    return [strip(images[i : i + 1], f"sample {i + 1} of {source}") for i in range(len(images))]
