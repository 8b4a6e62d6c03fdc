"""Opening image files: allowed formats, EXIF orientation, and the reasons for which a file is rejected."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from ectype.config.data_sections import DEFAULT_MAX_PIXELS
from ectype.data.bit_depth import fix_planar_16_bits, has_16_bits, low_byte_tiles, to_eight_bits
from ectype.data.raw_image import Alpha, Rejected, Single, Tile, Transposed, Unreadable

__all__ = [
    "PILLOW_FORMATS",
    "LoadOptions",
    "Loaded",
    "exif_orientation",
    "exif_transpose_method",
    "image_size",
    "load_opened",
    "load_upright",
    "multi_frame_kind",
    "multi_frame_kind_of",
    "open_image",
    "swaps_axes",
    "transpose_method",
]

PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
"""The only formats that are tried: some others of Pillow's start programs, or accept any content."""
EXIF_ORIENTATION = 0x0112

_EXIF_SOURCES = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Keys of `Image.info` from which Pillow reads EXIF tags."""
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


class LoadOptions(NamedTuple):
    """How files are loaded."""

    max_pixels: int = DEFAULT_MAX_PIXELS
    """Images with more pixels are rejected."""
    value_range: tuple[float, float] | None = None
    """As for `to_eight_bits`."""
    is_mask: bool = False
    """Keep the values of the file, which are not brightness."""


class Loaded(NamedTuple):
    """A loaded image."""

    image: Image.Image
    """In its own mode if it is a mask; else with 8 bits per channel."""
    has_16_bits: bool = False
    """Whether more than 8 bits were reduced to 8."""
    max_16_bit_value: int = 0
    """Largest value of a 16-bit image before it was reduced."""


@contextlib.contextmanager
def open_image(raw: str | bytes, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a path or an encoded image; the body may load and process it.

    Args:
        raw: The path, or the content of the file.
        max_pixels: Images with more pixels are rejected; None to read only the header of any image.

    Raises:
        Rejected: Opening, or the body, raised any error.
    """
    try:
        with _pillow_limit(max_pixels), _open(raw) as image:
            yield fix_planar_16_bits(image)
    except Rejected:
        raise
    except Exception as error:  # decoding damaged or malicious bytes may raise anything
        raise Rejected(_rejection_reason(error, raw, max_pixels)) from None


@contextlib.contextmanager
def _pillow_limit(max_pixels: int | None) -> Iterator[None]:
    """Silence Pillow's warnings, except that an image has too many pixels, which becomes an error."""
    usual = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


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


def _rejection_reason(error: Exception, raw: str | bytes, max_pixels: int | None) -> str:
    if isinstance(error, UnidentifiedImageError):
        return _tiff_reason(raw) or "not an image"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        found = re.search(r"\d+", str(error))
        count = f"{int(found[0]):,}, " if found else ""
        return f"too many pixels ({count}more than data.max_pixels={max_pixels})"
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


def _tiff_reason(raw: str | bytes) -> str | None:
    """Return what a TIFF holds that Pillow cannot read, and what to do; None for other files."""
    try:
        with io.BytesIO(raw) if isinstance(raw, bytes) else open(raw, "rb") as file:
            header = file.read(8)
            if header[:4] in (b"II+\0", b"MM\0+"):
                header += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
        if TiffImagePlugin.IMAGEWIDTH not in tags:
            return None
        bands = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
        bits, number_formats = (
            set(value) if isinstance(value := tags.get(tag, default), tuple) else {value}
            for tag, default in ((TiffImagePlugin.BITSPERSAMPLE, 1), (TiffImagePlugin.SAMPLEFORMAT, 1))
        )
    except Exception:  # not a TIFF, or damaged
        return None
    kind = f"TIFF of {bands} bands" if bands > 1 else "TIFF"
    if number_formats != {1}:
        number = {2: "signed integers", 3: "floating-point numbers"}.get(max(number_formats), "numbers of another type")
        return f"{kind} of {number} (convert it to 8 or 16 bits per band, for instance with tifffile)"
    if bands not in (1, 3, 4):
        return f"{kind} (save the 1 or 3 bands that are to be used as a file of their own)"
    return f"{kind} of {', '.join(map(str, sorted(bits)))} bits (convert it to 8 or 16 bits per band)"


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 without one.

    Loading removes it from a TIFF. It may also be stored behind the pixels of a PNG, where it is found only after the
    image was loaded.
    """
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            tags = image.tag_v2
        elif image.info.keys().isdisjoint(_EXIF_SOURCES):
            return 1
        else:
            tags = Image.Image.getexif(image)  # PngImageFile.getexif would load the pixels
        orientation = int(tags.get(EXIF_ORIENTATION, 1))
    except Exception:  # an image with a damaged EXIF block can still be used
        return 1
    return orientation if orientation in _EXIF_TRANSPOSES else 1


def transpose_method(orientation: int) -> Image.Transpose | None:
    """Return the operation that makes an image of this EXIF orientation upright; None if it is."""
    return _EXIF_TRANSPOSES.get(orientation)


def exif_transpose_method(image: Image.Image) -> Image.Transpose | None:
    """Return the operation that makes an opened image upright, or None if it is. Pillow turns TIFF files by itself."""
    return None if image.format == "TIFF" else transpose_method(exif_orientation(image))


def swaps_axes(method: Image.Transpose | None) -> bool:
    """Return whether an operation swaps width and height."""
    return method in _SWAPS_AXES


def load_upright(raw: Single, options: LoadOptions) -> Loaded:
    """Load an image at its full size, with its EXIF orientation applied.

    Raises:
        Rejected: The image cannot be used.
    """
    if isinstance(raw, Unreadable):
        raise Rejected(raw.reason)
    if isinstance(raw, np.ndarray):
        return Loaded(Image.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw))
    if isinstance(raw, Tile):
        loaded = _load_cached(raw.file, options)
        with _pillow_limit(options.max_pixels):
            image = loaded.image.crop((raw.left, raw.top, raw.left + raw.width, raw.top + raw.height))
        image.format = loaded.image.format
        return loaded._replace(image=image)
    if isinstance(raw, Alpha):
        image = load_upright(raw.file, options).image
        has_alpha = image.has_transparency_data
        return Loaded(image.convert("RGBA").getchannel("A") if has_alpha else Image.new("L", image.size, 255))
    if isinstance(raw, Transposed):
        loaded = load_upright(raw.file, options)
        return loaded._replace(image=_transpose(loaded.image, raw.method))
    with open_image(raw, options.max_pixels) as image:
        loaded = load_opened(image, raw, options)
        return loaded._replace(image=_transpose(loaded.image, exif_transpose_method(image)))


def _transpose(image: Image.Image, method: Image.Transpose | None) -> Image.Image:
    """Return a rotated or mirrored image, or a copy that does not depend on its file; the format is kept."""
    transposed = image.copy() if method is None else image.transpose(method)
    transposed.format = image.format
    return transposed


def load_opened(image: Image.Image, raw: str | bytes, options: LoadOptions) -> Loaded:
    """Load the pixels of an opened image, without its EXIF orientation.

    Args:
        image: The image, which is loaded.
        raw: What it was opened from.
        options: How it is loaded.

    Raises:
        Rejected: The values cannot be reduced to 8 bits.
    """
    deep = not options.is_mask and has_16_bits(image)
    low_bytes = _load_low_bytes(raw, options) if deep and low_byte_tiles(image) is not None else None
    image.load()
    range_is_deep = options.value_range is not None and options.value_range[1] > 255
    if deep and range_is_deep and low_bytes is None and not (image.mode.startswith("I") or image.mode == "F"):
        raise Rejected("16-bit pixels of which only 8 bits can be read (save it as PNG for data.value_range)")
    loaded = image
    if image.format in ("BMP", "DIB") and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        loaded = image.convert("RGB")  # the fourth byte of a BMP is often unused
    if options.is_mask:
        return Loaded(_with_format(loaded, image))
    loaded, largest = to_eight_bits(loaded, options.value_range, low_bytes)
    return Loaded(_with_format(loaded, image), deep, largest)


def _with_format(image: Image.Image, file: Image.Image) -> Image.Image:
    image.format = file.format
    return image


def _load_low_bytes(raw: str | bytes, options: LoadOptions) -> Image.Image:
    """Load a 16-bit image with the low bytes of its colors in place of the high ones."""
    with open_image(raw, options.max_pixels) as image:
        tiles = low_byte_tiles(image)
        assert tiles is not None
        assert isinstance(image, ImageFile.ImageFile)
        image.tile = tiles
        image.load()
        return image.copy()


def _load_cached(raw: str | bytes | np.ndarray | Alpha | Transposed, options: LoadOptions) -> Loaded:
    """Load an image, or return it from a cache of two: the tiles of an image and of its mask follow each other."""
    if isinstance(raw, np.ndarray) or (isinstance(raw, Alpha) and isinstance(raw.file, np.ndarray)):
        return load_upright(raw, options)  # there is nothing to decode
    file = raw.file if isinstance(raw, Alpha | Transposed) else raw
    changed = os.stat(file).st_mtime_ns if isinstance(file, str) and os.path.exists(file) else 0
    return _load_and_keep(raw, options, changed)


@functools.lru_cache(maxsize=2)
def _load_and_keep(raw: str | bytes | Alpha | Transposed, options: LoadOptions, changed: int) -> Loaded:
    return load_upright(raw, options)


def multi_frame_kind_of(image: Image.Image) -> str | None:
    """Return "paged" or "animated" for an opened image with several frames, None for others."""
    if image.format in ("MPO", "JPEG") or not getattr(image, "is_animated", False):
        return None
    return "paged" if image.format == "TIFF" else "animated"


def multi_frame_kind(raw: Single) -> str | None:
    """Return "paged" or "animated" for a file with several frames, None for others. Only its header is read."""
    with contextlib.suppress(Rejected):  # decoding will report the reason
        if isinstance(raw, str | bytes):
            with open_image(raw, None) as image:
                return multi_frame_kind_of(image)
    return None


def image_size(raw: Single) -> tuple[int, int] | None:
    """Return height and width of the upright image, None if it is not an image. Only its header is read."""
    if isinstance(raw, np.ndarray):
        return raw.shape[0], raw.shape[1]
    if isinstance(raw, Tile):
        return raw.height, raw.width
    if isinstance(raw, Alpha):
        return image_size(raw.file)
    if isinstance(raw, Transposed):
        size = image_size(raw.file)
        return (size[1], size[0]) if size is not None and swaps_axes(raw.method) else size
    with contextlib.suppress(Rejected):  # decoding will report the reason
        if not isinstance(raw, Unreadable):
            with open_image(raw, None) as image:
                return image.size if swaps_axes(exif_transpose_method(image)) else (image.height, image.width)
    return None
