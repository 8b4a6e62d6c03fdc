"""Decoding one image to pixels of the target shape, or to the reason why it cannot be used. Nothing imports PyTorch."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from ectype.data.bit_depth import has_16_bits, to_eight_bits
from ectype.data.image_file import exif_transpose_method, load_upright, multi_frame_kind_of, open_image, swaps_axes
from ectype.data.masks import MaskEncoding
from ectype.data.raw_image import Rejected, Single

__all__ = ["Decoded", "Spec", "TargetSpec", "decode", "resize_image"]

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
REDUCING_GAP = 3.0
"""Pillow first shrinks by an integer factor if the result is still this factor larger than the target."""


class TargetSpec(NamedTuple):
    """What the targets of images are decoded to."""

    encoding: MaskEncoding | None
    """The encoding of masks; None if targets are images."""
    channels: int = 1
    assume_gray: bool = False
    """As in `Spec`."""


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

    @property
    def stored_channels(self) -> int:
        """Channels of an image and its target."""
        return self.channels + (self.target.channels if self.target is not None else 0)


class Decoded(NamedTuple):
    """One image, [c, h, w] uint8, and properties that were found on the way."""

    pixels: np.ndarray
    marks: frozenset[str] = frozenset()
    """grey (although stored as color), enlarged, cut, bent, transparent, animated, paged, 16-bit."""
    is_color: bool = False
    """Whether an image that was assumed to be gray has color."""
    max_16_bit_value: int = 0
    """Largest value of a 16-bit image before it was reduced."""


def decode(raw: Single, spec: Spec) -> Decoded:
    """Decode one image.

    Args:
        raw: A path, an encoded image, a tile, or uint8 pixels [h, w] or [h, w, c] with 1 to 4 channels.
        spec: What to decode to.

    Raises:
        Rejected: The image cannot be used.
    """
    if not isinstance(raw, str | bytes):
        image = load_upright(raw)
        return _to_pixels(image, spec, {"16-bit"} if has_16_bits(image) else set())
    with open_image(raw) as image:
        return _decode_file(image, spec)


def _decode_file(image: Image.Image, spec: Spec) -> Decoded:
    if min(image.size) < spec.min_size:
        raise Rejected(f"too small ({image.width}×{image.height} pixels)")
    marks = set()
    if (kind := multi_frame_kind_of(image)) is not None:
        marks.add(kind)
    if has_16_bits(image):
        marks.add("16-bit")
    method = exif_transpose_method(image)
    if swaps_axes(method):
        spec = spec._replace(size=(spec.size[1], spec.size[0]))
    marks |= _resize_marks(image.size, spec)
    extent = None
    if image.format in ("JPEG", "MPO"):
        extent = _draft(image, spec)
    image.load()
    return _to_pixels(image, spec, marks, extent, method)


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
    mode = "L" if spec.channels == 1 and not spec.assume_gray else image.mode
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
    image: Image.Image,
    spec: Spec,
    marks: set[str],
    extent: tuple[float, float] | None = None,
    transpose: Image.Transpose | None = None,
) -> Decoded:
    """Convert a loaded image to pixels.

    Args:
        image: The image, not upright yet.
        spec: What to convert to, with the size before `transpose`.
        marks: Properties found so far.
        extent: Width and height of the picture if it does not fill the last pixels; see `_draft`.
        transpose: The operation that makes the image upright.
    """
    image, max_16_bit_value = to_eight_bits(image)
    image = _flatten(image, spec.background, marks)
    if spec.channels == 1 and not spec.assume_gray and image.mode != "L":
        image = image.convert("L")
    if spec.channels == 3 and image.mode == "L":
        marks.add("grey")
    image = resize_image(image, spec, extent or image.size)
    if transpose is not None:
        image = image.transpose(transpose)
    is_color = False
    if spec.assume_gray and image.mode == "RGB":
        values = np.asarray(image)
        is_color = bool((values.max(2) - values.min(2)).max() > GRAY_TOLERANCE)
        image = image.convert("L")
    values = np.asarray(image)
    pixels = np.broadcast_to(values, (spec.channels, *values.shape)) if values.ndim == 2 else values.transpose(2, 0, 1)
    return Decoded(np.ascontiguousarray(pixels), frozenset(marks), is_color, max_16_bit_value)


def _flatten(image: Image.Image, background: tuple[int, int, int], marks: set[str]) -> Image.Image:
    """Convert to mode L or RGB, with transparent pixels painted in the background color."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema() == (255, 255):
            return image.convert("RGB")
        marks.add("transparent")
        flattened = Image.new("RGB", image.size, background)
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
    height, width = spec.size
    if extent == (width, height) == image.size:
        return image
    x, y = _scale_factors(extent, (width, height), spec.resize)
    # Pillow's bicubic filter widens with the scale, and thus averages over the area that a pixel covers. It rings less
    # than Lanczos, and is the filter that FID is best computed with (clean-fid, arXiv 2104.11222).
    resampling = Image.Resampling.BICUBIC if border_index is None else Image.Resampling.NEAREST
    if spec.resize == "pad":
        inner = (min(width, max(1, round(extent[0] * x))), min(height, max(1, round(extent[1] * y))))
        picture = image.resize(inner, resampling, box=(0, 0, *extent), reducing_gap=REDUCING_GAP)
        background = spec.background if image.mode == "RGB" else _luma(spec.background)
        padded = Image.new(image.mode, (width, height), background if border_index is None else border_index)
        padded.paste(picture, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return padded
    kept_width, kept_height = (width / x, height / y) if spec.resize == "crop" else extent
    left, top = max(0.0, (extent[0] - kept_width) / 2), max(0.0, (extent[1] - kept_height) / 2)
    box = (left, top, min(extent[0], left + kept_width), min(extent[1], top + kept_height))
    return image.resize((width, height), resampling, box=box, reducing_gap=REDUCING_GAP)


def _luma(rgb: tuple[int, int, int]) -> int:
    pixel = Image.new("RGB", (1, 1), rgb).convert("L").getpixel((0, 0))
    assert isinstance(pixel, int)
    return pixel
