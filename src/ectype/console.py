"""What the terminal shows while images are prepared."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

__all__ = ["progress_line"]


def progress_line(console: Console | None) -> Callable[[int, int], None] | None:
    """A line that counts images, on a terminal; nothing elsewhere."""
    if console is None or not console.is_terminal:
        return None

    def show(done: int, total: int) -> None:
        console.print(f"preparing {done:,}/{total:,} images", end="\r" if done < total else "\n", highlight=False)

    return show
