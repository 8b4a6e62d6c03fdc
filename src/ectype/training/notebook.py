"""A progress bar in a notebook, without widgets that would have to be installed."""

from __future__ import annotations

from ectype.core.escape import for_html

__all__ = ["NotebookBar"]


class NotebookBar:
    """A bar that updates itself in the output of a notebook cell.

    Args:
        total: Images to train on.
    """

    def __init__(self, total: int) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]  # only used in a notebook

        self.total, self._html = total, HTML
        self._handle = display(self._render(0, ""), display_id=True)

    def _render(self, done: int, text: str) -> object:
        bar = f'<progress value="{done}" max="{self.total}" style="width: 20em"></progress>'
        return self._html(f"{bar} {for_html(text)}")

    def update(self, done: int, text: str) -> None:
        """Show that `done` images were seen, with a line of text."""
        if self._handle is not None:
            self._handle.update(self._render(done, text))
