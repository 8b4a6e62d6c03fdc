"""Contact sheets of images, and checks that an output file or folder can be written."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ectype.core.errors import DataError
from ectype.core.files import atomic_file
from ectype.core.outputs import ForeignFileError, check_output, output_file

__all__ = [
    "check_file_writable",
    "check_folder_writable",
    "contact_sheet",
    "interleave_targets",
    "save_grid",
    "writing_file",
]

MIN_SHOWN_SIDE_PX = 64
"""Images with a shorter side are enlarged by the smallest integer factor that reaches it."""
IGNORED_GRAY = 128
"""Gray value of ignored pixels of masks."""


def contact_sheet(images: ArrayLike, *, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Arrange images in a grid on white, row by row.

    Args:
        images: uint8 [n, c, h, w] with one or three channels: an array, or a tensor on the CPU.
        columns: Images per row; None for about as many columns as rows.
        scale: Factor by which each pixel is repeated; None for a factor that makes small images visible.

    Raises:
        ValueError: There are no images, or they have another type or number of channels.

    Example:
        >>> import numpy as np
        >>> contact_sheet(np.zeros((6, 3, 64, 64), np.uint8), columns=3).size
        (200, 134)
    """
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise ValueError(
            f"images have type {pixels.dtype} and shape {list(pixels.shape)}: give uint8 [n, c, h, w] with one or "
            "three channels."
        )
    n, channels, height, width = pixels.shape
    num_columns = min(n, columns or math.ceil(math.sqrt(n)))
    scale = scale or max(1, math.ceil(MIN_SHOWN_SIDE_PX / min(height, width)))
    rows = math.ceil(n / num_columns)
    gap = max(2, min(height, width) * scale // 32)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    sheet = np.full((rows * cell_height + gap, num_columns * cell_width + gap, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + i // num_columns * cell_height, gap + i % num_columns * cell_width
        enlarged = image.transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
        sheet[top : top + height * scale, left : left + width * scale] = enlarged
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def interleave_targets(pixels: np.ndarray, channels: int, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Return each image followed by its target; masks are drawn in the colors of their classes, ignored pixels in gray.

    Args:
        pixels: uint8 [n, c, h, w], the targets' channels after the images'.
        channels: Channels of an image.
        colors: Colors of the classes of masks; empty if targets are images.

    Returns:
        uint8 [2 n, 3, h, w].
    """
    images, targets = pixels[:, :channels], pixels[:, channels:]
    if colors:
        palette = np.full((256, 3), IGNORED_GRAY, np.uint8)
        palette[: len(colors)] = colors
        targets = palette[targets[:, 0]].transpose(0, 3, 1, 2)
    shape = (len(pixels), 3, *pixels.shape[2:])
    both = np.stack([np.broadcast_to(images, shape), np.broadcast_to(targets, shape)], axis=1)
    return both.reshape(2 * len(pixels), *shape[1:])


def save_grid(
    images: ArrayLike,
    path: str | os.PathLike[str],
    *,
    columns: int | None = None,
    scale: int | None = None,
    owned: bool = False,
) -> None:
    """Write a contact sheet to an image file, and create its folder if necessary.

    Args:
        images: As for `contact_sheet`.
        path: The file.
        columns: As for `contact_sheet`.
        scale: As for `contact_sheet`.
        owned: See `writing_file`.

    Raises:
        ValueError: As `contact_sheet` raises it.
        DataError: The file cannot be written, or exists and Ectype did not write it.
    """
    sheet = contact_sheet(images, columns=columns, scale=scale)
    with writing_file(Path(path), owned=owned) as scratch:
        sheet.save(scratch)


def check_file_writable(out: Path, *suffixes: str) -> None:
    """Check that a file can be written, before the work whose result it will hold. Nothing is created.

    Args:
        out: The file.
        suffixes: Suffixes that the file may have; none for any image format that can be written.

    Raises:
        DataError: The file cannot be written, has another suffix, or exists and Ectype did not write it.
    """
    if suffixes and out.suffix.lower() not in suffixes:
        options = " or ".join(filter(None, [", ".join(suffixes[:-1]), suffixes[-1]]))
        raise DataError(f"'{out}' has an unsupported suffix: use a name that ends in {options}.")
    if not suffixes and not _is_image_suffix(out.suffix.lower()):
        raise DataError(f"'{out}' is not a supported image format: use a name that ends in .png, .jpg or .webp.")
    _check_writable(out, is_folder=False)


def check_folder_writable(out: Path) -> None:
    """Check that files can be written to a folder, which need not exist yet. Nothing is created.

    Raises:
        DataError: They cannot.
    """
    _check_writable(out, is_folder=True)


def _is_image_suffix(suffix: str) -> bool:
    """Return whether Pillow can write such files, in color and in gray; it can only read some formats."""
    try:
        for mode in ("L", "RGB"):
            Image.new(mode, (8, 8)).save(BytesIO(), Image.registered_extensions()[suffix])
    except (KeyError, OSError, ValueError):
        return False
    return True


def _check_writable(out: Path, *, is_folder: bool) -> None:
    try:
        existing = next((path for path in (out, *out.parents) if path.exists()), Path())
        if existing == out and out.is_dir() != is_folder:
            reason = "it is a file" if is_folder else "it is a folder"
        elif existing != out and not existing.is_dir():
            reason = f"'{existing}' is a file"
        elif not os.access(existing if existing.is_dir() else existing.parent, os.W_OK):
            reason = f"no permission to write to '{existing}'"
        else:
            if not is_folder:
                check_output(out)
            return
    except OSError as error:
        reason = error.strerror
    raise DataError(f"cannot write '{out}' ({reason}): choose another path.")


@contextmanager
def writing_file(out: Path, *, owned: bool = False) -> Iterator[Path]:
    """Yield the path that the body writes instead of a file, which is then replaced at once; create its folder.

    Args:
        out: The file.
        owned: Whether the file is in a run or in another directory that belongs to Ectype, where it may be replaced
            whatever is in it; see `ectype.core.outputs`.

    Raises:
        DataError: The folder cannot be created, the file exists and Ectype did not write it, or the body raised OSError
            or ValueError (Pillow raises both).
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out, durable=False) if owned else output_file(out) as scratch:
            yield scratch
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        fix = "move it" if isinstance(error, ForeignFileError) else "free disk space"
        raise DataError(f"cannot write '{out}' ({reason}): {fix}, or choose another path.") from None
