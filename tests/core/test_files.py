"""Atomic directories and locks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ectype.core import files
from ectype.core.files import atomic_directory, file_lock


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_directory_gets_its_name_when_it_is_complete_and_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(files, "flush_to_disk", lambda path: flushed.append(path.relative_to(tmp_path).as_posix()))
    with atomic_directory(tmp_path / "out") as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "b").write_text("b")
        (scratch / "a").write_text("a")
        assert names(tmp_path) == ["out.tmp"]
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["a", "inner"]
    assert flushed == ["out.tmp/a", "out.tmp/inner", "out.tmp/inner/b", "out.tmp", "."]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")

    def fill() -> None:
        with atomic_directory(tmp_path / "out") as scratch:
            (scratch / "new").write_text("")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


@pytest.mark.parametrize("keep", [None, True, False])
def test_an_existing_directory_is_replaced_or_kept(tmp_path: Path, keep: bool | None) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    (tmp_path / "mine").mkdir()  # left by a process that was killed
    (tmp_path / "mine" / "stale").write_text("")
    decide = None if keep is None else lambda _: keep
    with atomic_directory(tmp_path / "out", scratch=tmp_path / "mine", keep_existing=decide) as scratch:
        assert scratch == tmp_path / "mine"
        (scratch / "new").write_text("")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == (["old"] if keep else ["new"])


HOLD = """
import sys
from pathlib import Path
from ectype.core.files import file_lock
with file_lock(Path(sys.argv[1]), wait=False) as held:
    print(held, "torch" in sys.modules, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True False\n"
        with pytest.raises(BlockingIOError), file_lock(lock, wait=False):
            pass
        other.send_signal(signal.SIGKILL)
    with file_lock(lock, wait=True) as held:
        assert held
        with pytest.raises(BlockingIOError), file_lock(lock, wait=False):
            pass
    with file_lock(lock, wait=False) as held:
        assert held


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("wait", [True, False])
def test_a_file_system_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, wait: bool
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with file_lock(tmp_path / "lock", wait=wait) as held:
        assert not held


def test_a_lock_file_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), file_lock(tmp_path / "none" / "lock", wait=False):
        pass
