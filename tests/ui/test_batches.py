"""Images that are dropped: their names, how many are kept, and the queue of jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ectype.core.errors import DataError, ModelError, RunError
from ectype.ui import batches
from ectype.ui.batches import Batch, Batches
from ectype.ui.frames import pack
from ectype.ui.trainings import QueueFull
from ectype.ui.workers import ModelWorker


class Worker(ModelWorker):
    """Does jobs when it is let, as a process of models would."""

    def __init__(self) -> None:
        super().__init__("test", ("false",))
        self.let = threading.Event()
        self.asked: list[Mapping[str, Any]] = []
        self.error: Exception | None = None

    def request(self, head: Mapping[str, Any], arrays: Any = None, *, seconds: float = 60.0) -> bytes:
        self.asked.append(head)
        self.let.wait(20)
        if self.error is not None:
            raise self.error
        (Path(head["out"]) / "a.png").write_bytes(b"png")
        return pack({"summary": "done", "items": [], "downloads": ["a.png"]})

    def end(self) -> None:
        self.error = ModelError("was ended")
        self.let.set()

    def close(self) -> None:
        self.let.set()


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def kept(worker: Worker) -> Iterator[Batches]:
    made = Batches(worker)
    yield made
    made.close()


def filled(kept: Batches, *names: str) -> Batch:
    batch = kept.create()
    for name in names or ("a.png",):
        _, stored = kept.reserve(batch.id, name)
        (batch.inputs / stored).write_bytes(b"image")
    return batch


def wait_for(batch: Batch, *states: str) -> None:
    end = time.monotonic() + 20
    while batch.state not in states:
        assert time.monotonic() < end, batch.state
        time.sleep(0.02)


@pytest.mark.parametrize(
    "given, stored",
    [
        ("a.png", "a.png"),
        ("A photo (1).JPG", "A_photo_1_.jpg"),
        ("folder/sub/b.png", "sub_b.png"),
        ("../../etc/passwd.png", "etc_passwd.png"),
        ("/etc/x.png", "etc_x.png"),
        (r"C:\secret\x.png", "secret_x.png"),
        (".hidden.png", "hidden.png"),
        ("-rf.png", "rf.png"),
        ("\x1b[31m.png", "31m.png"),
        ("你好.png", "image.png"),
        ("a" * 200 + ".png", "a" * 70 + ".png"),
    ],
)
def test_files_are_stored_under_plain_names(kept: Batches, given: str, stored: str) -> None:
    batch = kept.create()
    assert kept.reserve(batch.id, given)[1] == stored


def test_two_files_of_one_name_have_two_names(kept: Batches) -> None:
    batch = kept.create()
    found = [kept.reserve(batch.id, name)[1] for name in ("a.png", "a.png", "A.jpg", "x/a.png")]
    assert found == ["a.png", "a-2.png", "A-3.jpg", "a-4.png"]


@pytest.mark.parametrize("name", ["a", "a.txt", "a.svg", "a.png.exe", "", ".png/", "a.py"])
def test_other_files_are_refused_by_their_names(kept: Batches, name: str) -> None:
    with pytest.raises(DataError, match="not the name of an image"):
        kept.reserve(kept.create().id, name)


def test_a_batch_is_bounded_in_files_and_bytes(kept: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_FILES", 2)
    batch = filled(kept, "a.png", "b.png")
    with pytest.raises(DataError, match="at most 2 images"):
        kept.reserve(batch.id, "c.png")
    kept.release(batch, "b.png")
    assert not (batch.inputs / "b.png").exists()
    assert kept.reserve(batch.id, "c.png")[1] == "c.png"
    with pytest.raises(DataError, match="at most 256 MiB"):
        kept.grow(batch, batches.MAX_BATCH_BYTES + 1)


def test_the_oldest_batch_makes_room_and_its_files_are_removed(kept: Batches) -> None:
    first = filled(kept)
    others = [filled(kept) for _ in range(batches.MAX_BATCHES)]
    assert not first.place.exists()
    assert all(other.place.exists() for other in others)
    with pytest.raises(RunError, match="drop them again"):
        kept.get(first.id)


def test_jobs_wait_for_each_other_and_the_queue_is_bounded(
    kept: Batches, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_WAITING_JOBS", 2)
    some = [filled(kept) for _ in range(4)]
    kept.start(some[0].id, "a", Path("/run"), "encode")
    wait_for(some[0], "working")
    for batch in some[1:3]:
        kept.start(batch.id, "a", Path("/run"), "encode")
    with pytest.raises(QueueFull, match="2 jobs are waiting"):
        kept.start(some[3].id, "a", Path("/run"), "encode")
    assert kept.as_values(some[2])["before"] == 1
    with pytest.raises(RunError, match="in use"):
        kept.reserve(some[1].id, "b.png")
    with pytest.raises(RunError, match="in use"):
        kept.start(some[1].id, "a", Path("/run"), "encode")
    kept.cancel(some[1].id)
    worker.let.set()
    wait_for(some[2], "done")
    assert (some[0].state, some[1].state) == ("done", "cancelled")
    assert [Path(head["inputs"]) for head in worker.asked] == [some[0].inputs, some[2].inputs]


def test_all_places_taken_by_jobs_refuse_a_new_batch(kept: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_BATCHES", 2)
    for _ in range(2):
        kept.start(filled(kept).id, "a", Path("/run"), "encode")
    with pytest.raises(QueueFull, match="2 sets of images"):
        kept.create()


def test_a_cancelled_job_ends_and_one_that_fails_says_why(kept: Batches, worker: Worker) -> None:
    batch = filled(kept)
    kept.start(batch.id, "a", Path("/run"), "encode")
    wait_for(batch, "working")
    kept.cancel(batch.id)
    assert batch.state == "cancelled"
    worker.error = DataError(f"'{batch.inputs}/a.png' cannot be used (truncated): leave it out.")
    time.sleep(0.2)
    kept.start(batch.id, "a", Path("/run"), "encode")
    wait_for(batch, "failed")
    assert kept.as_values(batch)["error"] == "'a.png' cannot be used (truncated): leave it out."


def test_only_files_of_the_newest_results_are_returned(kept: Batches, worker: Worker, tmp_path: Path) -> None:
    worker.let.set()
    batch = filled(kept)
    kept.start(batch.id, "a", Path("/run"), "encode")
    wait_for(batch, "done")
    assert kept.file(batch.id, 1, "a.png") == b"png"
    (batch.results / "link.png").symlink_to("/etc/hostname")
    (batch.results / ".hidden").write_text("x")
    names = ("../inputs/a.png", "link.png", ".hidden", "b.png", "/etc/hostname", "a/b/c.png", "")
    for job, name in [(2, "a.png"), *((1, name) for name in names)]:
        with pytest.raises(RunError, match="no such file"):
            kept.file(batch.id, job, name)
    kept.start(batch.id, "a", Path("/run"), "encode")
    wait_for(batch, "done")
    with pytest.raises(RunError, match="no such file"):
        kept.file(batch.id, 1, "a.png")


def test_nothing_is_left_when_the_server_stops(worker: Worker) -> None:
    made = Batches(worker)
    place = filled(made).place
    made.close()
    assert not place.parent.exists()


def test_a_batch_without_images_is_not_started(kept: Batches) -> None:
    with pytest.raises(DataError, match="no image has arrived"):
        kept.start(kept.create().id, "a", Path("/run"), "encode")
