"""Images inside zip and tar files, read in place: nothing is ever extracted to disk."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import cast

from ectype.data.raw import Raw, Unreadable
from ectype.data.sources import LARGEST, MAGIC, Listing, Source, judge, layout, signature_of_files, spread
from ectype.errors import DataError

__all__ = ["TarSource", "ZipSource"]

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, NotImplementedError)


def _damaged(text: str, error: BaseException) -> DataError:
    detail = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"archive '{text}' is damaged or incomplete ({detail}): fetch or pack it again.")


class _Inventory:
    """Sorts an archive's members into items, refused and skipped ones."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self.skipped: Counter[str] = Counter()

    def admit(self, name: str, size: int, head: BufferedIOBase | None = None) -> bool:
        """Whether a member is an item. `head` is where the first bytes of a name without suffix can be seen."""
        kind = judge(name)
        path = PurePosixPath(name)
        if kind == "unknown":
            kind = "image" if head is not None and MAGIC.match(head.read(16)) else "other"
        if kind in ("image", "foreign") and (path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name):
            # Harmless to us, who never extract; but names become the paths of results.
            self.refused.append((name, "unsafe path in the archive"))
        elif kind == "foreign":
            self.refused.append((name, f"format not supported ({path.suffix.lower()})"))
        elif kind == "image" and size > LARGEST:
            self.refused.append((name, f"larger than {LARGEST >> 20} MiB when unpacked"))
        elif kind == "image":
            self.names.append(name)
            return True
        elif kind == "other":
            self.skipped[path.suffix.lower() or "no suffix"] += 1
        return False

    def listing(self, text: str) -> Listing:
        if not self.names and not self.refused:
            raise DataError(f"no images in archive '{text}': pack a folder of JPEG, PNG or other image files.")
        return replace(layout(self.names), refused=tuple(self.refused), skipped=self.skipped)


class ZipSource(Source):
    """Image files in a zip."""

    def __init__(self, text: str, path: Path) -> None:
        self.path = path.resolve()
        super().__init__(text, str(self.path), signature_of_files([self.path]))
        self._items: list[zipfile.ZipInfo] | None = None
        self._inventory = _Inventory()

    def _list(self, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        if self._items is None:
            self._items = []
            for member in archive.infolist():
                if member.is_dir():
                    continue
                name = member.filename.replace("\x00", "")
                if member.flag_bits & 1:
                    if judge(name) == "image":
                        self._inventory.refused.append((name, "encrypted in the archive"))
                    continue
                if judge(name) == "unknown":
                    with archive.open(member) as head:
                        admitted = self._inventory.admit(name, member.file_size, cast(BufferedIOBase, head))
                else:
                    admitted = self._inventory.admit(name, member.file_size)
                if admitted:
                    self._items.append(member)
        return self._items

    def listing(self) -> Listing:
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._list(archive)
        except _DAMAGE as error:
            raise _damaged(self.text, error) from None
        return self._inventory.listing(self.text)

    def _read(self, wanted: slice | list[int]) -> Iterator[Raw]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                items = self._list(archive)
                for member in items[wanted] if isinstance(wanted, slice) else [items[i] for i in wanted]:
                    try:
                        with archive.open(member) as file:
                            # The size in the directory may lie: read no more than the limit.
                            content = file.read(LARGEST + 1)
                    except _DAMAGE:
                        yield Unreadable("damaged in the archive")
                    else:
                        large = len(content) > LARGEST
                        yield Unreadable(f"larger than {LARGEST >> 20} MiB when unpacked") if large else content
        except _DAMAGE as error:
            raise _damaged(self.text, error) from None

    def read(self) -> Iterator[Raw]:
        return self._read(slice(None))

    def sample(self, size: int) -> list[Raw]:
        return list(self._read(spread(len(self._items or ()), size)))


class TarSource(Source):
    """Image files in a tar, compressed or not; read front to back, as tapes are."""

    def __init__(self, text: str, path: Path) -> None:
        self.path = path.resolve()
        super().__init__(text, str(self.path), signature_of_files([self.path]))

    def _members(self, inventory: _Inventory, *, content: bool) -> Iterator[Raw]:
        try:
            with tarfile.open(self.path, "r:*") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
                    if not member.isfile():
                        continue
                    head = cast(BufferedIOBase | None, archive.extractfile(member))
                    if inventory.admit(member.name.removeprefix("./"), member.size, head):
                        if content and head is not None:
                            head.seek(0)
                            yield head.read()
                        else:
                            yield b""
        except _DAMAGE as error:
            raise _damaged(self.text, error) from None

    def listing(self) -> Listing:
        inventory = _Inventory()
        for _ in self._members(inventory, content=False):
            pass
        return inventory.listing(self.text)

    def read(self) -> Iterator[Raw]:
        return self._members(_Inventory(), content=True)
