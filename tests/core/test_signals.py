from __future__ import annotations

import os
import signal
import threading

import pytest

from ectype.core.signals import StopSignal, handle_stop_signals, raise_stop_signal


@pytest.fixture(autouse=True)
def _restored():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    assert before == {number: signal.getsignal(number) for number in before}


@pytest.mark.parametrize(
    "number, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_signal_is_raised_as_no_exception_that_code_catches(number: int, name: str) -> None:
    cleaned = False
    with pytest.raises(StopSignal, match=name), handle_stop_signals(raise_stop_signal):  # noqa: PT012
        try:
            os.kill(os.getpid(), number)
        except Exception:  # a reader of images reports any error as a damaged image
            pytest.fail("it was taken for an error")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one does not interrupt the clean-up
            cleaned = True
    assert cleaned


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_stop_signals(raise_stop_signal):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_changes_no_handler() -> None:
    found = []

    def look() -> None:
        with handle_stop_signals(raise_stop_signal):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
