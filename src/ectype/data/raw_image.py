"""The items that a source yields, before they are decoded."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

__all__ = ["Alpha", "Pair", "Raw", "Rejected", "SideBySide", "Single", "Tile", "Transposed", "Unreadable"]


class Rejected(Exception):
    """Raised for an image that cannot be used. The message is the reason."""


class Unreadable(NamedTuple):
    """An item whose content the source could not read."""

    reason: str


class Alpha(NamedTuple):
    """The alpha channel of an image, as a mask; 255 for an image without one."""

    file: str | bytes | np.ndarray


class Transposed(NamedTuple):
    """A file that is rotated or mirrored after it was loaded, because it has the orientation of another file."""

    file: str | bytes
    method: Image.Transpose


class Tile(NamedTuple):
    """A part of an image, in pixels of the upright image (with its EXIF orientation applied)."""

    file: str | bytes | np.ndarray | Alpha | Transposed
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


Single: TypeAlias = str | bytes | np.ndarray | Unreadable | Alpha | Transposed | Tile
Raw: TypeAlias = Single | Pair | SideBySide
"""An item before decoding: a path, an encoded image, uint8 pixels [h, w] or [h, w, c], a part of one of these, or the
reason why it cannot be read; or a pair of these."""
