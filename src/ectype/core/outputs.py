"""Whose a file is: what Ectype did not write is never overwritten or deleted.

- A directory becomes a run, a comparison or a study only if it does not exist, is empty, or is one already, which files
  show that all of these have (`claim_directory`). What is in it belongs to Ectype then.
- Every other output (a picture, a table, an export) is recorded with its hash in a hidden file of its directory,
  `.ectype.jsonl`. Only a file that still has a recorded hash is replaced, so that a repeated command replaces its own
  earlier output and nothing else (`output_file`, `output_folder`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar

from ectype.core.files import OWN_PREFIX, atomic_file

__all__ = [
    "ForeignFileError",
    "RUN_FILES",
    "check_output",
    "check_output_folder",
    "claim_directory",
    "is_ectype_output",
    "output_file",
    "output_folder",
]

RUN_FILES = frozenset({"recipe.yaml", "environment.json"})
"""A directory that contains all of these is a run."""
RECORD = f"{OWN_PREFIX}.jsonl"
"""The record of the outputs in a directory: one JSON object with name, size and SHA-256 per line."""
IGNORED_NAMES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that file managers put into directories that they show."""


class ForeignFileError(FileExistsError):
    """A file or directory that is not Ectype's would be overwritten."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(errno.EEXIST, reason, str(path))


class _Record:
    """The outputs that Ectype has written into a directory.

    A file is recorded before it gets its name. Whenever the process is killed, its content has one of the hashes that
    are recorded for its name.
    """

    cache: ClassVar[dict[Path, _Record]] = {}

    def __init__(self, directory: Path) -> None:
        self.file = directory / RECORD
        self.state: object = None
        self.entries: dict[str, dict[str, int]] = {}
        """Name → {SHA-256: size in bytes} of everything that was written under this name."""
        self.exported: set[str] = set()
        """Names that `output_folder` wrote."""

    @classmethod
    def of(cls, directory: Path) -> _Record:
        """Return the record of a directory as it is on the disk now; it is read again only if it has changed."""
        record = cls.cache.setdefault(directory, cls(directory))
        record._read()
        return record

    def _state(self) -> object:
        with contextlib.suppress(OSError):
            status = self.file.stat()
            return status.st_ino, status.st_size, status.st_mtime_ns
        return None

    def _read(self) -> None:
        if (state := self._state()) == self.state:
            return
        self.state, self.entries, self.exported = state, {}, set()
        lines = self.file.read_bytes().split(b"\n") if self.file.is_file() else []
        for line in lines:
            # A line that was cut off when the process was killed records nothing, which is the safe side.
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                entry = json.loads(line)
                self.entries.setdefault(str(entry["name"]), {})[str(entry["sha256"])] = int(entry["size"])
                if entry.get("export"):
                    self.exported.add(str(entry["name"]))

    def add(self, name: str, content: Path, *, export: bool = False) -> None:
        """Record that a file of this content gets this name."""
        digest, known = _sha256(content), self.entries.setdefault(name, {})
        if digest in known and (name in self.exported) == export:
            return
        entry = {"name": name, "size": content.stat().st_size, "sha256": digest} | ({"export": True} if export else {})
        with self.file.open("ab") as file:
            # The line feed in front separates this line from one that was cut off.
            file.write(f"\n{json.dumps(entry)}".encode())
        known[digest] = content.stat().st_size
        if export:
            self.exported.add(name)
        self.state = self._state()

    def owns(self, name: str) -> bool:
        """Return whether the file of this name has a recorded content."""
        file = self.file.with_name(name)
        known = self.entries.get(name, {})
        return file.is_file() and file.stat().st_size in known.values() and _sha256(file) in known


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _foreign_names(directory: Path) -> list[str]:
    """Return the names in a directory, sorted, without records, unfinished files and those of file managers."""
    if not directory.exists():
        return []
    return sorted(
        name for name in os.listdir(directory) if not name.startswith(OWN_PREFIX) and name not in IGNORED_NAMES
    )


def check_output(path: Path) -> None:
    """Check that a file does not exist, or that Ectype wrote it and it was not changed since.

    Raises:
        ForeignFileError: It is someone else's.
        IsADirectoryError: It is a directory.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not _Record.of(path.parent).owns(path.name):
        raise ForeignFileError(path, "it exists, and Ectype did not write it, or it was changed since")


@contextlib.contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new file to write; on success, record it and rename it to `path`.

    Args:
        path: The final path; its directory exists. An earlier output is replaced.

    Raises:
        ForeignFileError: The file exists and Ectype did not write it, or it was changed since.
        OSError: The disk is full, or the file cannot be written.
    """
    path = Path(os.path.realpath(path))
    check_output(path)
    with atomic_file(path, durable=False) as scratch:
        yield scratch
        _Record.of(path.parent).add(path.name, scratch)


def check_output_folder(out: Path) -> None:
    """Check that a directory does not exist, is empty, or contains the files of an earlier `output_folder`.

    Raises:
        ForeignFileError: It contains other files.
        NotADirectoryError: It is a file.
    """
    out = Path(os.path.realpath(out))
    if (names := _foreign_names(out)) and not _Record.of(out).exported:
        raise ForeignFileError(out, f"it contains other files, such as '{names[0]}'")


@contextlib.contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """Yield a new directory to fill; on success, record its files and move them into `out`.

    Files of an earlier call are replaced, or removed if they are not written again. Files that someone added are kept.
    If the body raises, `out` stays as it was.

    Args:
        out: A directory that is new, empty, or contains the files of an earlier call.

    Raises:
        ForeignFileError: The directory contains other files, or one of those to be written exists and Ectype did not
            write it, or it was changed since.
        OSError: The disk is full, or the directory cannot be written.
    """
    check_output_folder(out)
    out = Path(os.path.realpath(out))
    scratch, is_new = out / f"{OWN_PREFIX}-tmp", not out.exists()
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        yield scratch
        mode = stat.S_IMODE(scratch.stat().st_mode) & 0o666
        files = sorted(scratch.iterdir())
        for file in files:
            check_output(out / file.name)
        record = _Record.of(out)
        earlier = record.exported - {file.name for file in files}
        for file in files:
            file.chmod(mode)
            record.add(file.name, file, export=True)
        for file in files:
            file.replace(out / file.name)
        for name in earlier:
            if record.owns(name):
                (out / name).unlink()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty, as it should be
                out.rmdir()


def claim_directory(directory: Path, marks: Collection[str], leftovers: Collection[str] = ()) -> bool:
    """Check that a directory does not exist, is empty, or is one of Ectype's. Nothing is created.

    Args:
        directory: The directory.
        marks: Files that all directories of this kind contain.
        leftovers: Names of files that a killed process has left in a directory that was empty.

    Returns:
        Whether it contains the marks.

    Raises:
        ForeignFileError: It contains other files.
        NotADirectoryError: It is a file.
    """
    names = _foreign_names(directory)
    if names and set(marks) <= set(names):
        return True
    if others := [name for name in names if name not in leftovers]:
        raise ForeignFileError(directory, f"it contains other files, such as '{others[0]}'")
    return False


def is_ectype_output(directory: str | Path) -> bool:
    """Return whether a directory is a run, or contains only outputs of Ectype, as far as its own files go.

    Its subdirectories are not looked at. A directory in which someone has added or changed a file is theirs.
    """
    with contextlib.suppress(OSError):
        entries = {entry.name: entry for entry in os.scandir(directory)}
        if entries.keys() >= RUN_FILES:
            return True
        known = _Record.of(Path(directory)).entries if RECORD in entries else {}
        shown = [entry for name, entry in entries.items() if not name.startswith(".") and entry.is_file()]
        return bool(shown) and all(entry.stat().st_size in known.get(entry.name, {}).values() for entry in shown)
    return False
