"""Pixels with more than 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ectype.data.raw_image import Rejected

__all__ = ["has_16_bits", "reduce_16_to_8_bits", "to_eight_bits"]


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


def reduce_16_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Map 0..65535 to 0..255 with rounding. Dividing by 257 maps the largest value to the largest value."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_eight_bits(image: Image.Image) -> tuple[Image.Image, int]:
    """Convert integers beyond 8 bits, and floats, to 8-bit gray; other images are returned unchanged.

    Returns:
        The image, and the largest value of a 16-bit image (else 0).

    Raises:
        Rejected: The values lie outside 0 to 65535, or outside 0 to 1 for floats.
    """
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise Rejected("floating-point pixels outside 0 to 1")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8)), 0
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Rejected("32-bit pixels outside 0 to 65535")
        return Image.fromarray(reduce_16_to_8_bits(values)), int(values.max())
    return image, 0
