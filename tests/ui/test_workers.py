"""The processes of models: what dies, hangs, or takes too much is ended, and the next request is answered."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ectype.core.errors import DataError, ModelError
from ectype.ui import workers
from ectype.ui.frames import unpack
from ectype.ui.workers import ModelWorker, WorkerFailed

PROGRAM = """
import os, signal, sys, time
from ectype.ui.frames import pack, unpack
from ectype.ui.model_worker import _limit_time, read_frame, write_frame
while (frame := read_frame(sys.stdin.buffer)) is not None:
    head, arrays = unpack(frame)
    _limit_time(head["cpu_seconds"])
    kind = head["operation"]
    if kind == "die": os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "hang": time.sleep(100)
    if kind == "spin":
        while True: pass
    if kind == "half": os.write(1, b"1234"); os._exit(0)
    if kind == "huge": os.write(1, b"\\xff" * 8); time.sleep(100)
    if kind == "data": write_frame(sys.stdout.buffer, pack({"error": "no", "kind": "DataError"})); continue
    write_frame(sys.stdout.buffer, pack({"pid": os.getpid(), "token": os.environ.get("ECTYPE_UI_TOKEN")}, arrays))
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelWorker]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(workers, "START_SECONDS", 20.0)
    made = ModelWorker("test", (sys.executable, str(program)))
    yield made
    made.close()


def pid(worker: ModelWorker) -> int:
    return unpack(worker.request({"operation": "pid"}))[0]["pid"]


def test_requests_are_answered_by_one_process_that_does_not_know_the_token(
    worker: ModelWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECTYPE_UI_TOKEN", "secret-secret-secret")
    found = unpack(worker.request({"operation": "pid"}))[0]
    assert found["token"] is None
    assert found["pid"] == pid(worker) == worker.pid
    with pytest.raises(DataError, match="no"):
        worker.request({"operation": "data"})
    assert pid(worker) == found["pid"]  # a refusal is no failure


@pytest.mark.parametrize("kind", ["die", "half", "huge"])
def test_a_process_that_dies_or_talks_nonsense_is_replaced(worker: ModelWorker, kind: str) -> None:
    before = pid(worker)
    with pytest.raises(WorkerFailed, match=r"has died|was ended"):
        worker.request({"operation": kind})
    assert pid(worker) != before


@pytest.mark.parametrize("kind", ["hang", "spin"])
def test_a_request_that_takes_too_long_is_ended(worker: ModelWorker, kind: str) -> None:
    before = pid(worker)
    start = time.monotonic()
    with pytest.raises(WorkerFailed, match=r"(took|more than) .*1 seconds?"):
        worker.request({"operation": kind}, seconds=1)
    assert time.monotonic() - start < 10
    assert pid(worker) != before


@pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="no limits of processor time here")
def test_the_system_ends_what_takes_too_much_processor_time(
    worker: ModelWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid(worker)
    pack = workers.pack
    monkeypatch.setattr(workers, "pack", lambda head, arrays: pack({**head, "cpu_seconds": 0.2}, arrays))
    with pytest.raises(WorkerFailed, match="processor time"):
        worker.request({"operation": "spin"}, seconds=60)


def test_an_idle_process_is_ended_and_started_again(worker: ModelWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IDLE_SECONDS", 0.2)
    before = pid(worker)
    end = time.monotonic() + 10
    while worker.pid is not None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert pid(worker) != before


def test_closing_ends_a_request_that_waits(worker: ModelWorker) -> None:
    before = pid(worker)
    errors: list[str] = []

    def ask() -> None:
        try:
            worker.request({"operation": "hang"}, seconds=60)
        except WorkerFailed as error:
            errors.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    worker.close()
    asking.join(10)
    assert errors
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    with pytest.raises(WorkerFailed, match="being stopped"):
        worker.request({"operation": "pid"})


@pytest.mark.trains
def test_the_real_process_refuses_in_one_line_and_stays(tmp_path: Path) -> None:
    made = ModelWorker("test")
    try:
        for operation, kind in (("describe", Exception), ("nonsense", WorkerFailed)):
            with pytest.raises(kind) as error:
                made.request({"operation": operation, "run": str(tmp_path / "none")})
            assert "\n" not in str(error.value)
        before = made.pid
        assert before is not None
        if sys.platform == "linux":
            assert os.getpriority(os.PRIO_PROCESS, before) >= 10
            limits = Path(f"/proc/{before}/limits").read_text()
            assert "unlimited" not in next(line for line in limits.splitlines() if line.startswith("Max address space"))
            assert len(os.listdir(f"/proc/{before}/task")) <= 4
    finally:
        made.close()
    assert ModelError.__name__ in workers.ERRORS
