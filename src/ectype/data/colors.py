"""Colors as they are written in a recipe."""

from __future__ import annotations

from PIL import ImageColor

__all__ = ["parse_color"]


def parse_color(name: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a color that Pillow knows by name or that is written as #rrggbb.

    Raises:
        ValueError: Pillow does not know the color.
    """
    return ImageColor.getrgb(name)[:3]  # type: ignore[return-value]
