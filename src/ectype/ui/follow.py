"""A run while it is trained: its state, metrics, pictures and log as server-sent events, whenever one has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from ectype.core.errors import RunError
from ectype.core.escape import for_terminal
from ectype.ui.folder import Entry, pictures_of
from ectype.ui.metrics import thinned
from ectype.ui.state import RunStates, finite

__all__ = ["LIVE_SECONDS", "follow"]

LIVE_SECONDS = 1.0
"""Interval at which the files of a run are looked at."""
BEAT_SECONDS = 10.0
"""Interval of a sign of life, by which a page notices that a connection has died while the machine slept."""
MAX_POINTS = 1500
"""Training lines of a run that are sent at first."""

Values = dict[str, Any]


async def follow(
    find: Callable[[], Entry],
    states: RunStates,
    extra: Callable[[], Values],
    log: Callable[[], str],
    closing: Callable[[], bool],
) -> AsyncIterator[str]:
    """Yield the events of a run, first everything that there is, then what changes.

    Args:
        find: Looks the run up in its folder; raises `RunError` if it is gone.
        states: Reads the states of runs.
        extra: What else the page shows of the run, such as whether it can be stopped.
        log: Returns the end of the run's log.
        closing: Whether the server stops.
    """
    sent: Values = {}
    version, count, silent = -1, 0, 0.0
    while not closing():
        try:
            now = await asyncio.to_thread(_read, find, states, extra, log, version, count)
        except RunError as error:
            yield _event("gone", {"error": str(error)})
            return
        version, count, metrics = now.pop("position")
        if metrics is not None:
            yield _event("metrics", metrics)
            silent = 0.0
        for name, value in now.items():
            if sent.get(name) != value:
                sent[name] = value
                yield _event(name, value)
                silent = 0.0
        if silent >= BEAT_SECONDS:
            yield _event("beat", {})
            silent = 0.0
        await asyncio.sleep(LIVE_SECONDS)
        silent += LIVE_SECONDS


def _read(
    find: Callable[[], Entry],
    states: RunStates,
    extra: Callable[[], Values],
    log: Callable[[], str],
    version: int,
    count: int,
) -> Values:
    entry = find()
    if entry.refused:
        raise RunError(f"'{entry.name}' is refused: {entry.refused}.")
    new_version, new_count, lines = states.reader(entry.run).since(version, count)
    metrics = None
    if new_version != version or lines:
        reset = new_version != version
        shown = thinned(lines, MAX_POINTS) if reset else lines
        metrics = finite({"reset": reset, "lines": shown})
    pictures: dict[str, list[int]] = {}
    for picture in pictures_of(entry.run):
        pictures.setdefault(picture.kind, []).append(picture.step)
    return {
        "position": (new_version, new_count, metrics),
        "state": {**states.row(entry), **extra()},
        "details": states.details(entry),
        "pictures": pictures,
        "log": {"text": for_terminal(log())},
    }


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(value, allow_nan=False)}\n\n"
