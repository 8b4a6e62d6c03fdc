"""The runs folder: which runs it has, by names that a browser may send, and which of their files are safe to read.

A browser never sends a path. It sends the name of a run, which is looked up in the folder's own list, and the kind and
step of a picture. What is a link, a pipe, a device or too large is not opened: its run is shown as refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from ectype.core.errors import RunError
from ectype.core.escape import as_one_line
from ectype.core.files import read_regular
from ectype.runs.run_dir import RunDir

__all__ = ["MAX_RUNS", "Entry", "Picture", "RunsFolder", "file_stamp", "pictures_of"]

MAX_RUNS = 2000
"""Runs that are listed, the newest ones."""
MAX_PICTURES = 10_000
MAX_PICTURE_BYTES = 32 * 2**20
MAX_REPORT_BYTES = 256 * 2**20

MAX_BYTES = {
    "recipe.yaml": 2 * 2**20,
    "metrics.jsonl": 256 * 2**20,
    "summary.json": 2 * 2**20,
    "evaluation.json": 16 * 2**20,
    "findings.json": 2 * 2**20,
    "environment.json": 2 * 2**20,
    "watch.json": 2 * 2**20,
    "report.html": MAX_REPORT_BYTES,
    ".lock": 2**20,
}
"""Files of a run that are read → the most that they may have."""
DIRECTORIES = ("samples", "checkpoints", "model")
"""Directories of a run that are read."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,99}")
PICTURE_NAME = re.compile(r"(samples|reconstructions|translations)-([0-9]{8,15})\.png")


class Picture(NamedTuple):
    """A picture that training has written after a check."""

    kind: str
    """samples, reconstructions or translations."""
    step: int
    name: str
    """Of its file."""


class Entry(NamedTuple):
    """A directory of the runs folder that is a run, or looks like one."""

    key: str
    """By which a browser asks for it."""
    run: RunDir
    refused: str
    """Why it is not read; empty if it is."""

    @property
    def name(self) -> str:
        """The name of the directory, as one line of plain text."""
        return as_one_line(self.run.path.name)


class RunsFolder:
    """The runs of a folder. Only what is directly in it is listed, and nothing outside of it is read.

    Args:
        root: The folder, which may be missing as long as there are no runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def entries(self) -> list[Entry]:
        """Return all runs, the newest first."""
        try:
            names = os.listdir(self.root)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = [entry for name in names if (entry := self._entry(name)) is not None]
        found.sort(key=lambda each: each[0], reverse=True)
        return [entry for _, entry in found[:MAX_RUNS]]

    def _entry(self, name: str) -> tuple[float, Entry] | None:
        """Return when a directory was changed, and its entry; None if it is no run."""
        if name.startswith("."):
            return None
        run = RunDir(self.root / name)
        changed, refused = 0.0, ""
        try:
            status = os.lstat(run.path)
            changed = status.st_mtime
            if stat.S_ISLNK(status.st_mode):
                if not run.path.is_dir():
                    return None
                refused = "a link: nothing outside of this folder is read"
            elif not stat.S_ISDIR(status.st_mode) or not os.path.lexists(run.recipe_file):
                return None
            else:
                refused = _refusal(run.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            refused = error.strerror or "it cannot be read"
        return changed, Entry(key_of(name), run, refused)

    def find(self, key: str) -> Entry:
        """Return the run of a key.

        Raises:
            RunError: There is no such run in the folder.
        """
        # The key of a plain name is the name, which has no separator: the folder need not be searched.
        found = self._entry(key) if PLAIN_NAME.fullmatch(key) else None
        entries = [found[1]] if found is not None else self.entries() if key.startswith("~") else []
        for entry in entries:
            if entry.key == key:
                return entry
        raise RunError(f"no run '{as_one_line(key[:100])}' in this folder: it may have been moved or removed.")

    def readable(self, key: str) -> RunDir:
        """Return the run of a key, if its files are safe to read.

        Raises:
            RunError: There is no such run, or it is refused.
        """
        entry = self.find(key)
        if entry.refused:
            raise RunError(f"'{entry.name}' is refused: {entry.refused}.")
        return entry.run

    def picture(self, key: str, kind: str, step: int) -> tuple[Path, bytes]:
        """Return a picture of a run: its file, and the PNG in it.

        Raises:
            RunError: There is no such picture, or its file is refused.
        """
        run = self.readable(key)
        for picture in pictures_of(run):
            if picture.kind == kind and picture.step == step:
                file = run.samples / picture.name
                try:
                    raw = read_regular(file, MAX_PICTURE_BYTES, follow=False)
                except (OSError, ValueError) as error:
                    raise RunError(f"the picture cannot be read: {_reason(error)}.") from None
                if not raw.startswith(b"\x89PNG\r\n\x1a\n"):
                    raise RunError("the picture is not a PNG file.")
                return file, raw
        raise RunError("there is no such picture: it may have been removed.")

    def report(self, key: str) -> bytes:
        """Return the report of a run.

        Raises:
            RunError: There is none, or it is refused.
        """
        try:
            return read_regular(self.readable(key).report, MAX_REPORT_BYTES, follow=False)
        except (OSError, ValueError) as error:
            raise RunError(f"the report cannot be read: {_reason(error)}.") from None


def key_of(name: str) -> str:
    """Return the key of a run: its name, or a hash of it if it has other characters than those of a plain name."""
    if PLAIN_NAME.fullmatch(name):
        return name
    return "~" + hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()


def pictures_of(run: RunDir) -> list[Picture]:
    """Return the pictures of a run by kind and step, the oldest first."""
    found = []
    try:
        with os.scandir(run.samples) as listed:
            for item in listed:
                if match := PICTURE_NAME.fullmatch(item.name):
                    found.append(Picture(match[1], int(match[2]), item.name))
                if len(found) >= MAX_PICTURES:
                    break
    except OSError:
        return []
    return sorted(found)


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is written or replaced; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _refusal(directory: Path) -> str:
    """Return why the files of a run are not read; empty if they are."""
    for name in (*MAX_BYTES, *DIRECTORIES):
        try:
            status = os.lstat(directory / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            return _reason(error)
        if stat.S_ISLNK(status.st_mode):
            return f"its {name} is a link: nothing outside of this folder is read"
        if name in DIRECTORIES:
            if not stat.S_ISDIR(status.st_mode):
                return f"its {name} is not a directory"
        elif not stat.S_ISREG(status.st_mode):
            return f"its {name} is not a regular file"
        elif status.st_size > MAX_BYTES[name]:
            return f"its {name} has {status.st_size:,} bytes, at most {MAX_BYTES[name]:,} are read"
    return ""


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or "it cannot be opened") if isinstance(error, OSError) else str(error)
