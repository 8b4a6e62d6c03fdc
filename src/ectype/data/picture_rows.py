"""Pictures of images in rows: 128 px tiles with a name and a value, the crop outlined, a histogram and a color bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ectype.core.lettering import Font, font, shorten
from ectype.data.decode import Spec, kept_box
from ectype.data.image_file import load_upright
from ectype.data.raw_image import Rejected

__all__ = ["ColorBar", "Histogram", "RowTile", "picture_of_rows", "whole_image"]

TILE_PX = 128
GAP = 12
MARGIN = 24
NAME_PX, HEADING_PX = 13, 15
LINE_PX = 17
CHART_HEIGHT_PX = 130
NUM_BINS = 60
INK, SOFT, PAPER, OUTLINE, BARS, CUT = "#1d2327", "#59636b", "#ffffff", "#e15759", "#8fb3d1", "#a8321f"
MAX_DRAWN_MARKS = 64
WHOLE = (0.0, 0.0, 1.0, 1.0)


class RowTile(NamedTuple):
    """One image of a row.

    Attributes:
        pixels: uint8 [c, h, w] with one or three channels; None leaves the place empty.
        name: Text below it.
        value: A second line below it.
        crop: Left, top, right and bottom of the part that a model sees, as fractions of width and height; it is
            outlined. None without an outline.
    """

    pixels: NDArray[np.uint8] | None
    name: str = ""
    value: str = ""
    crop: tuple[float, float, float, float] | None = None


class Histogram(NamedTuple):
    """Values of reference images, and where those in the picture lie.

    Attributes:
        title: What is counted.
        values: [n] values of the reference.
        cutoff: A value that is drawn as a line.
        cutoff_text: What lies beyond it.
        marks: Values of the images in the picture.
    """

    title: str
    values: NDArray[np.float64]
    cutoff: float
    cutoff_text: str
    marks: Sequence[float] = ()


class ColorBar(NamedTuple):
    """The colors of a heat map.

    Attributes:
        title: What the colors stand for.
        colors: uint8 [n, 3], from the lowest value to the highest.
        labels: Texts that are spread evenly over the bar.
    """

    title: str
    colors: NDArray[np.uint8]
    labels: Sequence[str]


def picture_of_rows(
    rows: Sequence[Sequence[RowTile]],
    *,
    headings: Sequence[str] = (),
    items_per_line: int = 1,
    histogram: Histogram | None = None,
    color_bar: ColorBar | None = None,
) -> Image.Image:
    """Draw one row of tiles for each item, on white.

    Args:
        rows: The tiles of each item; at least one item.
        headings: Text above each column.
        items_per_line: Items side by side.
        histogram: Drawn below the rows.
        color_bar: Drawn below the rows.

    Example:
        >>> import numpy as np
        >>> picture_of_rows([[RowTile(np.zeros((3, 64, 64), np.uint8), "a.png", "0.5")]]).size
        (176, 210)
    """
    tiles = max(map(len, rows))
    per_line = min(items_per_line, len(rows))
    item_width = tiles * (TILE_PX + GAP) - GAP
    lines = math.ceil(len(rows) / per_line)
    texts = max(bool(tile.name) + bool(tile.value) for row in rows for tile in row)
    row_height = TILE_PX + texts * LINE_PX + GAP
    width = 2 * MARGIN + per_line * (item_width + 2 * GAP) - 2 * GAP
    top = MARGIN + (LINE_PX + 6 if headings else 0)
    below = top + lines * row_height
    height = below + (CHART_HEIGHT_PX + 3 * LINE_PX if histogram is not None else 0)
    height += 4 * LINE_PX if color_bar is not None else 0
    sheet = Image.new("RGB", (width, height - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        left = MARGIN + place % per_line * (item_width + 2 * GAP)
        if place < per_line:
            for column, text in enumerate(headings):
                _text(draw, (left + column * (TILE_PX + GAP), MARGIN), text, font(HEADING_PX), TILE_PX, INK)
        for column, tile in enumerate(row):
            _draw_tile(sheet, draw, tile, (left + column * (TILE_PX + GAP), top + place // per_line * row_height))
    if histogram is not None:
        _draw_histogram(draw, histogram, (MARGIN, below, width - MARGIN))
        below += CHART_HEIGHT_PX + 3 * LINE_PX
    if color_bar is not None:
        _draw_color_bar(sheet, draw, color_bar, (MARGIN, below, width - MARGIN))
    return sheet


def whole_image(raw: str | bytes, spec: Spec) -> RowTile | None:
    """Return a whole image as a tile, with an outline if a model sees only a part of it; None if it cannot be read.

    Args:
        raw: A path, or the content of a file.
        spec: What a model's images are decoded to.
    """
    try:
        image = load_upright(raw, spec.load).image
        crop = kept_box(image.size, spec)
        image.thumbnail((TILE_PX, TILE_PX))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            flattened = Image.new("RGB", image.size, spec.background)
            flattened.paste(image, mask=image.getchannel("A"))
            image = flattened
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except (Rejected, OSError, ValueError):
        return None
    return RowTile(pixels, crop=None if crop == WHOLE else crop)


def _text(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, face: Font, width: float, ink: str) -> None:
    draw.text(at, shorten(text, face, width), ink, face)


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: RowTile, at: tuple[int, int]) -> None:
    left, top = at
    if tile.pixels is not None:
        picture = Image.fromarray(tile.pixels[0] if len(tile.pixels) == 1 else tile.pixels.transpose(1, 2, 0))
        longer = max(picture.size)
        # Whole factors keep the pixels of small images square.
        scale = TILE_PX // longer if longer <= TILE_PX else TILE_PX / longer
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BICUBIC
        picture = picture.convert("RGB").resize(size, resampling)
        x, y = left + (TILE_PX - size[0]) // 2, top + (TILE_PX - size[1]) // 2
        sheet.paste(picture, (x, y))
        if tile.crop is not None:
            a, b, c, d = tile.crop
            box = (x + a * size[0], y + b * size[1], x + c * size[0] - 1, y + d * size[1] - 1)
            draw.rectangle([round(each) for each in box], outline=OUTLINE, width=2)
    line = top + TILE_PX + 2
    for text, ink in ((tile.name, SOFT), (tile.value, INK)):
        if text:
            _text(draw, (left, line), text, font(NAME_PX), TILE_PX, ink)
            line += LINE_PX


def _draw_histogram(draw: ImageDraw.ImageDraw, histogram: Histogram, place: tuple[int, int, int]) -> None:
    """Draw counts over a logarithmic axis, the cut-off as a line, and the marks as ticks below the axis."""
    left, top, right = place
    face = font(NAME_PX)
    _text(draw, (left, top), histogram.title, font(HEADING_PX), right - left, INK)
    known = np.asarray(histogram.values, np.float64)
    every = np.concatenate([known, np.asarray(histogram.marks, np.float64), [histogram.cutoff]])
    positive = every[np.isfinite(every) & (every > 0)]
    if not len(positive):
        return
    low, high = np.log10(positive.min()), np.log10(positive.max())
    high = high if high - low > 1e-6 else low + 1e-6

    def across(value: float) -> float:
        share = (np.log10(max(value, positive.min())) - low) / (high - low) if math.isfinite(value) else 1.0
        return left + share * (right - left)

    counts, edges = np.histogram(np.log10(known[np.isfinite(known) & (known > 0)]), NUM_BINS, (low, high))
    base, tall = top + LINE_PX + CHART_HEIGHT_PX - 20, CHART_HEIGHT_PX - 30
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
        if count:
            box = (across(10**start) + 1, base - max(1, tall * count / counts.max()), across(10**end) - 1, base)
            draw.rectangle((box[0], box[1], max(box[0], box[2]), box[3]), fill=BARS)
    draw.line((left, base, right, base), fill=SOFT)
    for value in list(histogram.marks)[:MAX_DRAWN_MARKS]:
        x = across(value)
        draw.polygon([(x, base + 2), (x - 4, base + 10), (x + 4, base + 10)], fill=INK)
    x = across(histogram.cutoff)
    draw.line((x, base - tall - 6, x, base), fill=CUT, width=2)
    text = shorten(histogram.cutoff_text, face, right - left)
    wide = face.getlength(text)
    draw.text((x - wide - 6 if x - left > wide + 6 else min(x + 6, right - wide), base - tall - 8), text, CUT, face)
    draw.text((left, base + 12), f"{10**low:.2g}", SOFT, face)
    end = f"{10**high:.2g}"
    draw.text((right - face.getlength(end), base + 12), end, SOFT, face)


def _draw_color_bar(sheet: Image.Image, draw: ImageDraw.ImageDraw, bar: ColorBar, place: tuple[int, int, int]) -> None:
    left, top, right = place
    face = font(NAME_PX)
    _text(draw, (left, top), bar.title, font(HEADING_PX), right - left, INK)
    strip = Image.fromarray(np.asarray(bar.colors, np.uint8)[None]).resize((right - left, 14))
    sheet.paste(strip, (left, top + LINE_PX + 6))
    draw.rectangle((left, top + LINE_PX + 6, right, top + LINE_PX + 20), outline=SOFT)
    for place_, text in enumerate(bar.labels):
        share = place_ / max(1, len(bar.labels) - 1)
        wide = face.getlength(text)
        x = min(max(left, left + share * (right - left) - wide / 2), right - wide)
        draw.text((x, top + LINE_PX + 24), text, SOFT, face)
