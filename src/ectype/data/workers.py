"""Decoding in several processes.

Each is a plain Python that imports only this module: unlike multiprocessing's spawned ones it does not run the user's
main script again (nor import torch with it), so it works from a script without a `__main__` guard, a notebook or a
prompt. Parent and worker exchange pickles over a pipe that nobody else holds. A worker ends when its pipe does.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ectype.data.chunks import decode_chunk, measure
from ectype.data.decode import Rejected, Spec
from ectype.data.decode_pairs import masks_of
from ectype.data.masks import Look, look
from ectype.data.raw import Halves, Pair, Raw
from ectype.errors import DataError

__all__ = ["Decode", "Decoding", "LookAtMasks", "Measure", "default_workers", "run"]

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ectype.data.workers import serve; serve()"


class Measure(NamedTuple):
    """Find the sizes of a chunk of images."""

    first: int
    chunk: Sequence[Raw] | np.ndarray

    def do(self) -> list[tuple[int, int] | None]:
        return measure(self.chunk)


class LookAtMasks(NamedTuple):
    """Find the values in the masks of a chunk of pairs; those that cannot be read are left to decoding."""

    first: int
    chunk: Sequence[Raw] | np.ndarray

    def do(self) -> list[Look]:
        found: list[Look] = []
        for raw in self.chunk:
            assert isinstance(raw, Pair | Halves)
            with contextlib.suppress(Rejected):
                found += map(look, masks_of(raw))
        return found


Task: TypeAlias = "Measure | LookAtMasks | Decode"


class Decode(NamedTuple):
    """Decode a chunk of images and write it into a file at a position."""

    first: int
    chunk: Sequence[Raw] | np.ndarray
    spec: Spec
    path: Path
    offset: int

    def do(self) -> Decoding:
        pixels, reasons, digests, notes, coloured, brightest = decode_chunk(self.chunk, self.spec)
        # Written, not mapped: a full disk is then an error that can be caught, where a mapping dies of SIGBUS.
        with open(self.path, "r+b") as file:
            file.seek(self.offset)
            file.write(pixels.data)
        return Decoding(reasons, digests, notes, coloured, brightest)


class Decoding(NamedTuple):
    """What became of a chunk: a reason or None for each image, hashes [k, 16], and what had to be done to them."""

    reasons: list[str | None]
    digests: np.ndarray
    notes: Counter[str]
    coloured: bool
    brightest: int


def default_workers() -> int:
    """One process for each core that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(tasks: Iterator[Task], workers: int) -> Generator[tuple[Any, Any], None, None]:
    """Do tasks, at most `workers` at a time, and yield (task, result) as they are finished, in any order.

    Tasks are taken one by one as workers become free: no more of them are held than there are workers.

    Raises:
        DataError: A worker died. Errors of tasks and of their iterator are passed on.
    """
    if workers <= 1 or not sys.executable:
        for task in tasks:
            yield task, task.do()
        return
    with _Pool(tasks, workers) as pool:
        yield from pool.results()


class _Pool:
    """One thread for each worker process: takes a task, sends it, waits for the answer."""

    def __init__(self, tasks: Iterator[Task], workers: int) -> None:
        self._tasks = tasks
        self._taking = threading.Lock()
        self._stop = False
        self._results: queue.Queue[Any] = queue.Queue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = [threading.Thread(target=self._drive, daemon=True) for _ in range(workers)]

    def __enter__(self) -> _Pool:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        with self._taking:
            processes = list(self._processes)
        for process in processes:
            process.kill()
        for thread in self._threads:
            thread.join()

    def results(self) -> Iterator[tuple[Any, Any]]:
        running = len(self._threads)
        while running:
            answer = self._results.get()
            if answer is None:
                running -= 1
            elif isinstance(answer, BaseException):
                raise answer
            else:
                yield answer

    def _next(self) -> Task | None:
        with self._taking:
            return None if self._stop else next(self._tasks, None)

    def _drive(self) -> None:
        process = None
        try:
            while (task := self._next()) is not None:
                if process is None:  # only now: there may be fewer tasks than workers
                    with self._taking:
                        if self._stop:
                            break
                        process = _start()
                        self._processes.append(process)
                self._results.put((task, self._ask(process, task)))
        except BaseException as error:
            self._results.put(error)
        finally:
            if process is not None:
                _end(process)
            self._results.put(None)

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], task: Task) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(task, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            ok, answer = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            first, last = task.first, task.first + len(task.chunk) - 1
            raise DataError(
                f"a decoding process died (exit status {process.wait()}) at images {first} to {last} of the list: "
                "if memory ran out, prepare with fewer workers; else one of these files crashes its decoder: remove it."
            ) from None
        if not ok:
            raise answer
        return answer


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _START, json.dumps(sys.path)]
    # Decoders in C write their complaints to standard error: rejects.csv says it better.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    process.wait()


def serve() -> None:
    """Be a worker: answer pickled tasks on standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed must not get between the answers
    while True:
        try:
            task = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (True, task.do())
        except Exception as error:
            answer = (False, error)
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
