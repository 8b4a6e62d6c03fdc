"""A console that always says what is being done: a spinner on a terminal, a line every few seconds in a pipe or log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from ectype.core.output import SafeStream

__all__ = ["ActivityConsole", "doing", "heartbeat", "progress_line"]

MAX_SILENT_SECONDS = 5.0
"""In a pipe, a line is printed when nothing was printed for this long."""

Activity = str | Callable[[], str]


class ActivityConsole(Console):
    """A rich console that knows what the program is doing.

    Inside of `heartbeat()`, a console that is not a terminal prints the current activity whenever it was silent for
    `max_silent_seconds`, so that a log never looks like a program that hangs. On a terminal, `spinner()` shows it.

    Printing never raises, whatever the encoding and even if the terminal is gone: no run is lost because its progress
    cannot be shown.

    >>> console = ActivityConsole()
    >>> with console.heartbeat():
    ...     console.doing("counting")
    """

    def __init__(self, *args: Any, max_silent_seconds: float = MAX_SILENT_SECONDS, **kwargs: Any) -> None:
        self._safe: SafeStream | None = None
        super().__init__(*args, **kwargs)
        self.max_silent_seconds = max_silent_seconds
        self._last_print = self._since = time.monotonic()
        self._activity: Activity = ""
        self._beating = False
        self._status: Status | None = None

    @property
    def file(self) -> Any:
        """The stream that is written to, which never raises; see `SafeStream`."""
        stream = super().file
        if isinstance(stream, SafeStream):
            return stream
        if self._safe is None or self._safe.stream is not stream:
            self._safe = SafeStream(stream)
        return self._safe

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def print(self, *objects: Any, **kwargs: Any) -> None:
        """Print as `rich.console.Console.print` does, and note when."""
        self._last_print = time.monotonic()
        super().print(*objects, **kwargs)

    def doing(self, activity: Activity) -> None:
        """Set what the program is doing.

        Args:
            activity: A few words, such as "measuring recall", or a function that returns them when they are shown.
        """
        self._activity, self._since = activity, time.monotonic()
        if self._status is not None:
            self._status.update(escape(self._text()))

    def _text(self) -> str:
        return self._activity if isinstance(self._activity, str) else self._activity()

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """While open, never be silent for long in a pipe. Nothing happens on a terminal or in a notebook."""
        if self._beating or self.is_terminal or self.is_jupyter:
            yield
            return
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(max(0.05, self._last_print + self.max_silent_seconds - time.monotonic())):
                if time.monotonic() - self._last_print >= self.max_silent_seconds:
                    text = self._text() or "working"
                    self.print(
                        f"  {text} ({time.monotonic() - self._since:.0f} s)",
                        highlight=False,
                        soft_wrap=True,
                        markup=False,
                    )

        self._beating, self._last_print = True, time.monotonic()
        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._beating = False

    @contextmanager
    def spinner(self, activity: Activity = "working") -> Iterator[None]:
        """Show the current activity next to a spinner on a terminal, and keep the heartbeat in a pipe."""
        self.doing(activity)
        if not self.is_terminal or self._status is not None:
            with self.heartbeat():
                yield
            return
        with self.status(escape(self._text())) as self._status:
            try:
                yield
            finally:
                self._status = None


def doing(console: Console | None, activity: Activity) -> None:
    """Set the activity of a console, if it can show one."""
    if isinstance(console, ActivityConsole):
        console.doing(activity)


@contextmanager
def heartbeat(console: Console | None) -> Iterator[None]:
    """Keep the heartbeat of a console while the block runs, if it has one."""
    if isinstance(console, ActivityConsole):
        with console.heartbeat():
            yield
    else:
        yield


def progress_line(console: Console | None) -> Callable[[int, int], None] | None:
    """Return a function that shows how many images are prepared: in place on a terminal, by the heartbeat elsewhere."""
    if console is None:
        return None

    def show(done: int, total: int) -> None:
        text = f"preparing {done:,}/{total:,} images"
        if console.is_terminal:
            console.print(text, end="\r" if done < total else "\n", highlight=False)
        else:
            doing(console, text)

    return show
