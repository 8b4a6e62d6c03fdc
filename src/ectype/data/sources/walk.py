"""The files of a folder as every command sees them, and the rule that only regular files are opened.

Training, `ectype data` and the commands that apply a model list a folder with the functions of this module, so that
none of them sees other images than another one does.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ectype.core.errors import DataError
from ectype.core.outputs import is_ectype_output
from ectype.data.sources.base import IMAGE_MAGIC, MAGIC_BYTES, classify_filename, unsupported_reason

__all__ = [
    "FolderListing",
    "FoundFile",
    "check_path_given",
    "check_regular_file",
    "list_folder",
    "path_exists",
    "resolve_source",
    "walk_files",
]

SKIPPED_FOLDERS = ("__MACOSX",)
"""Folders that are skipped like hidden ones: archives made on macOS keep copies of the files' metadata in them."""
_SPECIAL_FILES = (
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
"""Kinds of files that are never opened: reading them may wait forever, or never end."""


class FoundFile(NamedTuple):
    """A file below a folder."""

    name: str
    """Path relative to the folder, with forward slashes."""
    entry: os.DirEntry[str]
    special: str = ""
    """`pipe`, `socket` or `device`; empty for a regular file and for a broken link."""


@dataclass
class FolderListing:
    """The image files of a folder and its subfolders.

    Attributes:
        files: (name, bytes, modification time in ns) of the image files, sorted by name.
        refused: (name, reason) of image files in formats that cannot be read, sorted by name.
        skipped: Number of other files by suffix; pipes, sockets and devices by these words.
        outputs: Names of the folders that Ectype wrote, which are left out.
    """

    files: list[tuple[str, int, int]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    outputs: list[str] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the folder, one line each."""
        if not self.outputs:
            return ()
        shown = ", ".join(sorted(self.outputs)[:3])
        if len(self.outputs) > 3:
            shown += f", … ({len(self.outputs):,} in all)"
        return (f"folders that Ectype wrote are left out: {shown}",)


def walk_files(root: Path, outputs: list[str] | None = None) -> Iterator[FoundFile]:
    """Yield the files below a folder.

    Hidden files and folders are skipped. Each folder is visited once, also if links lead to it or form a cycle; a
    folder that is reached directly and through a link is visited directly. Folders that Ectype wrote are left out,
    except the given one.

    Args:
        root: The folder.
        outputs: The names of folders that Ectype wrote are appended here.

    Raises:
        DataError: There is no permission to read one of the folders.
    """
    visited: set[tuple[int, int]] = set()
    pending, links = [(str(root), "")], []
    while pending or links:
        folder, prefix = pending.pop() if pending else links.pop(0)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except PermissionError:
            raise DataError(f"no permission to read folder '{folder}': change its permissions, or move it.") from None
        except FileNotFoundError:  # removed meanwhile
            continue
        if prefix and is_ectype_output(Path(folder)):
            if outputs is not None:
                outputs.append(prefix.removesuffix("/"))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in SKIPPED_FOLDERS:
                continue
            kind = _kind(entry)
            if kind == "folder":
                (links if entry.is_symlink() else pending).append((entry.path, f"{prefix}{entry.name}/"))
            else:
                yield FoundFile(prefix + entry.name, entry, "" if kind == "file" else kind)


def _kind(entry: os.DirEntry[str]) -> str:
    """Return folder, file (also a broken link), pipe, socket or device."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return _special_kind(entry.stat().st_mode)
    except OSError:  # a broken link, or links that form a circle
        return "file"


def _special_kind(mode: int) -> str:
    """Return pipe, socket or device for the mode of a file that is neither regular nor a folder."""
    return next((name for is_kind, name in _SPECIAL_FILES if is_kind(mode)), "device")


def list_folder(root: Path) -> FolderListing:
    """List the image files of a folder and its subfolders.

    A file is an image by its suffix, or, if it has none, by its first bytes. See `walk_files` for what is skipped.

    Raises:
        DataError: There is no permission to read one of the folders.
    """
    listing = FolderListing()
    for name, entry, special in walk_files(root, listing.outputs):
        kind = "special" if special else classify_filename(entry.name)
        if kind == "unknown":
            kind = "image" if _starts_like_image(entry.path) else "other"
        if kind == "special":
            listing.skipped[special] += 1
        elif kind == "unsupported":
            listing.refused.append((name, unsupported_reason(name)))
        elif kind == "other":
            listing.skipped[PurePosixPath(name).suffix.lower() or "no suffix"] += 1
        elif kind == "image":
            try:
                status = entry.stat()
                listing.files.append((name, status.st_size, status.st_mtime_ns))
            except OSError:  # a broken link, which decoding will report
                listing.files.append((name, 0, 0))
    listing.files.sort()
    listing.refused.sort()
    return listing


def _starts_like_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return bool(IMAGE_MAGIC.match(file.read(MAGIC_BYTES)))
    except OSError:
        return False


def check_regular_file(path: Path) -> None:
    """Check that a path that the user named is not a pipe, socket or device. A path that does not exist passes.

    Raises:
        DataError: It is one of these, which would not end, or would wait forever.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # opening it will report the reason
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"'{path}' is a {_special_kind(mode)}, not a file: save its content to a file first.")


def path_exists(path: Path) -> bool:
    """Return whether a path exists; one that the system cannot express, such as a name that is too long, does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_path_given(text: str) -> None:
    """Check that a path is not empty, which would mean the current directory.

    Raises:
        DataError: It is.
    """
    if not text.strip():
        raise DataError("the path of the images is empty: name a folder or another source; '.' is this directory.")


def resolve_source(text: str) -> str:
    """Return the absolute path of a source that is a file or folder; other sources are returned as they are.

    Raises:
        DataError: The text is empty.
    """
    check_path_given(text)
    return str(Path(text).resolve()) if path_exists(Path(text)) else text
