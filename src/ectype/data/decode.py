"""From the bytes of one image, whatever it is, to pixels of the wanted shape, or a reason why not. No torch."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from ectype.data.raw import Single, Tile, Unreadable

if TYPE_CHECKING:
    from ectype.data.masks import Coding

__all__ = [
    "FORMATS",
    "Decoded",
    "Rejected",
    "Spec",
    "TargetSpec",
    "colour",
    "decode",
    "eight_bits",
    "fit",
    "reduce16",
    "several_of",
    "size_of",
    "upright",
]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
"""The formats tried, and no others: Pillow knows some that start programs or guess."""

ENLARGED, CUT, BENT = 1.5, 0.6, 1.5
"""An image that grows so many times is blurred by it; one that keeps less of its area is cut; one whose sides change so
much differently is bent."""
GREY_TOLERANCE = 2
"""Channels that differ by no more than this are one grey channel that a lossy format has stored three times."""

SPARE = 1.5
"""How many times the wanted pixels a side must keep when a JPEG is decoded at a fraction of its size."""


class TargetSpec(NamedTuple):
    """What the partners of images become."""

    coding: Coding | None
    """Of masks; None for pictures."""
    channels: int = 1
    guess: bool = False
    """As in `Spec`."""


class Spec(NamedTuple):
    """What images become."""

    size: tuple[int, int]
    """Height and width."""
    channels: int
    resize: Literal["crop", "pad", "squash"] = "crop"
    background: tuple[int, int, int] = (255, 255, 255)
    min_size: int = 4
    guess: bool = False
    """Whether one channel is only assumed: then colour is looked for and reported."""
    target: TargetSpec | None = None
    """Of the partners of images that come in pairs; their channels stand behind the image's."""

    @property
    def depth(self) -> int:
        """Channels of what is stored."""
        return self.channels + (self.target.channels if self.target is not None else 0)


class Rejected(Exception):
    """An image that cannot be used; the message is the reason."""


class Decoded(NamedTuple):
    """One image, [c, h, w] uint8, and what had to be done to it."""

    pixels: np.ndarray
    notes: frozenset[str] = frozenset()
    coloured: bool = False
    brightest: int = 0
    """Largest value of a 16-bit image, before it was reduced."""


def colour(name: str) -> tuple[int, int, int]:
    """A colour that Pillow knows by name or as #rrggbb. Raises `ValueError`."""
    return ImageColor.getrgb(name)[:3]  # type: ignore[return-value]


def reduce16(values: np.ndarray) -> np.ndarray:
    """0..65535 → 0..255, rounded. Divides by 257, which takes the ends to the ends (a shift by 8 would do as well)."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """Pillow's warnings silenced, except that it may be looking at a decompression bomb: an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(raw: Single, spec: Spec) -> Decoded:
    """One image as pixels.

    Args:
        raw: A path, an encoded image, or pixels [h, w] or [h, w, c] of uint8 with 1 to 4 channels.
        spec: What it should become.

    Raises:
        Rejected: It cannot be used.
    """
    if not isinstance(raw, str | bytes):
        image = upright(raw)
        return _finish(image, spec, {"16-bit"} if _is_deep(image) else set())
    with _reading(raw) as image:
        return _decode(image, spec)


@contextlib.contextmanager
def _reading(raw: str | bytes) -> Iterator[Image.Image]:
    """An image that was opened; whatever goes wrong with it becomes a reason to reject it."""
    try:
        with _strict(), _open(raw) as image:
            yield image
    except Rejected:
        raise
    except Exception as error:  # decoders of hostile bytes fail in every way there is
        raise Rejected(_reason(error, raw)) from None


def upright(raw: Single) -> Image.Image:
    """A whole image in its own mode, turned as it would be seen.

    Raises:
        Rejected: It cannot be used.
    """
    if isinstance(raw, Unreadable):
        raise Rejected(raw.reason)
    if isinstance(raw, Tile):
        whole = _recent(raw.file) if isinstance(raw.file, str) else upright(raw.file)
        return whole.crop((raw.left, raw.top, raw.left + raw.width, raw.top + raw.height))
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw)
    with _reading(raw) as image:
        turn = _TURNS.get(_orientation(image))
        image.load()
        whole = image.copy() if turn is None else image.transpose(turn)
        whole.format = image.format
        return whole


@functools.lru_cache(maxsize=2)
def _recent(path: str) -> Image.Image:
    """A whole image; parts of one, and of its mask, come one after the other."""
    return upright(path)


def _open(raw: str | bytes) -> Image.Image:
    if isinstance(raw, bytes):
        if not raw:
            raise Rejected("empty (0 bytes)")
        return Image.open(io.BytesIO(raw), formats=FORMATS)
    try:
        return Image.open(raw, formats=FORMATS)
    except UnidentifiedImageError:
        if os.path.getsize(raw) == 0:
            raise Rejected("empty (0 bytes)") from None
        raise


def _reason(error: Exception, raw: str | bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return "too many pixels (a decompression bomb?)"
    if isinstance(error, PermissionError):
        return "may not be read"
    if isinstance(error, FileNotFoundError):
        return "gone (moved, or a link to nothing)"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    detail = " ".join(str(error).replace(raw if isinstance(raw, str) else "\0", "").split())
    if "truncated" in detail or isinstance(error, EOFError):
        return "truncated"
    return f"damaged ({detail or type(error).__name__})"


def _decode(image: Image.Image, spec: Spec) -> Decoded:
    if min(image.size) < spec.min_size:
        raise Rejected(f"too small ({image.width}×{image.height} pixels)")
    notes = set()
    if (more := _several(image)) is not None:
        notes.add(more)
    if _is_deep(image):
        notes.add("16-bit")
    turn = _TURNS.get(_orientation(image))
    if turn in _SIDEWAYS:
        spec = spec._replace(size=(spec.size[1], spec.size[0]))
    notes |= _strained(image.size, spec)
    extent = None
    if image.format in ("JPEG", "MPO"):
        extent = _draft(image, spec)
    image.load()
    return _finish(image, spec, notes, extent, turn)


def _several(image: Image.Image) -> str | None:
    """What an image is that holds several: paged, or animated; None if it does not."""
    if image.format in ("MPO", "JPEG") or not getattr(image, "is_animated", False):
        return None
    return "paged" if image.format == "TIFF" else "animated"


def several_of(raw: Single) -> str | None:
    """What a file is that holds several images, from its header alone; None for others."""
    with contextlib.suppress(Rejected):  # decoding will say why
        if isinstance(raw, str | bytes):
            with _reading(raw) as image:
                return _several(image)
    return None


def _strained(size: tuple[int, int], spec: Spec) -> set[str]:
    """What bringing an image to its size does to it that may spoil it."""
    x, y = _scale(size, (spec.size[1], spec.size[0]), spec.resize)
    found = {"enlarged"} if max(x, y) > ENLARGED else set()
    if spec.resize == "crop" and (spec.size[0] * spec.size[1]) / (x * y * size[0] * size[1]) < CUT:
        found.add("cut")
    if spec.resize == "squash" and max(x, y) > BENT * min(x, y):
        found.add("bent")
    return found


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF."""
_SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


def _orientation(image: Image.Image) -> int:
    """How the camera was held, as EXIF counts; 1 for TIFF files, which Pillow turns by itself."""
    if image.format == "TIFF":
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a damaged EXIF block is no reason to lose the picture
        return 1


def _is_deep(image: Image.Image) -> bool:
    """Whether an image that has not been loaded stores more than 8 bits: Pillow reduces colour ones without a word."""
    if image.mode.startswith("I") or image.mode == "F":
        return True
    parts = [
        part for tile in getattr(image, "tile", ()) for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))
    ]
    if image.format == "PPM":
        return any(isinstance(part, int) and part > 255 for part in parts)
    return any(isinstance(part, str) and ";16" in part for part in parts)


def _draft(image: Image.Image, spec: Spec) -> tuple[float, float] | None:
    """Have a JPEG decoded at ½, ¼ or ⅛ where that still leaves half as many pixels again as are wanted.

    That is faster, and shows in no picture: on photographs at a third of their size the result is 49.5 dB from that of
    a full decode, which is as near as Lanczos is to bicubic (48.9 dB).

    Returns:
        Width and height of the picture in the reduced pixels: the last row and column may stand for part of one.
    """
    height, width = spec.size
    scale = _scale(image.size, (width, height), spec.resize)
    wanted = (math.ceil(SPARE * image.width * scale[0]), math.ceil(SPARE * image.height * scale[1]))
    mode = "L" if spec.channels == 1 and not spec.guess else image.mode
    drafted = image.draft(mode, wanted)
    return None if drafted is None else (drafted[1][2], drafted[1][3])


def _scale(size: tuple[float, float], wanted: tuple[int, int], resize: str) -> tuple[float, float]:
    """How much each axis grows."""
    x, y = wanted[0] / size[0], wanted[1] / size[1]
    if resize == "squash":
        return x, y
    one = max(x, y) if resize == "crop" else min(x, y)
    return one, one


def _finish(
    image: Image.Image,
    spec: Spec,
    notes: set[str],
    extent: tuple[float, float] | None = None,
    turn: Image.Transpose | None = None,
) -> Decoded:
    image, brightest = eight_bits(image)
    image = _flatten(image, spec.background, notes)
    if spec.channels == 1 and not spec.guess and image.mode != "L":
        image = image.convert("L")
    if spec.channels == 3 and image.mode == "L":
        notes.add("grey")
    image = fit(image, spec, extent or image.size)
    if turn is not None:
        image = image.transpose(turn)
    coloured = False
    if spec.guess and image.mode == "RGB":
        values = np.asarray(image)
        coloured = bool((values.max(2) - values.min(2)).max() > GREY_TOLERANCE)
        image = image.convert("L")
    values = np.asarray(image)
    pixels = np.broadcast_to(values, (spec.channels, *values.shape)) if values.ndim == 2 else values.transpose(2, 0, 1)
    return Decoded(np.ascontiguousarray(pixels), frozenset(notes), coloured, brightest)


def eight_bits(image: Image.Image) -> tuple[Image.Image, int]:
    """Integers beyond 8 bits and floats as grey of 8 bits, and the largest value of a 16-bit one."""
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise Rejected("floating-point pixels outside 0 to 1")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8)), 0
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Rejected("32-bit pixels outside 0 to 65535")
        return Image.fromarray(reduce16(values)), int(values.max())
    return image, 0


def _flatten(image: Image.Image, background: tuple[int, int, int], notes: set[str]) -> Image.Image:
    """Mode L or RGB, transparency painted onto the background."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema() == (255, 255):
            return image.convert("RGB")
        notes.add("transparent")
        ground = Image.new("RGB", image.size, background)
        ground.paste(image, mask=alpha)
        return ground
    return image.convert("L" if image.mode == "1" else "RGB")


def fit(image: Image.Image, spec: Spec, extent: tuple[float, float], *, ground: int | None = None) -> Image.Image:
    """Fit an image, whose picture is the first `extent` (width, height) of its pixels, to the wanted size.

    With a `ground`, its pixels are indices, that being the one beyond its border: the nearest is taken, none averaged.
    """
    height, width = spec.size
    if extent == (width, height) == image.size:
        return image
    x, y = _scale(extent, (width, height), spec.resize)
    # Pillow's bicubic widens with the scale and so averages over what each pixel covers; it rings less than Lanczos,
    # and is the resize that FID is best measured with (clean-fid, arXiv 2104.11222).
    how = Image.Resampling.BICUBIC if ground is None else Image.Resampling.NEAREST
    if spec.resize == "pad":
        inner = (min(width, max(1, round(extent[0] * x))), min(height, max(1, round(extent[1] * y))))
        picture = image.resize(inner, how, box=(0, 0, *extent), reducing_gap=3.0)
        beyond = ground if ground is not None else spec.background if image.mode == "RGB" else _luma(spec.background)
        whole = Image.new(image.mode, (width, height), beyond)
        whole.paste(picture, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return whole
    wide, high = (width / x, height / y) if spec.resize == "crop" else extent
    left, top = max(0.0, (extent[0] - wide) / 2), max(0.0, (extent[1] - high) / 2)
    box = (left, top, min(extent[0], left + wide), min(extent[1], top + high))
    return image.resize((width, height), how, box=box, reducing_gap=3.0)


def _luma(rgb: tuple[int, int, int]) -> int:
    pixel = Image.new("RGB", (1, 1), rgb).convert("L").getpixel((0, 0))
    assert isinstance(pixel, int)
    return pixel


def size_of(raw: Single) -> tuple[int, int] | None:
    """Height and width as it would be seen, from its header alone; None for what is no image."""
    if isinstance(raw, np.ndarray):
        return raw.shape[0], raw.shape[1]
    if isinstance(raw, Tile):
        return raw.height, raw.width
    with contextlib.suppress(Rejected):  # decoding will say why
        if not isinstance(raw, Unreadable):
            with _reading(raw) as image:
                sideways = _TURNS.get(_orientation(image)) in _SIDEWAYS
                return image.size if sideways else (image.height, image.width)
    return None
