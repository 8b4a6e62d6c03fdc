"""Outlines of masks over an image, and a legend of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ectype.core.escape import as_one_line

__all__ = ["add_legend", "draw_outlines"]

DASH_PX = 4
"""Length of the dashes of a predicted outline, and of the gaps between them."""
PIXELS_PER_LINE_WIDTH = 300
"""The lines of an image are one pixel wide for each of these pixels of its shorter side."""
FONT_SIZE_PX = 13
PADDING_PX = 4
MAX_NAME_LENGTH = 40

RGB = tuple[int, int, int]


def draw_outlines(image: np.ndarray, predicted: np.ndarray, truth: np.ndarray, colors: Sequence[RGB]) -> np.ndarray:
    """Draw the outlines of all classes but the first, which is the background: the true ones whole, predicted dashed.

    Args:
        image: uint8 [h, w, 3].
        predicted: Class indices [h, w].
        truth: Class indices [h, w]; other values belong to no class.
        colors: Color of each class.

    Returns:
        uint8 [h, w, 3].
    """
    drawn = image.copy()
    width = max(1, round(min(image.shape[:2]) / PIXELS_PER_LINE_WIDTH))
    rows, columns = np.indices(truth.shape) // (DASH_PX * width)
    dashes = (rows + columns) % 2 == 0
    for index, color in enumerate(colors[1:], 1):
        drawn[_outline(truth == index, width)] = color
    for index, color in enumerate(colors[1:], 1):
        # Dark gaps, so that a dashed line shows on a whole one of its color.
        line = _outline(predicted == index, width)
        drawn[line & dashes] = color
        drawn[line & ~dashes] = (0, 0, 0)
    return drawn


def _outline(inside: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels of an area that are within `width` of its edge; the image's border is no edge."""
    kept = inside
    for _ in range(width):
        padded = np.pad(kept, 1, mode="edge")
        kept = kept & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~kept


def add_legend(picture: Image.Image, names: Sequence[str], colors: Sequence[RGB], lines: str = "") -> Image.Image:
    """Return a picture with a legend below: the color, index and name of each class.

    Args:
        picture: The picture, in color or gray.
        names: Class names.
        colors: Their colors.
        lines: What the lines mean, as a last line; empty where there are none.
    """
    font = ImageFont.load_default(FONT_SIZE_PX)
    height = FONT_SIZE_PX + PADDING_PX
    entries = [
        (f"{i}: {as_one_line(name)[:MAX_NAME_LENGTH]}", color)
        for i, (name, color) in enumerate(zip(names, colors, strict=True))
    ]
    widths = [height + PADDING_PX + round(font.getlength(text)) + 3 * PADDING_PX for text, _ in entries]
    width = max(picture.width, *widths, round(font.getlength(lines)) + 2 * PADDING_PX)
    places, x, y = [], PADDING_PX, picture.height + PADDING_PX
    for each in widths:
        if x + each > width and x > PADDING_PX:
            x, y = PADDING_PX, y + height
        places.append((x, y))
        x += each
    bottom = y + height * (2 if lines else 1) + PADDING_PX
    sheet = Image.new("RGB", (width, bottom), "white")
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for (x, y), (text, color) in zip(places, entries, strict=True):
        box = (x, y + 1, x + FONT_SIZE_PX, y + FONT_SIZE_PX)
        draw.rectangle(box, fill=tuple(color), outline=(128, 128, 128))
        draw.text((x + height, y), text, fill=(0, 0, 0), font=font)
    if lines:
        draw.text((PADDING_PX, bottom - height - PADDING_PX // 2), lines, fill=(0, 0, 0), font=font)
    return sheet
