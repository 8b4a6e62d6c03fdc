"""The cache of prepared images: folders that appear complete or not at all.

An entry is written to a temporary folder next to its place, flushed to disk, and renamed. A lock file lets a second
process wait for the first instead of repeating its work. On a file system without locks both work, and the rename
decides which result is kept.
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

from ectype.core import files
from ectype.core.errors import DataError

__all__ = [
    "CleanResult",
    "cache_root",
    "clean",
    "entry_lock",
    "load_manifest",
    "publish_entry",
    "temporary_entry",
    "write_error",
]

FORMAT_VERSION = 5
"""Version of the files in an entry. Entries of other versions are prepared again."""

MANIFEST = "manifest.json"
_ENTRY_NAME = re.compile(r".+-[0-9a-f]{12}-[0-9a-f]{12}(\.tmp-.+|\.lock)?")


def cache_root() -> Path:
    """Return the folder of prepared images."""
    return files.cache_root() / "data"


def load_manifest(entry: Path) -> dict[str, Any] | None:
    """Return the manifest of an entry.

    Returns:
        None if there is no entry, if it has another format version, or if a file is missing or has another size.
    """
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT_VERSION:
            return None
        for name, size in manifest["files"].items():
            if (entry / name).stat().st_size != size:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest


@contextlib.contextmanager
def entry_lock(entry: Path) -> Iterator[bool]:
    """Hold the lock of an entry, waiting for other processes. The system releases the lock of a process that dies.

    Yields:
        Whether the lock is held: False on a file system without locks.

    Raises:
        DataError: The lock file cannot be written.
    """
    try:
        file = _lock_path(entry).open("ab")
    except OSError as error:
        raise write_error(entry.parent, error) from None
    with file:
        yield _lock(file.fileno(), wait=True) is True


def _lock_path(entry: Path) -> Path:
    return entry.with_name(entry.name + ".lock")


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Take a lock. Return whether it was free, or None if the file system has no locks."""
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
def temporary_entry(entry: Path, *, locked: bool) -> Iterator[Path]:
    """Create a temporary folder next to an entry's place, and remove it at the end unless it was published.

    Args:
        entry: The entry's place.
        locked: Whether the entry's lock is held. Other temporary folders of the entry then belong to processes that
            died, and are removed.

    Raises:
        DataError: The disk is full, or cannot be written to.
    """
    folder = entry.with_name(f"{entry.name}.tmp-{os.getpid()}")
    try:
        for stale in entry.parent.glob(f"{entry.name}.tmp-*") if locked else ():
            shutil.rmtree(stale, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise write_error(folder.parent, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_error(folder: Path, error: OSError | None = None, required_bytes: int | None = None) -> DataError:
    """Return the error to raise if prepared images cannot be written.

    Args:
        folder: The folder of entries.
        error: What happened; None if the free space is known to be too small.
        required_bytes: Size of the prepared images.
    """
    if error is None or error.errno in (errno.ENOSPC, errno.EDQUOT):
        required = "" if required_bytes is None else f" ({required_bytes / 1e6:,.0f} MB are required)"
        return DataError(
            f"not enough disk space for prepared images in '{folder}'{required}: free some, or set ECTYPE_CACHE to a "
            "folder on a larger disk."
        )
    return DataError(
        f"prepared images cannot be written to '{folder}' ({error.strerror or error}): set ECTYPE_CACHE to a writable "
        "folder."
    )


def publish_entry(folder: Path, entry: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest to a temporary folder, flush its files to disk, and rename it to the entry's place."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    text = json.dumps({"format": FORMAT_VERSION, **manifest, "files": sizes}, indent=1, ensure_ascii=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        files.flush_to_disk(path)
    files.flush_to_disk(folder)
    try:
        os.rename(folder, entry)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES):
            raise
        # If the existing entry is valid, another process was faster. Otherwise it has another format or is damaged.
        if load_manifest(entry) is None:
            shutil.rmtree(entry)
            os.rename(folder, entry)
    files.flush_to_disk(entry.parent)


def remove_outdated(entry: Path) -> None:
    """Remove the entries of the same source before it changed. Processes that have mapped their files keep them."""
    for other in entry.parent.glob(entry.name.rpartition("-")[0] + "-*"):
        if other.is_dir() and other != entry and not other.name.startswith(entry.name) and ".tmp-" not in other.name:
            shutil.rmtree(other, ignore_errors=True)
            _lock_path(other).unlink(missing_ok=True)


class CleanResult(NamedTuple):
    """What `clean` has removed."""

    entries: int
    bytes: int
    """Bytes on disk."""


def clean(cache: Path | None = None) -> CleanResult:
    """Remove all prepared images, except those that are being prepared. Other files in the folder are not touched.

    Args:
        cache: The folder of entries; None for `cache_root()`.
    """
    root = cache or cache_root()
    entries = size = 0
    if not root.is_dir():
        return CleanResult(0, 0)
    for path in sorted(root.iterdir()):
        if not (match := _ENTRY_NAME.fullmatch(path.name)) or path.is_symlink():
            continue
        entry = path.with_name(path.name.removesuffix(match[1])) if match[1] else path
        if _is_locked(entry):
            continue
        if path.is_dir():
            size += sum(file.stat().st_size for file in path.iterdir())
            entries += match[1] is None
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return CleanResult(entries, size)


def _is_locked(entry: Path) -> bool:
    try:
        with open(_lock_path(entry), "rb") as file:
            return _lock(file.fileno(), wait=False) is False
    except OSError:
        return False
