"""Images side by side in one picture, and whether there is a place for what is made of images."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ectype.errors import DataError

if TYPE_CHECKING:
    from ectype.data.prepared import Prepared

__all__ = ["contact_sheet", "fillable", "save_grid", "save_overview", "with_partners", "writable", "writing"]

SMALL = 64
"""Images with a shorter side than this are enlarged by a whole number until they reach it."""


def contact_sheet(
    images: ArrayLike,
    *,
    columns: int | None = None,
    scale: int | None = None,
) -> Image.Image:
    """A grid of images, row by row, on white.

    Args:
        images: uint8 [n, c, h, w] of one or three channels: an array, or a tensor on the CPU.
        columns: Images in a row; about as many as there are rows if not given.
        scale: How many times each pixel is repeated; enough to see small images if not given.

    Raises:
        ValueError: No images, another type than uint8, or another number of channels.
    """
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise ValueError(
            f"images of {pixels.dtype} and shape {list(pixels.shape)}: give uint8 [n, c, h, w] with one or three "
            "channels."
        )
    n, channels, height, width = pixels.shape
    across = min(n, columns or math.ceil(math.sqrt(n)))
    scale = scale or max(1, math.ceil(SMALL / min(height, width)))
    rows = math.ceil(n / across)
    gap = max(2, min(height, width) * scale // 32)
    high, wide = height * scale + gap, width * scale + gap
    sheet = np.full((rows * high + gap, across * wide + gap, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + i // across * high, gap + i % across * wide
        large = image.transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
        sheet[top : top + height * scale, left : left + width * scale] = large
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def with_partners(pixels: np.ndarray, channels: int, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Images and their partners in turns, [2 n, 3, h, w]: masks in the classes' colours, grey where ignored.

    Args:
        pixels: uint8 [n, c, h, w], the partners' channels behind the images'.
        channels: Of the images.
        colours: Of the classes of masks; none where partners are pictures.
    """
    images, partners = pixels[:, :channels], pixels[:, channels:]
    if colours:
        palette = np.full((256, 3), 128, np.uint8)
        palette[: len(colours)] = colours
        partners = palette[partners[:, 0]].transpose(0, 3, 1, 2)
    shape = (len(pixels), 3, *pixels.shape[2:])
    both = np.stack([np.broadcast_to(images, shape), np.broadcast_to(partners, shape)], axis=1)
    return both.reshape(2 * len(pixels), *shape[1:])


def save_grid(
    images: ArrayLike,
    path: str | os.PathLike[str],
    *,
    columns: int | None = None,
    scale: int | None = None,
) -> None:
    """Write a contact sheet as an image file; its folder is made if need be. See `contact_sheet` and `writing`."""
    sheet = contact_sheet(images, columns=columns, scale=scale)
    with writing(Path(path)):
        sheet.save(path)


def writable(out: Path, *endings: str) -> None:
    """Raise `DataError` unless a file can be written there, before the work whose result it should hold.

    Args:
        out: The file; nothing is made yet.
        endings: What its name may end in; none for every kind of picture that can be written.
    """
    if endings and out.suffix.lower() not in endings:
        kinds = " or ".join(filter(None, [", ".join(endings[:-1]), endings[-1]]))
        raise DataError(f"'{out}' is of no kind that is written here: its name should end in {kinds}.")
    if not endings and not _drawable(out.suffix.lower()):
        raise DataError(f"'{out}' is no kind of picture that is written: give a name that ends in .png, .jpg or .webp.")
    _check(out, folder=False)


def fillable(out: Path) -> None:
    """Raise `DataError` unless that is a folder that files can be written to, or can become one."""
    _check(out, folder=True)


def _drawable(suffix: str) -> bool:
    """Whether pictures can be written as files that end so; Pillow knows kinds that it only reads, or not in grey."""
    try:
        for mode in ("L", "RGB"):
            Image.new(mode, (8, 8)).save(BytesIO(), Image.registered_extensions()[suffix])
    except (KeyError, OSError, ValueError):
        return False
    return True


def _check(out: Path, *, folder: bool) -> None:
    try:
        there = next((place for place in (out, *out.parents) if place.exists()), Path())
        if there == out and out.is_dir() != folder:
            reason = "it is a file" if folder else "it is a folder"
        elif there != out and not there.is_dir():
            reason = f"'{there}' is a file"
        elif not os.access(there, os.W_OK):
            reason = f"'{there}' may not be written to"
        else:
            return
    except OSError as error:
        reason = error.strerror
    raise DataError(f"cannot write '{out}' ({reason}): name another place.")


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Make a file's folder, and raise `DataError` where the file cannot be written after all."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, ValueError) as error:  # Pillow raises both
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"cannot write '{out}' ({reason}): make room, or name another place.") from None


def save_overview(prepared: Prepared, target: Path) -> None:
    """Sixty-four images, spread evenly over all that are usable; half as many where each has its partner beside it."""
    target_of = prepared.info.target
    usable = np.flatnonzero(prepared.sides)
    count = 64 if target_of is None else 32
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, count).astype(int))]
    shards = [np.load(path, mmap_mode="r") for path in prepared.shards]
    starts = np.cumsum([0, *map(len, shards)])
    places = [int(np.searchsorted(starts, row, side="right")) - 1 for row in chosen]
    pixels = np.stack([shards[k][row - starts[k]] for k, row in zip(places, chosen, strict=True)])
    if target_of is not None:
        pixels = with_partners(pixels, prepared.info.channels, target_of.colours)
    save_grid(pixels, target)
