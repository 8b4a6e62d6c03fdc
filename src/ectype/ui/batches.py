"""Images that a user drops, and what is done with them: a bounded number of batches, and a queue of jobs.

Files are stored under safe names in a folder of their own outside of the runs, which is removed when the server stops.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
import shutil
import tempfile
import threading
import time
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ectype.core.errors import DataError, EctypeError, RunError
from ectype.core.escape import as_one_line
from ectype.core.files import read_regular
from ectype.data.sources.base import IMAGE_SUFFIXES
from ectype.ui.frames import unpack
from ectype.ui.trainings import QueueFull
from ectype.ui.workers import ModelWorker

__all__ = ["MAX_BATCH_BYTES", "MAX_FILES", "MAX_FILE_BYTES", "Batch", "Batches"]

MAX_BATCHES = 8
"""Batches that are kept. A new one replaces the one that was used last longest ago and has no job."""
MAX_FILES = 500
"""Images of a batch."""
MAX_FILE_BYTES = 32 * 2**20
MAX_BATCH_BYTES = 256 * 2**20
MAX_WAITING_JOBS = 8
JOB_SECONDS = 600.0
KEPT_SECONDS = 3600.0
"""After this time without use a batch is removed."""
MAX_RESULT_BYTES = 512 * 2**20

State = Literal["new", "waiting", "working", "done", "failed", "cancelled"]


@dataclasses.dataclass
class Batch:
    """Images that were dropped together."""

    id: str
    place: Path
    """A folder with `inputs`, and a folder of results for each job."""
    state: State = "new"
    names: list[str] = dataclasses.field(default_factory=list)
    stored: int = 0
    """Bytes of all files."""
    jobs: int = 0
    key: str = ""
    """Of the run that is applied."""
    run: Path = Path()
    task: str = ""
    error: str = ""
    found: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the job returned."""
    used: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def is_busy(self) -> bool:
        """Whether a job waits or works."""
        return self.state in ("waiting", "working")

    @property
    def inputs(self) -> Path:
        """The folder of its images."""
        return self.place / "inputs"

    @property
    def results(self) -> Path:
        """The folder of the newest results."""
        return self.place / f"job-{self.jobs}"


class Batches:
    """All batches, and a thread that does one job after the other.

    Args:
        worker: The process that does the jobs.
    """

    def __init__(self, worker: ModelWorker) -> None:
        self.worker = worker
        self._root: Path | None = None
        self._batches: dict[str, Batch] = {}
        self._queue: list[Batch] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def create(self) -> Batch:
        """Return a new, empty batch.

        Raises:
            QueueFull: All batches that are kept wait for their jobs.
        """
        with self._changed:
            self._forget_old()
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix="ectype-ui-"))
            batch = Batch(secrets.token_urlsafe(12), self._root / secrets.token_hex(8))
            batch.inputs.mkdir(parents=True)
            self._batches[batch.id] = batch
            return batch

    def _forget_old(self) -> None:
        free = sorted((b for b in self._batches.values() if not b.is_busy), key=lambda b: b.used)
        old = [batch for batch in free if time.monotonic() - batch.used > KEPT_SECONDS]
        if len(self._batches) - len(old) >= MAX_BATCHES:
            kept = [batch for batch in free if batch not in old]
            if not kept:
                raise QueueFull(f"{MAX_BATCHES} sets of images are waiting: wait until one is done.")
            old.append(kept[0])
        for batch in old:
            del self._batches[batch.id]
            shutil.rmtree(batch.place, ignore_errors=True)

    def get(self, batch_id: str) -> Batch:
        """Return a batch.

        Raises:
            RunError: There is none, or it has been removed.
        """
        with self._changed:
            batch = self._batches.get(batch_id)
            if batch is None:
                raise RunError("these images are no longer kept: drop them again.")
            batch.used = time.monotonic()
            return batch

    def reserve(self, batch_id: str, name: str) -> tuple[Batch, str]:
        """Return a batch, and a safe and free name for a new image of it, which has a place from now on.

        Raises:
            DataError: It has as many images as a batch may have, or the name is not one of an image.
            RunError: There is no such batch, or it is in use.
        """
        batch = self.get(batch_id)
        with self._changed:
            if batch.is_busy:
                raise RunError("these images are in use: wait until they are done.")
            if len(batch.names) >= MAX_FILES:
                raise DataError(f"at most {MAX_FILES:,} images are used at a time: drop fewer.")
            suffix = PurePosixPath(name).suffix.lower()
            if suffix not in IMAGE_SUFFIXES:
                raise DataError(
                    f"'{as_one_line(name[-80:])}' is not the name of an image: use PNG, JPEG, WebP, TIFF, …"
                )
            safe = _safe_name(name, suffix, batch.names)
            batch.names.append(safe)
            return batch, safe

    def release(self, batch: Batch, name: str) -> None:
        """Give back the place of an image that did not arrive."""
        with self._changed:
            if name in batch.names:
                batch.names.remove(name)
        (batch.inputs / name).unlink(missing_ok=True)

    def grow(self, batch: Batch, count: int) -> None:
        """Count bytes that have arrived.

        Raises:
            DataError: The batch has become too large.
        """
        with self._changed:
            batch.stored += count
            if batch.stored > MAX_BATCH_BYTES:
                raise DataError(f"at most {MAX_BATCH_BYTES // 2**20:,} MiB of images are used at a time: drop fewer.")

    def start(self, batch_id: str, key: str, run: Path, task: str) -> Batch:
        """Queue a job: a run's model is applied to the images of a batch.

        Args:
            batch_id: The batch.
            key: The key of the run.
            run: Its directory.
            task: See `ectype.ui.tasks`.

        Raises:
            DataError: It has no images.
            RunError: There is no such batch, or it is in use.
            QueueFull: Too many jobs are waiting.
        """
        batch = self.get(batch_id)
        with self._changed:
            if batch.is_busy:
                raise RunError("these images are in use: wait until they are done.")
            if not batch.names:
                raise DataError("no image has arrived: drop some.")
            if len(self._queue) >= MAX_WAITING_JOBS:
                raise QueueFull(f"{MAX_WAITING_JOBS} jobs are waiting: wait until one is done.")
            shutil.rmtree(batch.results, ignore_errors=True)
            batch.jobs += 1
            batch.results.mkdir()
            batch.state, batch.key, batch.run, batch.task = "waiting", key, run, task
            batch.error, batch.found = "", {}
            self._queue.append(batch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return batch

    def cancel(self, batch_id: str) -> Batch:
        """Take a job off the queue, or end it. Raises `RunError` if there is no such batch."""
        batch = self.get(batch_id)
        with self._changed:
            if batch in self._queue:
                self._queue.remove(batch)
                batch.state = "cancelled"
            elif batch.state == "working":
                batch.state = "cancelled"
                self.worker.end()
        return batch

    def as_values(self, batch: Batch) -> dict[str, Any]:
        """Return what the page shows of a batch."""
        with self._changed:
            place = self._queue.index(batch) if batch in self._queue else None
            shown: dict[str, Any] = {
                "id": batch.id, "state": batch.state, "count": len(batch.names), "error": batch.error,
                "task": batch.task, "before": place, "job": batch.jobs,
            }  # fmt: skip
            return shown | (batch.found if batch.state == "done" else {})

    def file(self, batch_id: str, job: int, name: str) -> bytes:
        """Return a file of the newest results.

        Raises:
            RunError: There is none of this name.
        """
        batch = self.get(batch_id)
        parts = name.split("/")
        if job != batch.jobs or batch.state != "done" or len(parts) > 2 or not all(map(SAFE_PATH.fullmatch, parts)):
            raise RunError("there is no such file: it may have been removed.")
        try:
            return read_regular(batch.results.joinpath(*parts), MAX_RESULT_BYTES, follow=False)
        except (OSError, ValueError):
            raise RunError("there is no such file: it may have been removed.") from None

    def close(self) -> None:
        """Drop all jobs and files."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        self.worker.close()
        if self._thread is not None:
            self._thread.join(10)
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                batch = self._queue.pop(0)
                batch.state = "working"
            error, found = self._do(batch)
            with self._changed:
                batch.used = time.monotonic()
                if batch.state == "working":
                    batch.state, batch.error, batch.found = ("failed" if error else "done"), error, found

    def _do(self, batch: Batch) -> tuple[str, dict[str, Any]]:
        head = {"operation": "use", "run": str(batch.run), "task": batch.task}
        head |= {"inputs": str(batch.inputs), "out": str(batch.results)}
        try:
            return "", unpack(self.worker.request(head, seconds=JOB_SECONDS))[0]
        except EctypeError as error:
            text = str(error)
            for folder in (batch.inputs, batch.results):
                text = text.replace(f"{folder}/", "").replace(str(folder), "the images")
            return as_one_line(text), {}
        except Exception as error:  # the queue goes on, whatever happens to one job
            return as_one_line(f"{type(error).__name__}: {error}"[:300]), {}


SAFE_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,119}")


def _safe_name(name: str, suffix: str, taken: list[str]) -> str:
    """Return the name of a file with plain characters, which no other file of the batch has."""
    path = PurePosixPath(name.replace("\\", "/"))
    stem = (
        re.sub(r"[^A-Za-z0-9._=,+-]+", "_", "_".join([*path.parts[1:-1], path.stem])).lstrip("._=,+-")[:70] or "image"
    )
    used = {PurePosixPath(each).stem.lower() for each in taken}
    found, k = stem, 1
    while found.lower() in used:
        k += 1
        found = f"{stem[:60]}-{k}"
    return found + suffix
