"""Text in pictures: a font that is there on every machine, and texts that fit a width."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

from ectype.core.escape import for_terminal

__all__ = ["Font", "font", "shorten"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FAMILIES = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Fonts that know more letters than the one in Pillow, the one with the most first."""


@lru_cache(maxsize=32)
def font(size: int) -> Font:
    """Return a font of a size in pixels: the best that is installed, or the one that comes with Pillow."""
    for name in FAMILIES:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def shorten(text: str, face: Font, width: float) -> str:
    """Return a text that is at most `width` pixels wide, with an ellipsis in its middle if it had to be cut.

    Control characters are written out. The ends of names say more than their middles.
    """
    text = for_terminal(text).encode("utf-8", "replace").decode()
    if face.getlength(text) <= width:
        return text
    # Keep at most what could fit, so that a name of a megabyte costs nothing.
    low, high = 0, min(len(text), max(2, int(width)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if face.getlength(_cut(text, middle)) <= width else (low, middle - 1)
    return _cut(text, low)


def _cut(text: str, kept: int) -> str:
    tail = kept // 2
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"
