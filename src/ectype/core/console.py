"""A console that always says what is being done: a spinner on a terminal, a line every few seconds in a pipe or log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from ectype.core.escape import for_terminal
from ectype.core.output import SafeStream

__all__ = ["ActivityConsole", "doing", "heartbeat", "progress_line", "say"]

MAX_SILENT_SECONDS = 5.0
"""In a pipe, a line is printed when nothing was printed for this long."""

Activity = str | Callable[[], str]


class ActivityConsole(Console):
    """A rich console that knows what the program is doing.

    Inside of `heartbeat()`, a console that is not a terminal prints the current activity whenever it was silent for
    `max_silent_seconds`, so that a log never looks like a program that hangs. On a terminal, `spinner()` shows it.

    Printing never raises, whatever the encoding and even if the terminal is gone: no run is lost because its progress
    cannot be shown.

    Text is printed as it is: it contains no markup or names of emoji, and its control characters are written out,
    because it may be the name of somebody else's file. For colors, print `rich.text.Text`.

    >>> console = ActivityConsole()
    >>> with console.heartbeat():
    ...     console.doing("counting")
    """

    def __init__(self, *args: Any, max_silent_seconds: float = MAX_SILENT_SECONDS, **kwargs: Any) -> None:
        self._safe: SafeStream | None = None
        super().__init__(*args, **{"markup": False, "emoji": False, **kwargs})
        self.max_silent_seconds = max_silent_seconds
        self._last_print = self._since = time.monotonic()
        self._activity: Activity = ""
        self._beating = False
        self._status: Status | None = None
        self._shown, self._shown_until = Text(), 0.0

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

    def render_str(self, text: str, **kwargs: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return text with its control characters written out, before it is laid out."""
        return super().render_str(for_terminal(text), **kwargs)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the segments of anything that is printed; those that are no control codes are text."""
        for segment in super().render(renderable, options):
            # The end of a line that is printed over is the only carriage return that Rich lets through.
            yield (
                segment
                if segment.control or segment.text == "\r"
                else segment._replace(text=for_terminal(segment.text))
            )

    def doing(self, activity: Activity) -> None:
        """Set what the program is doing.

        Args:
            activity: A few words, such as "measuring recall", or a function that returns them when they are shown.
        """
        self._activity, self._since = activity, time.monotonic()
        self._shown_until = 0.0

    def _text(self) -> str:
        return self._activity if isinstance(self._activity, str) else self._activity()

    def activity_text(self) -> Text:
        """Return the current activity, asked for once in a second: a spinner is drawn more often."""
        if time.monotonic() >= self._shown_until:
            self._shown, self._shown_until = Text(for_terminal(self._text())), time.monotonic() + 1
        return self._shown

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
                    say(self, f"  {text} ({time.monotonic() - self._since:.0f} s)")

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
        with self.status(_Spoken(self)) as self._status:
            try:
                yield
            finally:
                self._status = None


class _Spoken:
    """The activity of a console, each time that a spinner is drawn."""

    def __init__(self, console: ActivityConsole) -> None:
        self.console = console

    def __rich__(self) -> Text:
        return self.console.activity_text()


def say(console: Console | None, text: str) -> None:
    """Print text as it is, if there is a console: no markup, and lines are not broken."""
    if console is not None:
        console.print(Text(for_terminal(text)), highlight=False, soft_wrap=True)


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
