"""How much is done at a time: requests of each kind wait in a lane of their own, and are refused when it is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Lane", "LaneFull"]


class LaneFull(Exception):
    """Too many requests of a kind are waiting, or one has waited too long: 429."""


class Lane:
    """A bounded number of requests that are answered at a time, and of those that wait.

    Args:
        at_once: Requests that are answered at a time.
        waiting: Requests that may wait.
        seconds: How long one waits at most.
    """

    def __init__(self, at_once: int, waiting: int = 0, seconds: float = 10.0) -> None:
        self.seconds, self.max_waiting = seconds, waiting
        self._free = asyncio.Semaphore(at_once)
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it.

        Raises:
            LaneFull: None becomes free.
        """
        release = await self.enter()
        try:
            yield
        finally:
            release()

    async def enter(self) -> _Release:
        """Wait for a turn, and return the function that ends it. See `turn`."""
        if not self._free.locked():
            await self._free.acquire()
            return _Release(self._free)
        if self._waiting >= self.max_waiting:
            raise LaneFull
        self._waiting += 1
        try:
            await asyncio.wait_for(self._free.acquire(), self.seconds)
        except TimeoutError:
            raise LaneFull from None
        finally:
            self._waiting -= 1
        return _Release(self._free)


class _Release:
    """Ends a turn, once."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free, self._done, self.since = free, False, time.monotonic()

    def __call__(self) -> None:
        if not self._done:
            self._done = True
            self._free.release()
