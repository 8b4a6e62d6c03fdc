"""The values of the pixels of one mask: indices, gray values or colors. Nothing here imports PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from ectype.core.errors import DataError
from ectype.data.colors import parse_color

__all__ = [
    "GRAY_TO_PACKED",
    "RGB",
    "MaskValues",
    "inspect_mask",
    "is_lossy",
    "pack_color",
    "packed_color",
    "packed_palette",
    "pixel_values",
    "unpack_color",
]

RGB: TypeAlias = tuple[int, int, int]

INTERMEDIATE_VALUES = (32, 224)
"""Values between these two are intermediate: neither close to black nor close to white."""
GRAY_TO_PACKED = 0x010101
"""Factor that turns a gray value into a packed color."""


class MaskValues(NamedTuple):
    """The values that occur in one mask. A color is packed in one integer: 65536 · red + 256 · green + blue."""

    kind: Literal["values", "colors"]
    counts: Mapping[int, int]
    """Number of pixels of each gray value or palette index; of each packed color if the kind is colors."""
    palette: Mapping[int, RGB] = {}
    """The color of each palette index that occurs; empty without a palette."""
    intermediate: float = 0.0
    """Fraction of pixels that are neither close to 0 nor close to 255."""
    lossy: bool = False
    """Whether the file format changes values."""

    @property
    def color_counts(self) -> Mapping[int, int]:
        """Number of pixels of each packed color, by the palette or as gray values."""
        if self.kind == "colors":
            return self.counts
        counts: dict[int, int] = {}
        for value, count in self.counts.items():
            color = pack_color(self.palette[value]) if self.palette else value * GRAY_TO_PACKED
            if self.palette or value < 256:
                counts[color] = counts.get(color, 0) + count
        return counts


def inspect_mask(image: Image.Image) -> MaskValues:
    """Return the values that occur in a mask."""
    pixels, kind = pixel_values(image)
    if kind == "colors":
        return MaskValues("colors", _count_values(pixels))
    counts = _count_values(pixels)
    low, high = INTERMEDIATE_VALUES
    intermediate = sum(count for value, count in counts.items() if low < value < high) / pixels.size
    palette = _palette(image)
    if palette is None:
        return MaskValues("values", counts, intermediate=intermediate, lossy=is_lossy(image))
    return MaskValues("values", counts, {value: palette[value] for value in counts}, intermediate)


def _count_values(pixels: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(pixels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def is_lossy(image: Image.Image) -> bool:
    """Return whether a mask was stored in a format that changes values."""
    return image.format in ("JPEG", "MPO")


def pixel_values(image: Image.Image) -> tuple[np.ndarray, Literal["values", "colors"]]:
    """Return a mask's pixels as one integer each, and whether they are values or packed colors."""
    if image.mode == "1":
        image = image.convert("L")  # white is 255, as in the same mask of eight bits
    if image.mode in ("L", "P") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64), "values"
    if image.mode in ("LA", "PA"):
        return np.asarray(image)[..., 0].astype(np.int64), "values"
    rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    if (rgb.max(2) == rgb.min(2)).all():
        return rgb[..., 0], "values"
    return rgb @ np.array([65536, 256, 1]), "colors"


def _palette(image: Image.Image) -> list[RGB] | None:
    if image.mode not in ("P", "PA"):
        return None
    flat = image.convert("P").getpalette("RGB") or []
    flat = [*flat, *[0] * (768 - len(flat))]
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, 768, 3)]


def packed_palette(image: Image.Image) -> np.ndarray:
    """Return the packed color of each of the values 0 to 255, [256]: by the palette, or as gray values."""
    palette = _palette(image)
    return np.array([pack_color(c) for c in palette], np.int64) if palette else np.arange(256) * GRAY_TO_PACKED


def pack_color(color: RGB) -> int:
    """Return a color as one integer."""
    return 65536 * color[0] + 256 * color[1] + color[2]


def unpack_color(value: int) -> RGB:
    """Return the color that an integer packs."""
    return value >> 16, value >> 8 & 255, value & 255


def packed_color(value: int | str) -> int:
    """Return the packed color of a gray value or of a color as it is written in a recipe.

    Raises:
        DataError: It is not a color.
    """
    if isinstance(value, int):
        return value * GRAY_TO_PACKED
    try:
        return pack_color(parse_color(value))
    except ValueError:
        raise DataError(f"'{value}' is not a color: give a gray value, a name such as white, or #rrggbb.") from None
