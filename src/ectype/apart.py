"""Runs in processes of their own: one that fails leaves the others be, and all are told to save when this one ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ectype.errors import Interrupted
from ectype.recipe import Recipe
from ectype.training.rundir import RunDir

__all__ = ["reason", "stoppable", "train_all"]


def train_all(place: Path, recipes: Mapping[str, Recipe], processes: int, say: Callable[[str], None]) -> dict[str, str]:
    """Run all that have not come to their end, attempts and report included; why those that failed did."""
    # A process that came to its end left a report, its last act: attempts and measuring are done too.
    runs = {name: RunDir(place / name) for name in recipes}
    waiting = [name for name, run in runs.items() if not (run.ended and run.report.is_file())]
    failed: dict[str, str] = {}
    running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                name = waiting.pop(0)
                running[name] = _start(place, name, recipes[name])
            for name, (process, log) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                summary = RunDir(place / name).summary()
                if process.returncode:
                    failed[name] = reason(process.returncode, log)
                    say(f"{name}: failed: {failed[name]}")
                else:
                    took = f"{summary['seconds'] / 60:.1f} minutes"
                    say(f"{name}: {summary['state']}, {summary['seen']:,} images, {took}")
            time.sleep(0.2)
    finally:
        # Each saves what it has at the first signal.
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    return failed


@contextmanager
def stoppable() -> Iterator[None]:
    """What asks this process to end becomes an error, so that the runs are told too."""

    def stop(*_: Any) -> None:
        raise Interrupted("stopped: what was trained is saved, and the same command goes on.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {which: signal.signal(which, stop) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _start(place: Path, name: str, recipe: Recipe) -> tuple[subprocess.Popen[bytes], Path]:
    log = place / f"{name}.log"
    file = place / f"{name}.yaml"
    file.write_text(recipe.yaml(), encoding="utf-8")
    with log.open("ab") as target:
        command = [sys.executable, "-m", "ectype.cli", "train", str(file), str(recipe.data.source)]
        process = subprocess.Popen(
            [*command, "--out", str(place / name)], stdout=target, stderr=subprocess.STDOUT, start_new_session=True
        )
    return process, log


def reason(code: int, log: Path) -> str:
    """Why a process failed: what it said last, or that it was killed."""
    if code < 0:
        return f"killed by signal {-code}; the same command goes on with it."
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"no word of it in {log}"
