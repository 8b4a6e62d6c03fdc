"""Files and directories: where caches are, directories that are written completely or not at all, and locks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["atomic_directory", "cache_root", "file_lock", "flush_to_disk", "is_ectype_output"]

_RUN_FILES = ("recipe.yaml", "environment.json")
"""Files that every directory of a run has."""


def cache_root() -> Path:
    """Return the directory of all caches: `$ECTYPE_CACHE`, or `ectype` in the platform's cache directory."""
    if own := os.environ.get("ECTYPE_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ectype"


def is_ectype_output(directory: Path) -> bool:
    """Return whether Ectype wrote a directory, so that the images in it are not a user's images."""
    return all((directory / name).is_file() for name in _RUN_FILES)


@contextlib.contextmanager
def atomic_directory(
    target: Path, *, scratch: Path | None = None, keep_existing: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yield a new directory to fill; on success, flush it to the disk and rename it to `target`.

    Whenever the process or the machine stops, `target` is either complete or as it was before. If the body raises, the
    new directory is removed and `target` stays as it was.

    Args:
        target: The final path. An existing directory is replaced.
        scratch: The new directory, on the same file system; `<target>.tmp` by default. An old one is removed first.
        keep_existing: Called with `target` if it exists at the end. If it returns True, the new directory is discarded.

    Raises:
        OSError: The disk is full, or the directory cannot be written.
    """
    scratch = scratch or target.with_name(f"{target.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        yield scratch
        for path in sorted(scratch.rglob("*")):
            flush_to_disk(path)
        flush_to_disk(scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():
                raise
            if keep_existing is not None and keep_existing(target):
                return
            shutil.rmtree(target)
            scratch.rename(target)
        flush_to_disk(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """Write the cached content of a file, or the names in a directory, to the disk, where the platform supports it."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() or sys.platform != "win32" else os.O_RDWR)
    except PermissionError:  # directories cannot be opened on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold an exclusive lock on a file, which is created and stays. The system releases the lock of a killed process.

    Args:
        path: The lock file.
        wait: Whether to wait for another holder.

    Yields:
        True if the lock is held, False if the file system does not support locks.

    Raises:
        BlockingIOError: Another process, or another lock of this process, holds it, and `wait` is False.
        OSError: The file cannot be created or written.
    """
    from filelock import FileLock, Timeout  # takes a moment to import, and few commands lock anything

    path.open("ab").close()
    # A lock file whose existence is the lock would survive a killed process.
    lock = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process", str(path)) from None
    except (OSError, NotImplementedError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
