"""Signals that ask a program to stop: Ctrl-C, SIGTERM of a scheduler, and SIGHUP of a terminal that is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["StopSignal", "handle_stop_signals", "raise_stop_signal"]

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


class StopSignal(BaseException):
    """A signal asks the program to stop.

    It is no `Exception`: code that reports errors of its own (a damaged image, a run that fails) must not catch it.

    Attributes:
        name: Name of the signal, such as SIGTERM, or Ctrl-C.
    """

    def __init__(self, number: int) -> None:
        self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        super().__init__(self.name)


def raise_stop_signal(number: int) -> NoReturn:
    """Raise `StopSignal`, and ignore further signals of SIGTERM and SIGHUP, which would interrupt the clean-up.

    A second Ctrl-C ends the program at once.
    """
    for each in STOP_SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_IGN)
    raise StopSignal(number)


@contextmanager
def handle_stop_signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Call a function with the number of each signal that asks the program to stop, while the block runs.

    A signal that is ignored stays ignored, as `nohup` wants it. In a thread other than the main one, nothing changes.

    Args:
        handler: Called in the main thread, between two of its instructions.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        handler(number)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handled = [number for number, known in before.items() if known not in (signal.SIG_IGN, None)]
    try:
        for number in handled:
            signal.signal(number, handle)
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
