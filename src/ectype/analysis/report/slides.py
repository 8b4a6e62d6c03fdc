"""A comparison as pictures for a talk: 1920 × 1080 pixels, one with outputs and samples and one with figures."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from PIL import Image, ImageDraw
from torch import Tensor

from ectype.core.images import to_uint8
from ectype.core.lettering import font, shorten

__all__ = ["HeatCell", "HeatRow", "figures_slide", "pictures_slide"]

SIZE = (1920, 1080)
MARGIN = 80
TOP = 230
"""Where the content begins below the sentence."""
BOTTOM = SIZE[1] - 85
"""Where it ends above the note."""
INK, SOFT, PAPER, FILL, HATCH = "#1d2327", "#59636b", "#ffffff", (143, 179, 209), "#dfe3e6"
MAX_MODELS = 6
"""Models that fit side by side; further ones are left out, and their number is written below."""
TITLE_CHARACTERS, MAX_TITLE_LINES = 78, 3


class HeatCell(NamedTuple):
    """One value of a heat table: its text, how good it is from 0 to 1, and whether it is clearly the best."""

    text: str
    share: float
    best: bool


class HeatRow(NamedTuple):
    """One figure of a heat table; the cell of a model is None if the figure does not apply to it."""

    name: str
    better: Literal["higher", "lower"]
    cells: list[HeatCell | None]


def pictures_slide(sentence: str, models: Mapping[str, tuple[str, Tensor | None, Tensor | None]]) -> bytes:
    """Return a PNG of eight outputs and sixteen samples of each model.

    Args:
        sentence: The title.
        models: Name → what its training used, its outputs and its samples, [n, c, h, w] in [0, 1] or None.
    """
    slide, draw = _blank(sentence)
    shown = list(models.items())[:MAX_MODELS]
    width = (SIZE[0] - 2 * MARGIN) / max(3, len(shown))
    tile = int(min((width - 40) / 4, (BOTTOM - TOP - 96 - 30) / 6))
    for place, (name, (used, outputs, samples)) in enumerate(shown):
        left = int(MARGIN + place * width)
        draw.text((left, TOP), shorten(name, font(34), width - 40), INK, font(34))
        draw.text((left, TOP + 48), shorten(used, font(20), width - 40), SOFT, font(20))
        _grid(slide, draw, outputs, (left, TOP + 96), tile, rows=2)
        _grid(slide, draw, samples, (left, TOP + 96 + 2 * tile + 30), tile, rows=4)
    hidden = len(models) - len(shown)
    note = "Above: outputs for the same held-out images. Below: samples." + f" {hidden} models not shown." * bool(
        hidden
    )
    draw.text((MARGIN, SIZE[1] - 60), note, SOFT, font(22))
    return _png(slide)


def figures_slide(sentence: str, models: Sequence[str], rows: Sequence[HeatRow]) -> bytes:
    """Return a PNG of a heat table.

    Args:
        sentence: The title.
        models: Names of the columns.
        rows: The figures.
    """
    slide, draw = _blank(sentence)
    shown = models[:MAX_MODELS]
    first = 480
    width = (SIZE[0] - 2 * MARGIN - first) / max(1, len(shown))
    height = min(120, (SIZE[1] - TOP - 160) / max(1, len(rows)))
    for place, name in enumerate(shown):
        draw.text((MARGIN + first + place * width + 16, TOP), shorten(name, font(28), width - 32), SOFT, font(28))
    for line, row in enumerate(rows):
        top = TOP + 56 + line * height
        label = f"{row.name} {'↑' if row.better == 'higher' else '↓'}"
        draw.text((MARGIN, top + height / 2), shorten(label, font(28), first - 20), INK, font(28), anchor="lm")
        for place, cell in enumerate(row.cells[: len(shown)]):
            left = MARGIN + first + place * width
            box = (left, top, left + width - 6, top + height - 6)
            if cell is None:
                _hatch(slide, box)
                continue
            color = tuple(round(255 + (each - 255) * cell.share) for each in FILL)
            draw.rectangle(box, fill=color)
            at = (left + 16, top + height / 2 - 3)
            stroke = 1 if cell.best else 0
            draw.text(at, shorten(cell.text, font(32), width - 32), INK, font(32), anchor="lm", stroke_width=stroke)
    note = "More color: a better rank; models of one rank do not clearly differ. Bold: clearly the best. "
    note += "Hatched: does not apply."
    draw.text((MARGIN, SIZE[1] - 60), note, SOFT, font(22))
    return _png(slide)


def _blank(sentence: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    slide = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(slide)
    lines = textwrap.wrap(sentence, TITLE_CHARACTERS, max_lines=MAX_TITLE_LINES, placeholder=" …")
    for line, text in enumerate(lines):
        draw.text((MARGIN, 60 + 54 * line), shorten(text, font(40), SIZE[0] - 2 * MARGIN), INK, font(40))
    return slide, draw


def _grid(
    slide: Image.Image, draw: ImageDraw.ImageDraw, images: Tensor | None, at: tuple[int, int], tile: int, rows: int
) -> None:
    """Draw images in rows of four, or a hatched place if there are none."""
    if images is None:
        box = (at[0], at[1], at[0] + 4 * tile - 6, at[1] + rows * tile - 6)
        _hatch(slide, box)
        draw.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), "does not apply", SOFT, font(22), anchor="mm")
        return
    for i, pixels in enumerate(to_uint8(images[: 4 * rows].float().cpu().clamp(0, 1)).permute(0, 2, 3, 1).numpy()):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
        scale = (tile - 6) / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
        slide.paste(picture.resize(size, resampling), (at[0] + i % 4 * tile, at[1] + i // 4 * tile))


def _hatch(slide: Image.Image, box: tuple[float, float, float, float]) -> None:
    width, height = int(box[2] - box[0]), int(box[3] - box[1])
    area = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(area)
    for start in range(-height, width, 16):
        draw.line((start, height, start + height, 0), fill=HATCH, width=3)
    slide.paste(area, (int(box[0]), int(box[1])))


def _png(slide: Image.Image) -> bytes:
    buffer = io.BytesIO()
    slide.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
