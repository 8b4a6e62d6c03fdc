"""Decoding one image to pixels of the target shape, or to the reason why it cannot be used. Nothing imports PyTorch."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from ectype.data.color_profile import changes_colors, convert_to_srgb
from ectype.data.image_file import (
    Loaded,
    LoadOptions,
    exif_transpose_method,
    load_opened,
    load_upright,
    multi_frame_kind_of,
    open_image,
    swaps_axes,
)
from ectype.data.masks import MaskEncoding
from ectype.data.raw_image import Rejected, Single

__all__ = ["DARK_VALUE", "Decoded", "Spec", "TargetSpec", "decode", "kept_box", "resize_image"]

MAX_ENLARGEMENT = 1.5
"""An image that is enlarged by more than this factor is marked `enlarged`: it will look blurred."""
MIN_KEPT_AREA = 0.6
"""An image of whose area a smaller fraction is kept is marked `cut`."""
MAX_STRETCH = 1.5
"""An image whose width and height are scaled by factors with a larger ratio is marked `bent`."""
GRAY_TOLERANCE = 2
"""Channels that differ by at most this value are one gray channel that a lossy format has stored three times."""
JPEG_DRAFT_MARGIN = 1.5
"""A JPEG decoded at a fraction of its size must keep this factor of the target's pixels along each side."""
DARK_VALUE = 64
"""Images without any value that reaches this are dark."""
REDUCING_GAP = 3.0
"""Pillow first shrinks by an integer factor if the result is still this factor larger than the target."""


class TargetSpec(NamedTuple):
    """What the targets of images are decoded to."""

    encoding: MaskEncoding | None
    """The encoding of masks; None if targets are images."""
    channels: int = 1
    assume_gray: bool = False
    """As in `Spec`."""
    is_stored: bool = False
    """Targets without an EXIF orientation lie as the pixels of their image are stored, where sizes do not decide."""


class Spec(NamedTuple):
    """What images are decoded to."""

    size: tuple[int, int]
    """Height and width."""
    channels: int
    resize: Literal["crop", "pad", "squash"] = "crop"
    background: tuple[int, int, int] = (255, 255, 255)
    min_size: int = 4
    """Images with a shorter side are rejected."""
    assume_gray: bool = False
    """One channel is only an assumption: color is detected and reported."""
    target: TargetSpec | None = None
    """The targets of images that come in pairs. Their channels are stored after the image's."""
    load: LoadOptions = LoadOptions()
    """How files are loaded."""
    ignore_alpha: bool = False
    """Transparent pixels show the color that is stored for them instead of the background."""

    @property
    def stored_channels(self) -> int:
        """Channels of an image and its target."""
        return self.channels + (self.target.channels if self.target is not None else 0)


class Decoded(NamedTuple):
    """One image, [c, h, w] uint8, and properties that were found on the way."""

    pixels: np.ndarray
    marks: frozenset[str] = frozenset()
    """grey (although stored as color), enlarged, cut, bent, transparent, invisible (wholly transparent), animated,
    paged, 16-bit, color profile (converted to sRGB), unusable profile."""
    is_color: bool = False
    """Whether an image that was assumed to be gray has color."""
    max_16_bit_value: int = 0
    """Largest value of a 16-bit image before it was reduced."""
    max_value: int = 0
    """Largest value of 8 bits in any channel, exact below `DARK_VALUE`; padding and invisible images do not count."""


def decode(raw: Single, spec: Spec) -> Decoded:
    """Decode one image.

    Args:
        raw: A path, an encoded image, a tile, or uint8 pixels [h, w] or [h, w, c] with 1 to 4 channels.
        spec: What to decode to.

    Raises:
        Rejected: The image cannot be used.
    """
    if not isinstance(raw, str | bytes):
        return _to_pixels(load_upright(raw, spec.load), spec, set())
    with open_image(raw, spec.load.max_pixels) as image:
        return _decode_file(image, raw, spec)


def _decode_file(image: Image.Image, raw: str | bytes, spec: Spec) -> Decoded:
    if min(image.size) < spec.min_size:
        raise Rejected(f"too small ({image.width}×{image.height} pixels)")
    marks = set()
    if (kind := multi_frame_kind_of(image)) is not None:
        marks.add(kind)
    size, extent = image.size, None
    if image.format in ("JPEG", "MPO"):
        extent = _draft(image, _before_transpose(spec, exif_transpose_method(image)))
    loaded = load_opened(image, raw, spec.load)
    method = exif_transpose_method(image)
    spec = _before_transpose(spec, method)
    marks |= _resize_marks(size, spec)
    return _to_pixels(loaded, spec, marks, extent, method)


def _before_transpose(spec: Spec, method: Image.Transpose | None) -> Spec:
    """Return what an image is decoded to before the operation that makes it upright."""
    return spec._replace(size=(spec.size[1], spec.size[0])) if swaps_axes(method) else spec


def _resize_marks(size: tuple[int, int], spec: Spec) -> set[str]:
    """Return the ways in which resizing may degrade an image of this width and height."""
    x, y = _scale_factors(size, (spec.size[1], spec.size[0]), spec.resize)
    marks = {"enlarged"} if max(x, y) > MAX_ENLARGEMENT else set()
    if spec.resize == "crop" and (spec.size[0] * spec.size[1]) / (x * y * size[0] * size[1]) < MIN_KEPT_AREA:
        marks.add("cut")
    if spec.resize == "squash" and max(x, y) > MAX_STRETCH * min(x, y):
        marks.add("bent")
    return marks


def _draft(image: Image.Image, spec: Spec) -> tuple[float, float] | None:
    """Let Pillow decode a JPEG at ½, ¼ or ⅛ of its size if that leaves `JPEG_DRAFT_MARGIN` of the target's pixels.

    This is faster, and not visible: on photographs reduced to a third, the result is 49.5 dB from that of a full
    decode, as close as Lanczos is to bicubic (48.9 dB).

    Returns:
        Width and height of the image in reduced pixels, or None without a reduction. They need not be integers: the
        last row and column may cover only a part of a pixel.
    """
    height, width = spec.size
    scale = _scale_factors(image.size, (width, height), spec.resize)
    minimum = (
        math.ceil(JPEG_DRAFT_MARGIN * image.width * scale[0]),
        math.ceil(JPEG_DRAFT_MARGIN * image.height * scale[1]),
    )
    to_gray = spec.channels == 1 and not spec.assume_gray and not changes_colors(image)
    mode = "L" if to_gray else image.mode
    drafted = image.draft(mode, minimum)
    return None if drafted is None else (drafted[1][2], drafted[1][3])


def _scale_factors(size: tuple[float, float], target_size: tuple[int, int], resize: str) -> tuple[float, float]:
    """Return the factors by which the two sides are scaled."""
    x, y = target_size[0] / size[0], target_size[1] / size[1]
    if resize == "squash":
        return x, y
    factor = max(x, y) if resize == "crop" else min(x, y)
    return factor, factor


def _to_pixels(
    loaded: Loaded,
    spec: Spec,
    marks: set[str],
    extent: tuple[float, float] | None = None,
    transpose: Image.Transpose | None = None,
) -> Decoded:
    """Convert a loaded image to pixels.

    Args:
        loaded: The image, not upright yet.
        spec: What to convert to, with the size before `transpose`.
        marks: Properties found so far.
        extent: Width and height of the picture if it does not fill the last pixels; see `_draft`.
        transpose: The operation that makes the image upright.
    """
    if loaded.has_16_bits:
        marks.add("16-bit")
    image = convert_to_srgb(loaded.image, marks)
    image = _flatten(image, spec, marks)
    if spec.channels == 1 and not spec.assume_gray and image.mode != "L":
        image = image.convert("L")
    if spec.channels == 3 and image.mode == "L":
        marks.add("grey")
    whole, image = image, _fit_image(image, spec, extent or image.size)
    fitted, image = image, _pad_image(image, spec)
    is_padded = fitted is not image
    if transpose is not None:
        image = image.transpose(transpose)
    is_color = False
    if spec.assume_gray and image.mode == "RGB":
        values = np.asarray(image)
        is_color = bool((values.max(2) - values.min(2)).max() > GRAY_TOLERANCE)
        image = image.convert("L")
    values = np.asarray(image)
    max_value = 0
    if "invisible" not in marks:
        max_value = _max_value(fitted) if is_padded else int(values.max())
        if max_value < DARK_VALUE:
            max_value = _max_value(whole)  # resizing averages small bright details away
    pixels = np.broadcast_to(values, (spec.channels, *values.shape)) if values.ndim == 2 else values.transpose(2, 0, 1)
    return Decoded(np.ascontiguousarray(pixels), frozenset(marks), is_color, loaded.max_16_bit_value, max_value)


def _max_value(image: Image.Image) -> int:
    return int(np.asarray(image).max())


def _flatten(image: Image.Image, spec: Spec, marks: set[str]) -> Image.Image:
    """Convert to mode L or RGB, with transparent pixels painted in the background color unless alpha is ignored."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        low, high = alpha.getextrema()
        if low == 255 or spec.ignore_alpha:
            return image.convert("RGB")
        marks.add("transparent")
        if high == 0:
            marks.add("invisible")
        flattened = Image.new("RGB", image.size, spec.background)
        flattened.paste(image, mask=alpha)
        return flattened
    return image.convert("L" if image.mode == "1" else "RGB")


def resize_image(
    image: Image.Image, spec: Spec, extent: tuple[float, float], *, border_index: int | None = None
) -> Image.Image:
    """Resize an image to the target size.

    Args:
        image: The image.
        spec: Target size, resize mode and background.
        extent: Width and height of the part of the image that is resized, from its top left corner.
        border_index: For images of class indices, the index outside of the image. The nearest pixel is then taken
            instead of an average.
    """
    return _pad_image(_fit_image(image, spec, extent, border_index=border_index), spec, border_index=border_index)


def _fit_image(
    image: Image.Image, spec: Spec, extent: tuple[float, float], *, border_index: int | None = None
) -> Image.Image:
    """Resize an image to the target size, or so that it fits into the target size if it is padded afterwards."""
    height, width = spec.size
    if extent == (width, height) == image.size:
        return image
    x, y = _scale_factors(extent, (width, height), spec.resize)
    # Pillow's bicubic filter widens with the scale, and thus averages over the area that a pixel covers. It rings less
    # than Lanczos, and is the filter that FID is best computed with (clean-fid, arXiv 2104.11222).
    resampling = Image.Resampling.BICUBIC if border_index is None else Image.Resampling.NEAREST
    if spec.resize == "pad":
        inner = (min(width, max(1, round(extent[0] * x))), min(height, max(1, round(extent[1] * y))))
        return image.resize(inner, resampling, box=(0, 0, *extent), reducing_gap=REDUCING_GAP)
    box = _kept_part(extent, spec)
    return image.resize((width, height), resampling, box=box, reducing_gap=REDUCING_GAP)


def _kept_part(extent: tuple[float, float], spec: Spec) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the part of an image of this width and height that is kept."""
    height, width = spec.size
    x, y = _scale_factors(extent, (width, height), spec.resize)
    kept_width, kept_height = (width / x, height / y) if spec.resize == "crop" else extent
    left, top = max(0.0, (extent[0] - kept_width) / 2), max(0.0, (extent[1] - kept_height) / 2)
    return (left, top, min(extent[0], left + kept_width), min(extent[1], top + kept_height))


def kept_box(size: tuple[int, int], spec: Spec) -> tuple[float, float, float, float]:
    """Return the part of an upright image that is kept: left, top, right, bottom, as fractions of width and height.

    >>> kept_box((200, 100), Spec((64, 64), 3))
    (0.25, 0.0, 0.75, 1.0)
    """
    left, top, right, bottom = _kept_part(size, spec)
    return (left / size[0], top / size[1], right / size[0], bottom / size[1])


def _pad_image(image: Image.Image, spec: Spec, *, border_index: int | None = None) -> Image.Image:
    """Pad an image on all sides up to the target size."""
    height, width = spec.size
    if image.size == (width, height):
        return image
    background = spec.background if image.mode == "RGB" else _luma(spec.background)
    padded = Image.new(image.mode, (width, height), background if border_index is None else border_index)
    padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return padded


def _luma(rgb: tuple[int, int, int]) -> int:
    pixel = Image.new("RGB", (1, 1), rgb).convert("L").getpixel((0, 0))
    assert isinstance(pixel, int)
    return pixel
