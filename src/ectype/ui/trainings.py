"""Trainings that are started from the page: one at a time, each a process of its own, `ectype train …`.

The command is given as a list, never through a shell, and its `--out` is chosen here, inside the runs folder. A process
goes on when the page is closed and when the server stops. What it prints, and its number, are written into the hidden
folder `.ectype-ui` of the runs folder, by which a server that is started again finds and stops it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Literal

from ectype.api.train import changes_of
from ectype.config.recipe import preset_names
from ectype.core.errors import RecipeError, RunError, TrainingError, did_you_mean
from ectype.core.escape import as_one_line
from ectype.core.files import open_regular, read_regular, write_text_atomically
from ectype.data.sources.open import open_source
from ectype.runs.run_dir import RunDir, next_numbered_dir
from ectype.training.run import resolve
from ectype.ui.folder import RunsFolder, key_of

__all__ = ["MAX_WAITING", "TOKEN_VARIABLE", "QueueFull", "Training", "Trainings"]

MAX_WAITING = 8
"""Trainings that may wait while another one runs."""
MAX_ENDED = 50
"""Trainings that have ended and are still listed."""
MAX_LOG_BYTES = 64 * 1024
"""The end of a log that is shown."""
WORK = ".ectype-ui"
DOWNLOADED = ("hf:", "torchvision:")
"""How sources begin that are downloaded when training starts."""
TOKEN_VARIABLE = "ECTYPE_UI_TOKEN"
"""Environment variable of the token, which a training does not inherit."""

State = Literal["waiting", "training", "stopping", "ended"]


class QueueFull(TrainingError):
    """As many trainings are waiting as are allowed."""


@dataclasses.dataclass
class Training:
    """A training that was started from the page."""

    run: Path
    arguments: list[str]
    """Of `ectype`."""
    state: State = "waiting"
    code: int | None = None
    """Exit code, if the process has ended and was started by this server."""
    error: str = ""
    """The last line of a training that failed."""
    pid: int | None = None
    is_new: bool = True
    """Whether the directory was created for it, not by an earlier training."""

    @property
    def key(self) -> str:
        """The key of its run."""
        return key_of(self.run.name)

    def as_values(self) -> dict[str, str | bool | None]:
        """Return what the page shows of it."""
        return {"key": self.key, "name": as_one_line(self.run.name), "state": self.state, "error": self.error}


class Trainings:
    """The queue of trainings of a runs folder.

    Args:
        folder: The runs folder.
        command: The program and the arguments in front of those of `ectype`.
    """

    def __init__(self, folder: RunsFolder, command: Sequence[str] = (sys.executable, "-m", "ectype.cli")) -> None:
        self.folder, self.command = folder, list(command)
        self.work = folder.root / WORK
        self._all: list[Training] = []
        self._changed = threading.Condition()
        self._closed = False
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._adopt()
        self._thread = threading.Thread(target=self._work, name="trainings", daemon=True)
        self._thread.start()

    # ── What the page asks for ───────────────────────────────────────────────────────────────────────────────────────

    def start(
        self,
        preset: str,
        data: str,
        overrides: Sequence[str] = (),
        *,
        minutes: float | None = None,
        images: str | None = None,
    ) -> Training:
        """Queue a training, after the checks that the command makes.

        Args:
            preset: The name of a preset.
            data: A folder or any other source of images.
            overrides: `key=value` changes to the recipe.
            minutes: Budget in time.
            images: Budget in images.

        Raises:
            EctypeError: What the command would refuse, in the same words.
            QueueFull: Too many trainings are waiting.
        """
        if preset not in preset_names():
            raise RecipeError(f"no preset '{preset}'; {did_you_mean(preset, preset_names())}")
        recipe = resolve(preset, data, changes_of(list(overrides), images=images, minutes=minutes))
        if not data.startswith(DOWNLOADED):
            open_source(str(recipe.data.source), zip_encoding=recipe.data.zip_encoding)
        with self._changed:
            self._check_room()
            run = next_numbered_dir(self.folder.root, recipe.about.name)
            budget = [f"--minutes={minutes!r}"] if minutes is not None else []
            budget += [f"--images={images}"] if images is not None else []
            # After the two dashes nothing is an option, whatever it begins with.
            words = ["train", f"--out={run}", *budget, "--", preset, data, *overrides]
            return self._add(Training(run, words))

    def resume(self, run: RunDir) -> Training:
        """Queue an unfinished run again, with its own recipe.

        Raises:
            RunError: It is complete, or is being trained.
            QueueFull: Too many trainings are waiting.
        """
        recipe = run.recipe
        if run.is_complete and run.report.is_file():
            raise RunError(f"'{run.name}' is {run.state()}: nothing is left to train.")
        if run.is_locked():
            raise RunError(f"'{run.name}' is being trained.")
        words = ["train", f"--out={run.path}", "--", str(run.recipe_file), str(recipe.data.source)]
        with self._changed:
            if self._active(key_of(run.path.name)) is not None:
                raise RunError(f"'{run.name}' is being trained, or waits for it.")
            self._check_room()
            return self._add(Training(run.path, words, is_new=False))

    def stop(self, key: str) -> Training:
        """Stop a training: it saves and ends, and can be resumed; one that waits is taken off the queue.

        Raises:
            RunError: It is no training that was started from the page, or it has ended.
        """
        with self._changed:
            training = self._active(key)
            if training is None:
                raise RunError("this run was not started from this page: press Ctrl-C where it is trained.")
            if training.state == "waiting":
                training.state = "ended"
                self._remove_empty(training)
            else:
                training.state = "stopping"
                self._signal(training)
            self._changed.notify_all()
            return training

    def of(self, key: str) -> Training | None:
        """Return the newest training of a run; None if there is none."""
        with self._changed:
            return next((each for each in reversed(self._all) if each.key == key), None)

    def all(self) -> list[Training]:
        """Return all trainings, oldest first."""
        with self._changed:
            return list(self._all)

    def log(self, key: str) -> str:
        """Return the end of what the trainings of a run have printed; empty if it was not started from the page."""
        try:
            with open_regular(self._log_file(key), follow=False) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - MAX_LOG_BYTES))
                text = file.read().decode("utf-8", "replace")
        except (OSError, ValueError):
            return ""
        return text if size <= MAX_LOG_BYTES else text.partition("\n")[2]

    def close(self) -> list[Training]:
        """Take what waits off the queue, and return the trainings that go on without the server."""
        with self._changed:
            self._closed = True
            for training in self._all:
                if training.state == "waiting":
                    training.state = "ended"
                    self._remove_empty(training)
            self._changed.notify_all()
            return [training for training in self._all if training.state in ("training", "stopping")]

    # ── The queue ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_room(self) -> None:
        if sum(each.state == "waiting" for each in self._all) >= MAX_WAITING:
            raise QueueFull(f"{MAX_WAITING} trainings are waiting: start this one when the first of them has ended.")

    def _add(self, training: Training) -> Training:
        ended = [each for each in self._all if each.state == "ended"]
        for old in ended[: max(0, len(ended) - MAX_ENDED)]:
            self._all.remove(old)
        self._all.append(training)
        self._changed.notify_all()
        return training

    def _active(self, key: str) -> Training | None:
        return next((each for each in self._all if each.key == key and each.state != "ended"), None)

    def _work(self) -> None:
        """Train what is in the queue, one after the other."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None, timeout=1.0)
                if self._closed:
                    return
                training = self._next()
                if training is None:
                    continue
                is_new = training.state == "waiting"
                running = self._launch(training) if is_new else partial(self._wait_for, training)
            running()
            with self._changed:
                training.state = "ended"
                self._remove_empty(training)
                with contextlib.suppress(OSError):
                    self._record_file(training.key).unlink(missing_ok=True)
                self._changed.notify_all()

    def _next(self) -> Training | None:
        """Return the training that runs, else the first that waits."""
        order = [each for state in ("training", "stopping", "waiting") for each in self._all if each.state == state]
        return order[0] if order else None

    def _launch(self, training: Training) -> Callable[[], None]:
        """Start the process of a training, and return the function that waits for its end."""
        try:
            with self._open_log(training.key) as log:
                process = subprocess.Popen(
                    [*self.command, *training.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={k: v for k, v in os.environ.items() if k != TOKEN_VARIABLE} | {"PYTHONUNBUFFERED": "1"},
                    start_new_session=True,  # Ctrl-C in the server's terminal is not meant for it
                )
        except OSError as error:
            training.error = f"the process cannot be started: {error.strerror or error}"
            return lambda: None
        training.state, training.pid = "training", process.pid
        self._processes[process.pid] = process
        record = {"pid": process.pid, "started": _start_time(process.pid), "arguments": training.arguments}
        with contextlib.suppress(OSError):
            write_text_atomically(self._record_file(training.key), json.dumps({**record, "run": training.run.name}))

        def wait() -> None:
            training.code = process.wait()
            self._processes.pop(process.pid, None)
            if training.code not in (0, 75):
                lines = [line for line in self.log(training.key).splitlines() if line.strip()]
                training.error = as_one_line(lines[-1][:500]) if lines else f"it ended with exit code {training.code}"

        return wait

    def _wait_for(self, training: Training) -> None:
        """Wait for the end of a training of an earlier server."""
        while not self._closed and training.pid is not None and self._is_alive(training):
            time.sleep(1.0)

    def _signal(self, training: Training) -> None:
        process = self._processes.get(training.pid or 0)
        if process is not None:
            process.send_signal(signal.SIGTERM)
        elif training.pid is not None and self._is_alive(training):
            with contextlib.suppress(OSError):
                os.kill(training.pid, signal.SIGTERM)

    def _remove_empty(self, training: Training) -> None:
        """Remove the directory of a training that never began, if nothing is in it."""
        if training.is_new:
            with contextlib.suppress(OSError):
                training.run.rmdir()

    # ── What a server that is started again finds ────────────────────────────────────────────────────────────────────

    def _adopt(self) -> None:
        """Find the training that an earlier server of this folder has started, if it still runs."""
        for record in sorted(self.work.glob("*.json")) if self.work.is_dir() and not self.work.is_symlink() else []:
            try:
                found = json.loads(read_regular(record, 2**20, follow=False))
                name, pid, started, words = (found[key] for key in ("run", "pid", "started", "arguments"))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            is_valid = isinstance(name, str) and isinstance(pid, int) and pid > 1 and started is not None
            if not is_valid or not isinstance(words, list) or name != os.path.basename(name):
                continue
            training = Training(self.folder.root / name, [str(word) for word in words], "training", pid=pid)
            if started == _start_time(pid) and self._is_alive(training):
                self._all.append(training)

    def _is_alive(self, training: Training) -> bool:
        """Return whether a process still is the training that it was: numbers of processes are used again."""
        try:
            words = Path(f"/proc/{training.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        own = [os.fsencode(word) for word in training.arguments]
        return words[-len(own) - 1 : -1] == own

    def _log_file(self, key: str) -> Path:
        return self.work / f"{key}.log"

    def _record_file(self, key: str) -> Path:
        return self.work / f"{key}.json"

    def _open_log(self, key: str) -> IO[bytes]:
        """Open the log of a run for appending. Neither it nor its directory may be a link."""
        with contextlib.suppress(FileExistsError):
            self.work.mkdir(parents=True)
        if self.work.is_symlink() or not self.work.is_dir():
            raise OSError(f"'{self.work}' is not a directory")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        return os.fdopen(os.open(self._log_file(key), flags, 0o600), "ab")


def _start_time(pid: int) -> str | None:
    """Return when a process was started, as the system counts it; None where there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]
