"""The worker pool answers all tasks, raises errors, and leaves no process behind."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from ectype.core.errors import DataError
from ectype.data import workers
from ectype.data.workers import Decode, Measure, default_workers, run_tasks


def tasks(folder, n: int) -> list[Measure]:
    root = folder(*(f"{i}.png" for i in range(3)), size=(9, 7))
    return [Measure(i, [str(root / f"{i % 3}.png"), str(root / "none.png")]) for i in range(n)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_all_tasks_are_answered(folder, count):
    found = {task.first: answer for task, answer in run_tasks(iter(tasks(folder, 20)), count)}
    assert found == {i: [(7, 9), None] for i in range(20)}


def test_tasks_are_taken_as_they_are_needed(folder):
    taken = 0

    def lazily():
        nonlocal taken
        for task in itertools.cycle(tasks(folder, 3)):
            taken += 1
            yield task

    results = run_tasks(lazily(), 2)
    for _ in range(5):
        next(results)
    results.close()
    assert taken < 5 + 60  # the iterator is endless


def test_errors_of_tasks_and_of_their_source_are_passed_on(folder, tmp_path):
    from ectype.data.decode import Spec

    with pytest.raises(FileNotFoundError):
        list(run_tasks(iter([Decode(0, [b""], Spec((4, 4), 1), tmp_path / "none", 0)]), 2))

    def broken():
        yield from tasks(folder, 2)
        raise DataError("the source broke.")

    with pytest.raises(DataError, match="the source broke"):
        list(run_tasks(broken(), 2))


def test_a_worker_that_dies_is_named(folder, monkeypatch):
    def short_lived() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", "import os; os._exit(9)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    monkeypatch.setattr(workers, "_start_worker", short_lived)
    with pytest.raises(DataError, match=r"died \(exit status 9\) at images \d to \d"):
        list(run_tasks(iter(tasks(folder, 4)), 2))


def test_no_process_outlives_the_pool(folder, monkeypatch):
    started = []
    original = workers._start_worker

    def counting() -> subprocess.Popen[bytes]:
        started.append(original())
        return started[-1]

    monkeypatch.setattr(workers, "_start_worker", counting)
    results = run_tasks(iter(tasks(folder, 50)), 2)
    next(results)
    results.close()
    list(run_tasks(iter(tasks(folder, 5)), 2))
    assert started
    assert all(process.poll() is not None for process in started)


def test_works_from_a_script_without_a_main_guard_and_imports_no_torch(folder):
    root = folder(*(f"{i:03d}.png" for i in range(100)))
    script = f"""
import sys
from ectype.data.prepare import prepare
from ectype.config.schema import DataConfig
print(len(prepare(DataConfig(source={str(root)!r}), workers=2)), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["100", "False"]


def test_default_is_what_we_may_use():
    assert default_workers() >= 1
