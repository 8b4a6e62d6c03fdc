"""Pixels with more than 8 bits, and pixels that do not use the range of their type."""

from __future__ import annotations

import re
import sys

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from ectype.data.raw_image import Rejected

__all__ = [
    "has_16_bits",
    "fix_planar_16_bits",
    "low_byte_tiles",
    "reduce_16_to_8_bits",
    "scale_to_8_bits",
    "to_eight_bits",
    "with_alpha_channel",
]

_RAW_MODE_16 = re.compile(r"(RGB|RGBA|RGBX|[RGBA]);16([BLN])")
"""Raw modes of color images of 16 bits, and their byte order. Pillow keeps the high bytes."""
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The byte order in which Pillow takes the low bytes for the high ones."""


def has_16_bits(image: Image.Image) -> bool:
    """Return whether an image that has not been loaded stores more than 8 bits per channel.

    Pillow reduces color images to 8 bits without a message.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return True
    tiles = getattr(image, "tile", ())
    arguments = [arg for tile in tiles for arg in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    if image.format == "PPM":
        return any(isinstance(arg, int) and arg > 255 for arg in arguments)
    return any(isinstance(arg, str) and ";16" in arg for arg in arguments)


def fix_planar_16_bits(image: Image.Image) -> Image.Image:
    """Correct how Pillow will load a TIFF of 16-bit colors that are stored one plane after the other.

    Pillow takes the planes for 8 bits, which shows the image as stripes. The image has not been loaded, and is
    returned.
    """
    if (
        not isinstance(image, TiffImagePlugin.TiffImageFile)
        or image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) != 2
    ):
        return image
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))
    if set(bits if isinstance(bits, tuple) else (bits,)) == {16}:
        order = "L" if image.tag_v2.prefix == b"II" else "B"
        image.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
            if isinstance(tile.args, tuple) and tile.args[0] in ("R", "G", "B", "A")
            else tile
            for tile in image.tile
        ]
    return image


def low_byte_tiles(image: Image.Image) -> list[ImageFile._Tile] | None:
    """Return the tiles with which Pillow loads the low bytes of 16-bit colors; None if it cannot, or for other images.

    Args:
        image: The image, which has not been loaded.
    """
    if not isinstance(image, ImageFile.ImageFile):
        return None
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tile and image.tile[0].codec_name == "libtiff":
        planar = image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION)
        if planar == 2:  # libtiff's decoder ignores the raw mode of planes
            return None
    tiles = []
    for tile in image.tile:
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        match = _RAW_MODE_16.fullmatch(arguments[0]) if arguments and isinstance(arguments[0], str) else None
        if match is None:
            return None
        swapped = f"{match[1]};16{_OTHER_BYTE[match[2]]}"
        tiles.append(tile._replace(args=(swapped, *arguments[1:]) if isinstance(tile.args, tuple) else swapped))
    return tiles or None


def reduce_16_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Map 0..65535 to 0..255 with rounding. Dividing by 257 maps the largest value to the largest value."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def scale_to_8_bits(values: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Map a range of values to 0..255 with rounding; values outside of it become 0 or 255."""
    low, high = value_range
    return np.rint((values.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def to_eight_bits(
    image: Image.Image, value_range: tuple[float, float] | None = None, low_bytes: Image.Image | None = None
) -> tuple[Image.Image, int]:
    """Convert integers beyond 8 bits, and floats, to 8 bits.

    Args:
        image: The loaded image.
        value_range: The values that become 0 and 255; None for 0 and 255, 0 and 65535, or 0 and 1 for floats. Images of
            8 bits are returned unchanged if the range exceeds 255, or if they have a palette.
        low_bytes: The low bytes of the colors of a 16-bit image, as `low_byte_tiles` loads them.

    Returns:
        The image, and the largest value of a 16-bit image (else 0).

    Raises:
        Rejected: The values lie outside 0 to 65535, or outside 0 to 1 for floats, and there is no `value_range`.
    """
    if low_bytes is not None:
        high, low = np.asarray(image), np.asarray(low_bytes)
        colors = high[..., :3].astype(np.uint16) << 8 | low[..., :3]
        reduced = reduce_16_to_8_bits(colors) if value_range is None else scale_to_8_bits(colors, value_range)
        return _like(image, np.concatenate([reduced, high[..., 3:]], axis=2)), int(colors.max())
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise Rejected("floating-point pixels that are infinite or not a number")
        if value_range is None and not (values.min() >= 0 and values.max() <= 1):
            found = f"from {values.min():g} to {values.max():g}"
            raise Rejected(f"floating-point pixels outside 0 to 1 ({found}: set data.value_range)")
        return _like(image, scale_to_8_bits(values, value_range or (0, 1))), 0
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if value_range is not None:
            return _like(image, scale_to_8_bits(values, value_range)), max(0, int(values.max()))
        if values.min() < 0 or values.max() > 65535:
            raise Rejected(
                f"32-bit pixels outside 0 to 65535 (from {values.min()} to {values.max()}: set data.value_range)"
            )
        return _like(image, reduce_16_to_8_bits(values)), int(values.max())
    if value_range is not None and value_range[1] <= 255 and image.mode in ("L", "LA", "RGB", "RGBA"):
        image = with_alpha_channel(image)
        table = scale_to_8_bits(np.arange(256), value_range).tolist()
        alpha = list(range(256)) if image.mode.endswith("A") else []
        info = image.info
        image = image.point(table * len(image.mode.removesuffix("A")) + alpha)
        image.info = info
    return image, 0


def with_alpha_channel(image: Image.Image) -> Image.Image:
    """Return an image with an alpha channel in place of a transparent color, which other values would not match."""
    if "transparency" not in image.info:
        return image
    return image.convert("LA" if image.mode == "L" else "RGBA")


def _like(image: Image.Image, pixels: np.ndarray) -> Image.Image:
    """Return pixels as an image with the color profile of another."""
    result = Image.fromarray(pixels)
    if profile := image.info.get("icc_profile"):
        result.info["icc_profile"] = profile
    return result
