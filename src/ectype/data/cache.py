"""The cache of prepared images: directories that appear whole or not at all.

An entry is written beside its place, flushed to disk and renamed into it. A lock file lets a second process wait for
the first instead of repeating its work; where a file system knows no locks, both work and the rename decides.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ectype import paths
from ectype.errors import DataError

__all__ = ["Cleaned", "cache_root", "clean", "load", "locked", "publish", "writing"]

FORMAT = 3
"""Version of the files in an entry; others are prepared anew."""

MANIFEST = "manifest.json"
_ENTRY = re.compile(r".+-[0-9a-f]{12}-[0-9a-f]{12}(\.tmp-.+|\.lock)?")


def cache_root() -> Path:
    """Where prepared images go."""
    return paths.cache_root() / "data"


def load(entry: Path) -> dict[str, Any] | None:
    """The manifest of an entry; None where there is none, of this format, with all its files of their sizes."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return None
        for name, size in manifest["files"].items():
            if (entry / name).stat().st_size != size:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest


@contextlib.contextmanager
def locked(entry: Path) -> Iterator[bool]:
    """Be the only process that prepares this entry; yields False where the file system cannot promise that.

    The system releases the lock of a process that dies.
    """
    try:
        file = _lock_path(entry).open("ab")
    except OSError as error:
        raise no_room(entry.parent, error) from None
    with file:
        yield _lock(file.fileno(), wait=True) is True


def _lock_path(entry: Path) -> Path:
    return entry.with_name(entry.name + ".lock")


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Take a lock: whether it was free, None where there are no locks."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return None if wait else False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def writing(entry: Path, *, alone: bool) -> Iterator[Path]:
    """A new directory beside an entry's place, removed at the end unless it was published.

    Args:
        entry: The place.
        alone: Whether we hold the entry's lock, so that other directories of this kind belong to processes that died.

    Raises:
        DataError: The disk is full, or may not be written.
    """
    place = entry.with_name(f"{entry.name}.tmp-{os.getpid()}")
    try:
        for stale in entry.parent.glob(f"{entry.name}.tmp-*") if alone else ():
            shutil.rmtree(stale, ignore_errors=True)
        place.mkdir(parents=True)
        yield place
    except OSError as error:
        raise no_room(place.parent, error) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def no_room(place: Path, error: OSError | None = None, needed: int | None = None) -> DataError:
    """What to say when prepared images cannot be written."""
    fix = "free some space, or set ECTYPE_CACHE to a folder on a larger disk."
    if error is None or error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = "" if needed is None else f" ({needed / 1e6:,.0f} MB are needed)"
        return DataError(f"no room for prepared images in '{place}'{need}: {fix}")
    return DataError(
        f"prepared images cannot be written to '{place}' ({error.strerror or error}): set ECTYPE_CACHE to a folder "
        "that can be."
    )


def publish(place: Path, entry: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, flush everything, and rename the directory into its place, all or nothing."""
    files = {path.name: path.stat().st_size for path in sorted(place.iterdir())}
    text = json.dumps({"format": FORMAT, **manifest, "files": files}, indent=1, ensure_ascii=True)
    (place / MANIFEST).write_text(text, encoding="utf-8")
    for path in place.iterdir():
        _flush(path)
    _flush(place)
    try:
        os.rename(place, entry)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES):
            raise
        if load(entry) is None:  # an entry of another format, or damaged; else another process was faster
            shutil.rmtree(entry)
            os.rename(place, entry)
    _flush(entry.parent)


def _flush(path: Path) -> None:
    """Have a file or directory on disk, where the platform can promise that."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() or sys.platform != "win32" else os.O_RDWR)
    except OSError:  # directories cannot be opened on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def forget_older(entry: Path) -> None:
    """Remove what was prepared of the same source before it changed. Whoever has it mapped keeps it until they end."""
    for other in entry.parent.glob(entry.name.rpartition("-")[0] + "-*"):
        if other.is_dir() and other != entry and not other.name.startswith(entry.name) and ".tmp-" not in other.name:
            shutil.rmtree(other, ignore_errors=True)
            _lock_path(other).unlink(missing_ok=True)


class Cleaned(NamedTuple):
    """What was removed: prepared sources, and bytes on disk."""

    entries: int
    bytes: int


def clean(cache: Path | None = None) -> Cleaned:
    """Remove all prepared images, except those being prepared right now. Nothing else in the folder is touched."""
    root = cache or cache_root()
    entries = size = 0
    if not root.is_dir():
        return Cleaned(0, 0)
    for path in sorted(root.iterdir()):
        if not (match := _ENTRY.fullmatch(path.name)) or path.is_symlink():
            continue
        entry = path.with_name(path.name.removesuffix(match[1])) if match[1] else path
        if _busy(entry):
            continue
        if path.is_dir():
            size += sum(file.stat().st_size for file in path.iterdir())
            entries += match[1] is None
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return Cleaned(entries, size)


def _busy(entry: Path) -> bool:
    try:
        with open(_lock_path(entry), "rb") as file:
            return _lock(file.fileno(), wait=False) is False
    except OSError:
        return False
