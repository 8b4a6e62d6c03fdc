"""Image files in a folder and its subfolders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ectype.data.raw_image import Raw
from ectype.data.sources.base import Listing, Signature, Source, evenly_spaced_positions, infer_labels_and_splits
from ectype.data.sources.walk import list_folder

__all__ = ["FolderSource"]


class FolderSource(Source):
    """Image files in a folder and its subfolders; see `list_folder` for which."""

    def __init__(self, text: str, root: Path) -> None:
        self.root = root.resolve()
        found = list_folder(self.root)
        self.names = [name for name, _, _ in found.files]
        self.refused, self.skipped, self.notes = tuple(found.refused), found.skipped, found.notes
        signature = Signature()
        for file in found.files:
            signature.add(*file)
        for name, _ in self.refused:
            signature.add(name, -1, -1)
        super().__init__(text, str(self.root), signature.text)

    def listing(self) -> Listing:
        found = infer_labels_and_splits(self.names)
        return replace(found, refused=self.refused, skipped=self.skipped, notes=(*found.notes, *self.notes))

    def path(self, name: str) -> str:
        """Return the path of a listed file."""
        return os.path.join(self.root, name)

    def read(self) -> Iterator[Raw]:
        return map(self.path, self.names)

    def sample(self, size: int) -> list[Raw]:
        return [self.path(self.names[i]) for i in evenly_spaced_positions(len(self.names), size)]
