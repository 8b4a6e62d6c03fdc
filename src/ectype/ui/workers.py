"""The processes that models are loaded in, as the server sees them: started when needed, ended when they hang or idle.

The server itself never loads a model or decodes an uploaded image: its memory stays flat, and what breaks a model does
not end the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ectype.core.errors import CheckpointError, DataError, EctypeError, ModelError, RecipeError, RunError, TrainingError
from ectype.ui.frames import pack, unpack
from ectype.ui.trainings import TOKEN_VARIABLE

__all__ = ["ModelWorker", "WorkerFailed"]

IDLE_SECONDS = 600.0
"""After this time without a request a process is ended, and its memory is free."""
START_SECONDS = 120.0
"""How long a process may take to load its libraries and a model, in addition to the time of a request."""
MAX_ANSWER_BYTES = 512 * 2**20
ERRORS: dict[str, type[EctypeError]] = {
    kind.__name__: kind for kind in (CheckpointError, DataError, ModelError, RecipeError, RunError, TrainingError)
}


class WorkerFailed(EctypeError):
    """The process of the models has died, or did not answer in time. The next request starts another one."""


class ModelWorker:
    """A process that models are loaded in. Requests are answered one after the other.

    Args:
        name: Names its thread.
        command: The program.
    """

    def __init__(self, name: str, command: tuple[str, ...] = (sys.executable, "-m", "ectype.ui.model_worker")) -> None:
        self.command = command
        self._lock, self._ending = threading.Lock(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._idle: threading.Timer | None = None
        # A thread of its own: the threads that answer other requests must not wait for a model.
        self._thread = ThreadPoolExecutor(1, name)

    @property
    def pid(self) -> int | None:
        """The number of the process; None if there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    async def ask(
        self, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None, *, seconds: float = 60.0
    ) -> bytes:
        """Return the frame that the process answers. See `request`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: self.request(head, arrays, seconds=seconds))

    def request(
        self, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None, *, seconds: float = 60.0
    ) -> bytes:
        """Return the frame that the process answers.

        Args:
            head: The operation, the run, and what it needs.
            arrays: Arrays of the request.
            seconds: How long it may take, by the clock and in processor time.

        Raises:
            EctypeError: The model or the input is refused.
            WorkerFailed: The process died, or took too long and was ended.
        """
        with self._lock:
            if self._closed:
                raise WorkerFailed("the server is being stopped.")
            if self._idle is not None:
                self._idle.cancel()
            try:
                answer = self._exchange(pack({**head, "cpu_seconds": seconds}, arrays), seconds)
            finally:
                self._idle = threading.Timer(IDLE_SECONDS, self._end_idle)
                self._idle.daemon = True
                self._idle.start()
        found = unpack(answer)[0]
        if "error" in found:
            raise ERRORS.get(str(found.get("kind")), WorkerFailed)(str(found["error"])[:1000])
        return answer

    def _exchange(self, frame: bytes, seconds: float) -> bytes:
        started = self.pid is None
        process = self._start() if started or self._process is None else self._process
        end = time.monotonic() + seconds + (START_SECONDS if started else 0)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(struct.pack("<Q", len(frame)) + frame)
            process.stdin.flush()
            (length,) = struct.unpack("<Q", _read(process.stdout.fileno(), 8, end))
            if length > MAX_ANSWER_BYTES:
                raise EOFError
            return _read(process.stdout.fileno(), length, end)
        except TimeoutError:
            self.end()
            raise WorkerFailed(f"this took longer than {seconds:.0f} seconds and was ended.") from None
        except (OSError, EOFError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            code = process.returncode
            self.end()
            raise WorkerFailed(_reason(code, seconds)) from None

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        # A run of the folder may come from anyone, and name a data set elsewhere.
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | threads | offline,
            start_new_session=True,  # Ctrl-C is for the server, which then ends it
        )
        return self._process

    def _end_idle(self) -> None:
        with self._lock:
            self.end()

    def end(self) -> None:
        """End the process, whatever it does. The next request starts another one."""
        with self._ending:
            process, self._process = self._process, None
            if process is None:
                return
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)

    def close(self) -> None:
        """End the process for good."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        process = self._process
        if process is not None:
            process.kill()  # a request that waits for it ends, and frees the lock
        with self._lock:
            self.end()
            if self._idle is not None:
                self._idle.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _read(stream: int, length: int, end: float) -> bytes:
    """Return bytes of a pipe.

    Raises:
        TimeoutError: They did not come in time.
        EOFError: It was closed.
    """
    found = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while len(found) < length:
            if not selector.select(max(0.0, end - time.monotonic())):
                raise TimeoutError
            part = os.read(stream, min(2**20, length - len(found)))
            if not part:
                raise EOFError
            found += part
    return bytes(found)


def _reason(code: int | None, seconds: float) -> str:
    import signal

    if code is not None and code == -getattr(signal, "SIGXCPU", 0):
        return f"this took more than {seconds:.0f} seconds of processor time and was ended."
    if code == -signal.SIGKILL if hasattr(signal, "SIGKILL") else False:
        return (
            "the process of the model was ended, perhaps for lack of memory: try again, or use fewer models at a time."
        )
    return "the process of the model has died: try again; if it dies again, the model or the image breaks it."
