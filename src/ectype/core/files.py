"""Files and directories: where caches are, files and directories that are written completely or not at all, and locks.

See `ectype.core.outputs` for what may be overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "OWN_PREFIX",
    "atomic_directory",
    "atomic_file",
    "cache_root",
    "file_lock",
    "flush_to_disk",
    "is_locked",
    "open_regular",
    "read_regular",
    "recover_directory",
    "write_text_atomically",
]

OWN_PREFIX = ".ectype"
"""How the names of records of outputs, and of unfinished files and directories, begin."""
LOCK_SECONDS = 0.2
"""How long a lock is tried for: another process that asks whether it is held may hold it for a moment."""


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


def _sibling(target: Path, what: str) -> Path:
    """Return a hidden path in the same directory and with the same suffix, whose length does not depend on the name."""
    digest = hashlib.blake2b(os.fsencode(target.name), digest_size=6).hexdigest()
    return target.with_name(f"{OWN_PREFIX}-{what}-{digest}{target.suffix}")


@contextlib.contextmanager
def atomic_file(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield the path of a new file to write; on success, rename it to `target`, which is replaced.

    Whenever the process or the machine stops, `target` is either complete or as it was before. The file gets the mode
    that the umask gives, whatever the writer sets.

    Args:
        target: The final path; its directory exists. A link is followed.
        durable: Whether to flush the file and its name to the disk.

    Raises:
        OSError: The disk is full, or the file cannot be written.
    """
    target = Path(os.path.realpath(target))
    scratch = _sibling(target, "tmp")
    try:
        scratch.unlink(missing_ok=True)
        scratch.open("xb").close()
        mode = stat.S_IMODE(scratch.stat().st_mode)
        yield scratch
        scratch.chmod(mode)
        if durable:
            flush_to_disk(scratch)
        scratch.replace(target)
        if durable:
            flush_to_disk(target.parent)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_text_atomically(target: Path, text: str) -> None:
    """Write a text file as UTF-8; see `atomic_file`."""
    with atomic_file(target) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a new directory to fill; on success, flush it to the disk and rename it to `target`.

    Whenever the process or the machine stops, `target` is complete or as it was before, or it is missing and
    `recover_directory` brings it back as it was. If the body raises, `target` stays as it was. Files get the mode that
    the umask gives, whatever the writer sets.

    Args:
        target: The final path. An existing directory is replaced.

    Raises:
        OSError: The disk is full, or the directory cannot be written.
    """
    scratch, old = _sibling(target, "tmp"), _sibling(target, "old")
    recover_directory(target)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        yield scratch
        mode = stat.S_IMODE(scratch.stat().st_mode)
        for path in sorted(scratch.rglob("*")):
            path.chmod(mode if path.is_dir() else mode & 0o666)
            flush_to_disk(path)
        flush_to_disk(scratch)
        while True:
            try:
                scratch.rename(target)
                break
            except OSError:
                if not target.is_dir():
                    raise
            shutil.rmtree(old, ignore_errors=True)
            # If the process is killed after this, or another one recovers the directory, nothing is lost.
            target.rename(old)
        for parent in (target.parent, target.parent.parent):
            flush_to_disk(parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        recover_directory(target)
        shutil.rmtree(scratch, ignore_errors=True)


def recover_directory(target: Path) -> None:
    """Give a directory its name back if a process was killed while `atomic_directory` replaced it."""
    old = _sibling(target, "old")
    if old.is_dir() and not target.exists():
        with contextlib.suppress(OSError):  # the process that replaces it was faster
            old.rename(target)


def flush_to_disk(path: Path) -> None:
    """Write the cached content of a file, or the names in a directory, to the disk, where the platform supports it."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() or sys.platform != "win32" else os.O_RDWR)
    except PermissionError:  # directories cannot be opened on Windows, nor parents without the right to read them
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
    lock = FileLock(path, timeout=-1 if wait else LOCK_SECONDS, fallback_to_soft=False)
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


def is_locked(path: Path) -> bool | None:
    """Return whether a process holds the lock on a file (see `file_lock`). The file is neither created nor written.

    Returns:
        None if it cannot be known: on a file system without locks, or on Windows.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, ValueError):
        return False
    except OSError as error:
        return True if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN) else None
    return False


def open_regular(file: Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading. A pipe, which could block for ever, or a device is never read.

    Args:
        file: The file.
        follow: Whether a link is followed; if not, it is refused.

    Raises:
        ValueError: It is not a regular file.
        OSError: It does not exist, is a directory, or cannot be opened.
    """
    # A pipe is opened at once with O_NONBLOCK, which regular files ignore. Windows has neither flag.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(file, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link") from None
        if error.errno == errno.ENXIO:  # a socket
            raise ValueError("it is not a regular file") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
        raise ValueError("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_regular(file: Path, max_bytes: int, *, follow: bool = True) -> bytes:
    """Return the content of a regular file of at most `max_bytes`; see `open_regular`.

    Raises:
        ValueError: It is not a regular file, or is larger.
        OSError: It does not exist, or cannot be read.
    """
    with open_regular(file, follow=follow) as opened:
        raw = opened.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return raw
