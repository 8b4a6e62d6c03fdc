"""What a source hands out before anything is decoded."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

__all__ = ["Halves", "Pair", "Raw", "Single", "Tile", "Unreadable"]


class Unreadable(NamedTuple):
    """An item whose content the source itself could not give."""

    reason: str


class Tile(NamedTuple):
    """A part of an image, in pixels of the image as it would be seen."""

    file: str | bytes | np.ndarray
    top: int
    left: int
    height: int
    width: int


class Pair(NamedTuple):
    """An image and its partner."""

    image: Single
    targets: tuple[Single | None, ...]
    """One file, or one for each class of a mask; None where an image has nothing of that class."""


class Halves(NamedTuple):
    """An image and its partner in one file."""

    file: Single
    first: str
    """Where the image is: left, right, top or bottom."""


Single: TypeAlias = str | bytes | np.ndarray | Unreadable | Tile
Raw: TypeAlias = Single | Pair | Halves
"""An item before decoding: a path, an encoded image, uint8 pixels [h, w] or [h, w, c], a part of one of these, or why
there is nothing; or two of these that belong together."""
