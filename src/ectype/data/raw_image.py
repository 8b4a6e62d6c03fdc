"""The items that a source yields, before they are decoded."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

__all__ = ["Pair", "Raw", "Rejected", "SideBySide", "Single", "Tile", "Unreadable"]


class Rejected(Exception):
    """Raised for an image that cannot be used. The message is the reason."""


class Unreadable(NamedTuple):
    """An item whose content the source could not read."""

    reason: str


class Tile(NamedTuple):
    """A part of an image, in pixels of the upright image (with its EXIF orientation applied)."""

    file: str | bytes | np.ndarray
    top: int
    left: int
    height: int
    width: int


class Pair(NamedTuple):
    """An image and its target."""

    image: Single
    targets: tuple[Single | None, ...]
    """One file, or one file per class of a mask; None if the image has no pixels of that class."""


class SideBySide(NamedTuple):
    """An image and its target in one file."""

    file: Single
    image_half: str
    """The half that is the image: left, right, top or bottom."""


Single: TypeAlias = str | bytes | np.ndarray | Unreadable | Tile
Raw: TypeAlias = Single | Pair | SideBySide
"""An item before decoding: a path, an encoded image, uint8 pixels [h, w] or [h, w, c], a part of one of these, or the
reason why it cannot be read; or a pair of these."""
