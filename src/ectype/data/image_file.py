"""Opening image files: allowed formats, EXIF orientation, and the reasons for which a file is rejected."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from ectype.data.raw_image import Rejected, Single, Tile, Unreadable

__all__ = [
    "PILLOW_FORMATS",
    "exif_transpose_method",
    "image_size",
    "load_upright",
    "multi_frame_kind",
    "multi_frame_kind_of",
    "open_image",
    "swaps_axes",
]

PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
"""The only formats that are tried: some others of Pillow's start programs, or accept any content."""
EXIF_ORIENTATION = 0x0112

_EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that undoes each EXIF orientation."""
_SWAPS_AXES = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


@contextlib.contextmanager
def open_image(raw: str | bytes) -> Iterator[Image.Image]:
    """Open a path or an encoded image; the body may load and process it.

    Raises:
        Rejected: Opening, or the body, raised any error.
    """
    try:
        with _bomb_warnings_as_errors(), _open(raw) as image:
            yield image
    except Rejected:
        raise
    except Exception as error:  # decoding damaged or malicious bytes may raise anything
        raise Rejected(_rejection_reason(error, raw)) from None


@contextlib.contextmanager
def _bomb_warnings_as_errors() -> Iterator[None]:
    """Silence Pillow's warnings, except that an image may be a decompression bomb, which becomes an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _open(raw: str | bytes) -> Image.Image:
    if isinstance(raw, bytes):
        if not raw:
            raise Rejected("empty (0 bytes)")
        return Image.open(io.BytesIO(raw), formats=PILLOW_FORMATS)
    try:
        return Image.open(raw, formats=PILLOW_FORMATS)
    except UnidentifiedImageError:
        if os.path.getsize(raw) == 0:
            raise Rejected("empty (0 bytes)") from None
        raise


def _rejection_reason(error: Exception, raw: str | bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return "too many pixels (a decompression bomb?)"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "not found (moved, or a broken link)"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    detail = " ".join(str(error).replace(raw if isinstance(raw, str) else "\0", "").split())
    if "truncated" in detail or isinstance(error, EOFError):
        return "truncated"
    return f"damaged ({detail or type(error).__name__})"


def exif_transpose_method(image: Image.Image) -> Image.Transpose | None:
    """Return the operation that makes an opened image upright, or None if it is. Pillow turns TIFF files by itself."""
    if image.format == "TIFF":
        return None
    try:
        return _EXIF_TRANSPOSES.get(int(image.getexif().get(EXIF_ORIENTATION, 1)))
    except Exception:  # an image with a damaged EXIF block can still be used
        return None


def swaps_axes(method: Image.Transpose | None) -> bool:
    """Return whether an operation swaps width and height."""
    return method in _SWAPS_AXES


def load_upright(raw: Single) -> Image.Image:
    """Load an image at its full size and in its own mode, with its EXIF orientation applied.

    Raises:
        Rejected: The image cannot be used.
    """
    if isinstance(raw, Unreadable):
        raise Rejected(raw.reason)
    if isinstance(raw, Tile):
        image = _load_upright_cached(raw.file) if isinstance(raw.file, str) else load_upright(raw.file)
        return image.crop((raw.left, raw.top, raw.left + raw.width, raw.top + raw.height))
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw)
    with open_image(raw) as image:
        method = exif_transpose_method(image)
        image.load()
        upright = image.copy() if method is None else image.transpose(method)
        upright.format = image.format
        return upright


@functools.lru_cache(maxsize=2)
def _load_upright_cached(path: str) -> Image.Image:
    """Load an image, or return it from a cache of two: the tiles of an image and of its mask follow each other."""
    return load_upright(path)


def multi_frame_kind_of(image: Image.Image) -> str | None:
    """Return "paged" or "animated" for an opened image with several frames, None for others."""
    if image.format in ("MPO", "JPEG") or not getattr(image, "is_animated", False):
        return None
    return "paged" if image.format == "TIFF" else "animated"


def multi_frame_kind(raw: Single) -> str | None:
    """Return "paged" or "animated" for a file with several frames, None for others. Only its header is read."""
    with contextlib.suppress(Rejected):  # decoding will report the reason
        if isinstance(raw, str | bytes):
            with open_image(raw) as image:
                return multi_frame_kind_of(image)
    return None


def image_size(raw: Single) -> tuple[int, int] | None:
    """Return height and width of the upright image, None if it is not an image. Only its header is read."""
    if isinstance(raw, np.ndarray):
        return raw.shape[0], raw.shape[1]
    if isinstance(raw, Tile):
        return raw.height, raw.width
    with contextlib.suppress(Rejected):  # decoding will report the reason
        if not isinstance(raw, Unreadable):
            with open_image(raw) as image:
                return image.size if swaps_axes(exif_transpose_method(image)) else (image.height, image.width)
    return None
