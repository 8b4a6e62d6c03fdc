"""Simulated crashes: a function runs in a forked child that dies at a system call, as a killed process does.

Nothing of the child is cleaned up: no `finally` runs. Two kinds of crash are simulated: before the n-th call that
changes files, and in the middle of a write, when a file grows past n bytes (which code outside of Python makes too).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator

import pytest

__all__ = ["KILLED", "each_crash", "run_until"]

KILLED = 137
"""Exit status of a child that died as asked."""
CHANGES = {
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
}
"""Audit events of calls that change files, in addition to `open` for writing."""
SIZES = (0, 1, 100, 1000, 10_000)
"""Sizes in bytes at which a write is cut off."""


def each_crash(
    action: Callable[[], object], *, before: Callable[[], object] = lambda: None, step: int = 1
) -> Iterator[int]:
    """Yield after each crash of an action, for the caller to look at what is on the disk.

    Args:
        action: What is interrupted; at the last time, it comes to its end.
        before: Called before each attempt, in this process.
        step: 2 to crash at every second call only, and so on.
    """
    if sys.platform == "win32":
        pytest.skip("needs fork")
    for size in SIZES:
        before()
        run_until(action, size=size)
        yield -size
    number = 1
    while True:
        before()
        killed = run_until(action, call=number)
        yield number
        if not killed:
            return
        number += step


def run_until(action: Callable[[], object], *, call: int | None = None, size: int | None = None) -> bool:
    """Run an action in a child.

    Args:
        action: What runs.
        call: The child dies before its n-th call that changes files.
        size: The child dies when it writes a file beyond this many bytes.

    Returns:
        Whether the child died before the action came to its end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork while there are threads
        child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, KILLED, -signal.SIGXFSZ), f"the child ended with {code}"
        return code != 0
    try:
        _die(call, size)
        action()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _die(call: int | None, size: int | None) -> None:
    """Arrange the end of this process."""
    if size is not None:
        import resource  # there is none on Windows

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return
    count, fsync = 0, os.fsync

    def reached() -> None:
        nonlocal count
        count += 1
        if count == call:
            os._exit(KILLED)

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        if event in CHANGES or (
            event == "open" and isinstance(flags := arguments[2], int) and flags & (os.O_WRONLY | os.O_RDWR)
        ):
            reached()

    def counted_fsync(descriptor: int) -> None:
        reached()
        fsync(descriptor)

    sys.addaudithook(heard)
    os.fsync = counted_fsync
