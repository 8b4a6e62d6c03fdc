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
from ectype.core.files import (
    atomic_directory,
    atomic_file,
    file_lock,
    is_locked,
    read_regular,
    recover_directory,
    write_text_atomically,
)
from tests.crash import each_crash


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_directory_gets_its_name_when_it_is_complete_and_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(files, "flush_to_disk", lambda path: flushed.append(path.name))
    with atomic_directory(tmp_path / "out") as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "b").write_text("b")
        (scratch / "a").write_text("a")
        assert names(tmp_path) == [scratch.name]
        assert scratch.name.startswith(".ectype-")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["a", "inner"]
    assert flushed == ["a", "inner", "b", scratch.name, tmp_path.name, tmp_path.parent.name]


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


def test_an_existing_directory_is_replaced_and_others_of_such_names_stay(tmp_path: Path) -> None:
    for name in ("out", "out.tmp", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("")
    with atomic_directory(tmp_path / "out") as scratch:
        (scratch / "new").write_text("")
    assert names(tmp_path) == ["out", "out.old", "out.tmp"]
    assert names(tmp_path / "out") == ["new"]
    assert names(tmp_path / "out.tmp") == names(tmp_path / "out.old") == ["old"]


def test_a_directory_that_is_recovered_by_another_process_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that looks between the two renames gives the old directory its name back."""
    out, rename, recovered = tmp_path / "out", Path.rename, []

    def read_in_between(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if path == out and not recovered:
            recover_directory(out)
            recovered.append(names(out))
        return moved

    out.mkdir()
    (out / "old").write_text("")
    monkeypatch.setattr(Path, "rename", read_in_between)
    with atomic_directory(out) as scratch:
        (scratch / "new").write_text("")
    assert recovered == [["old"]]
    assert names(tmp_path) == ["out"]
    assert names(out) == ["new"]


def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OSError, match="directory"), atomic_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_error_leaves_the_file_that_was_there(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fill() -> None:
        with atomic_file(tmp_path / "a.txt") as scratch:
            scratch.write_text("new")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to(tmp_path / "real" / "a.txt")
    write_text_atomically(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"
    assert names(tmp_path / "real") == ["a.txt"]


def test_names_of_any_length_can_be_written(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / ("a" * 255), "text")
    assert (tmp_path / ("a" * 255)).read_text() == "text"


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_get_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_file(tmp_path / "a") as scratch:
            scratch.unlink()
            os.close(os.open(scratch, os.O_CREAT | os.O_WRONLY, 0o600))  # as the writer of safetensors does
        with atomic_directory(tmp_path / "out") as folder:
            os.close(os.open(folder / "a", os.O_CREAT | os.O_WRONLY, 0o600))
            (folder / "inner").mkdir(0o700)
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    file, folder = 0o666 & ~umask, 0o777 & ~umask
    assert modes == {"a": file, "out": folder, "out/a": file, "out/inner": folder}


def test_a_crash_at_any_call_leaves_a_directory_as_it_was_or_as_it_should_be(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write(value: str) -> None:
        with atomic_directory(out) as scratch:
            for name in "ab":
                (scratch / name).write_text(value * 5000)

    found = set()
    for _ in each_crash(lambda: write("new"), before=lambda: write("old")):
        recover_directory(out)
        content = {(out / name).read_text()[:3] for name in "ab"}
        assert len(content) == 1
        assert all(len((out / name).read_text()) == 15000 for name in "ab")
        found |= content
    assert found == {"old", "new"}
    write("end")
    assert names(tmp_path) == ["out"]


def test_a_crash_at_any_call_leaves_a_file_as_it_was_or_as_it_should_be(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    found = set()
    for _ in each_crash(
        lambda: write_text_atomically(file, "new" * 5000), before=lambda: write_text_atomically(file, "old" * 5000)
    ):
        found.add(file.read_text())
    assert found == {"old" * 5000, "new" * 5000}


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


def test_whether_a_lock_is_held_is_known_without_touching_it(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    assert is_locked(lock) is False
    assert not lock.exists()
    with file_lock(lock, wait=False):
        before = lock.stat().st_mtime_ns
        assert is_locked(lock) is True
        assert lock.stat().st_mtime_ns == before
    assert is_locked(lock) is False


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    file, link, pipe = (tmp_path / name for name in ("file", "link", "pipe"))
    file.write_bytes(b"12345")
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert read_regular(file, 5) == read_regular(link, 5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_regular(file, 4)
    with pytest.raises(ValueError, match="a link"):
        read_regular(link, 5, follow=False)
    for other in (pipe, tmp_path):  # a pipe without a writer would block
        with pytest.raises((ValueError, IsADirectoryError)):
            read_regular(other, 5)
