"""Start runs as separate processes. A run that fails does not affect the others; all save when this process ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ectype.config.recipe import Recipe
from ectype.core.errors import Interrupted
from ectype.runs.run_dir import RunDir

__all__ = ["running_text", "reason", "terminate_children", "launch_runs"]


def launch_runs(
    place: Path, recipes: Mapping[str, Recipe], processes: int, say: Callable[[str], None]
) -> dict[str, str]:
    """Train all runs that are not complete, with their attempts and reports.

    Args:
        place: The directory of the runs.
        recipes: Name of each run → its recipe.
        processes: Runs at the same time.
        say: Prints a line.

    Returns:
        Name of each run that failed → why.
    """
    # The report is written last, after attempts and evaluation.
    runs = {name: RunDir(place / name) for name in recipes}
    waiting = [name for name, run in runs.items() if not (run.is_complete and run.report.is_file())]
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
        # A run saves a checkpoint at the first signal.
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    return failed


@contextmanager
def terminate_children() -> Iterator[None]:
    """Turn signals that end this process into an error, so that the runs are stopped as well."""

    def stop(*_: Any) -> None:
        raise Interrupted("stopped: the runs are saved; repeat the command to continue.")

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
    """Return why a process failed: its last line, or the signal that killed it."""
    if code < 0:
        return f"killed by signal {-code}; repeat the command to continue it."
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"{log} is empty"


def running_text(place: Path, names: Iterable[str]) -> str:
    """Return the progress of the runs that have started but not ended, for a log."""
    states = []
    for name in names:
        run = RunDir(place / name)
        if run.recipe_file.is_file() and not run.summary():
            states.append(f"{name}: {run.seen():,} images")
        elif run.is_complete and not run.report.is_file():
            states.append(f"{name}: measuring")
    return "; ".join(states) or "starting runs"
