"""Start runs as separate processes. A run that fails does not affect the others; all save when this process ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ectype.analysis.report.frontier import training_minutes
from ectype.config.recipe import Recipe
from ectype.core.errors import Interrupted, RunError
from ectype.core.files import write_text_atomically
from ectype.core.outputs import ForeignFileError, claim_directory
from ectype.core.signals import StopSignal, handle_stop_signals, raise_stop_signal
from ectype.runs.run_dir import RunDir

__all__ = ["claim_folder", "running_text", "reason", "terminate_children", "launch_runs"]


def claim_folder(place: Path, plan: str, kind: str, text: str) -> str:
    """Make a directory that of several runs, unless it is one already.

    Args:
        place: The directory.
        plan: Name of the file that all such directories contain.
        kind: What they hold, for the message.
        text: What the file contains if it is new.

    Returns:
        What the file contains.

    Raises:
        RunError: The directory contains other files, or cannot be written.
    """
    try:
        if not claim_directory(place, [plan]):
            place.mkdir(parents=True, exist_ok=True)
            write_text_atomically(place / plan, text)
        return (place / plan).read_text(encoding="utf-8", errors="replace")
    except ForeignFileError as error:
        raise RunError(
            f"'{place}' holds no {kind} ({error.strerror}), and nothing is overwritten: give another --out."
        ) from None
    except OSError as error:
        raise RunError(f"cannot write to '{place}' ({error.strerror}): give another --out.") from None


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
                    took = f"{training_minutes(RunDir(place / name)):.1f} minutes"
                    say(f"{name}: {summary.get('state')}, {summary.get('seen', 0):,} images, {took}")
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
    try:
        with handle_stop_signals(raise_stop_signal):
            yield
    except StopSignal as stop:
        raise Interrupted(f"{stop.name}: the runs are saved; repeat the command to continue.") from None


def _start(place: Path, name: str, recipe: Recipe) -> tuple[subprocess.Popen[bytes], Path]:
    log = place / f"{name}.log"
    file = place / f"{name}.yaml"
    write_text_atomically(file, recipe.yaml())
    with log.open("ab") as target:
        command = [sys.executable, "-m", "ectype.cli", "train", str(file), str(recipe.data.source)]
        process = subprocess.Popen(
            [*command, "--out", str(place / name)],
            stdout=target,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
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
        first = RunDir(run.autoencoder)
        if run.recipe_file.is_file() and not run.summary():
            own = not first.recipe_file.is_file() or first.training_ended
            states.append(f"{name}: {run.seen():,} images" if own else f"{name}: autoencoder, {first.seen():,} images")
        elif run.is_complete and not run.report.is_file():
            states.append(f"{name}: measuring")
    return "; ".join(states) or "starting runs"
