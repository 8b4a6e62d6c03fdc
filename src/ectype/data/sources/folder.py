"""Image files in a folder and its subfolders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ectype.core.errors import DataError
from ectype.core.outputs import is_ectype_output
from ectype.data.raw_image import Raw
from ectype.data.sources.base import (
    IMAGE_MAGIC,
    MAGIC_BYTES,
    Listing,
    Signature,
    Source,
    classify_filename,
    evenly_spaced_positions,
    infer_labels_and_splits,
)

__all__ = ["FolderSource"]


def _walk_files(root: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the files below a folder with their relative names. Each folder is visited once, also through links."""
    visited: set[tuple[int, int]] = set()
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in visited:
            continue
        visited.add((stat.st_dev, stat.st_ino))
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            raise DataError(f"no permission to read folder '{folder}': change its permissions, or move it.") from None
        if prefix and is_ectype_output(folder):
            continue  # the images that Ectype wrote are not training data
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir():
                pending.append((entry.path, f"{prefix}{entry.name}/"))
            else:
                yield prefix + entry.name, entry


class FolderSource(Source):
    """Image files in a folder and its subfolders."""

    def __init__(self, text: str, root: Path) -> None:
        self.root = root.resolve()
        self.skipped: Counter[str] = Counter()
        refused: list[tuple[str, str]] = []
        self.names: list[str] = []
        signature = Signature()
        for name, entry in _walk_files(str(self.root)):
            kind = classify_filename(entry.name)
            if kind == "unknown":
                kind = "image" if _starts_like_image(entry.path) else "other"
            if kind == "unsupported":
                refused.append((name, f"format not supported ({PurePosixPath(name).suffix.lower()})"))
            elif kind == "other":
                self.skipped[PurePosixPath(name).suffix.lower() or "no suffix"] += 1
            elif kind == "image":
                self.names.append(name)
                try:
                    stat = entry.stat()
                    signature.add(name, stat.st_size, stat.st_mtime_ns)
                except OSError:  # a broken link, which decoding will report
                    signature.add(name, 0, 0)
        self.names.sort()
        self.refused = tuple(sorted(refused))
        for name, _ in self.refused:
            signature.add(name, -1, -1)
        super().__init__(text, str(self.root), signature.text)

    def listing(self) -> Listing:
        return replace(infer_labels_and_splits(self.names), refused=self.refused, skipped=self.skipped)

    def path(self, name: str) -> str:
        """Return the path of a listed file."""
        return os.path.join(self.root, name)

    def read(self) -> Iterator[Raw]:
        return map(self.path, self.names)

    def sample(self, size: int) -> list[Raw]:
        return [self.path(self.names[i]) for i in evenly_spaced_positions(len(self.names), size)]


def _starts_like_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return bool(IMAGE_MAGIC.match(file.read(MAGIC_BYTES)))
    except OSError:
        return False
