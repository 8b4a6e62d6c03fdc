"""Images in zip and tar files, read in place: nothing is extracted to disk."""

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

from ectype.core.errors import DataError
from ectype.data.raw_image import Raw, Unreadable
from ectype.data.sources.base import (
    IMAGE_MAGIC,
    MAGIC_BYTES,
    MAX_ENCODED_BYTES,
    Listing,
    Source,
    classify_filename,
    evenly_spaced_positions,
    infer_labels_and_splits,
    signature_of_files,
)

__all__ = ["TarSource", "ZipSource"]

MAX_UNCHECKED_BYTES = 8 << 20
"""Larger members of archives have to be images, and to be compressed as little as images are."""
MAX_RATIO = 200
_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    NotImplementedError,
)


def _damage_error(text: str, error: BaseException) -> DataError:
    detail = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"archive '{text}' is damaged or incomplete ({detail}): download or create it again.")


def _too_large() -> str:
    return f"larger than {MAX_ENCODED_BYTES >> 20} MiB when unpacked"


def _read_image(file: BufferedIOBase, compressed_bytes: int | None = None) -> Raw:
    """Return the content of an image in an archive, without unpacking what is none or expands as bombs do.

    Args:
        file: The member.
        compressed_bytes: Its size in the archive; None if members are not compressed one by one.
    """
    content = file.read(MAX_UNCHECKED_BYTES)
    if len(content) < MAX_UNCHECKED_BYTES:
        return content
    if not IMAGE_MAGIC.match(content):
        return Unreadable("not an image")
    # The size in the directory may be false: do not read more than the limit.
    limit = MAX_ENCODED_BYTES if compressed_bytes is None else min(MAX_ENCODED_BYTES, MAX_RATIO * compressed_bytes)
    content += file.read(max(0, limit + 1 - len(content)))
    if len(content) <= limit:
        return content
    bomb = f"expands more than {MAX_RATIO}-fold when unpacked (a bomb?)"
    return Unreadable(_too_large() if limit == MAX_ENCODED_BYTES else bomb)


class _Inventory:
    """Sorts the members of an archive into items, refused members and skipped ones."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self.skipped: Counter[str] = Counter()

    def admit(self, name: str, size: int, file: BufferedIOBase | None = None) -> bool:
        """Record a member and return whether it is an item.

        Args:
            name: Path in the archive.
            size: Bytes when unpacked, as the archive states.
            file: The member, from which the first bytes are read if the name has no suffix.
        """
        kind = classify_filename(name)
        path = PurePosixPath(name)
        if kind == "unknown":
            kind = "image" if file is not None and IMAGE_MAGIC.match(file.read(MAGIC_BYTES)) else "other"
        unsafe = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
        if kind in ("image", "unsupported") and unsafe:
            # Reading it would be harmless, but names become the paths of results.
            self.refused.append((name, "unsafe path in the archive"))
        elif kind == "unsupported":
            self.refused.append((name, f"format not supported ({path.suffix.lower()})"))
        elif kind == "image" and size > MAX_ENCODED_BYTES:
            self.refused.append((name, _too_large()))
        elif kind == "image":
            self.names.append(name)
            return True
        elif kind == "other":
            self.skipped[path.suffix.lower() or "no suffix"] += 1
        return False

    def listing(self, text: str) -> Listing:
        if not self.names and not self.refused:
            raise DataError(f"no images in archive '{text}': use an archive of JPEG, PNG or other image files.")
        return replace(infer_labels_and_splits(self.names), refused=tuple(self.refused), skipped=self.skipped)


class ZipSource(Source):
    """Image files in a zip archive."""

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
                    if classify_filename(name) == "image":
                        self._inventory.refused.append((name, "encrypted in the archive"))
                    continue
                if classify_filename(name) == "unknown":
                    with archive.open(member) as file:
                        admitted = self._inventory.admit(name, member.file_size, cast(BufferedIOBase, file))
                else:
                    admitted = self._inventory.admit(name, member.file_size)
                if admitted:
                    self._items.append(member)
        return self._items

    def listing(self) -> Listing:
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._list(archive)
        except _DAMAGE_ERRORS as error:
            raise _damage_error(self.text, error) from None
        return self._inventory.listing(self.text)

    def _read(self, selection: slice | list[int]) -> Iterator[Raw]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                items = self._list(archive)
                for member in items[selection] if isinstance(selection, slice) else [items[i] for i in selection]:
                    try:
                        with archive.open(member) as file:
                            yield _read_image(cast(BufferedIOBase, file), member.compress_size)
                    except _DAMAGE_ERRORS:
                        yield Unreadable("damaged in the archive")
        except _DAMAGE_ERRORS as error:
            raise _damage_error(self.text, error) from None

    def read(self) -> Iterator[Raw]:
        return self._read(slice(None))

    def sample(self, size: int) -> list[Raw]:
        return list(self._read(evenly_spaced_positions(len(self._items or ()), size)))


class TarSource(Source):
    """Image files in a tar archive, compressed or not, which is read from front to back."""

    def __init__(self, text: str, path: Path) -> None:
        self.path = path.resolve()
        super().__init__(text, str(self.path), signature_of_files([self.path]))

    def _members(self, inventory: _Inventory, *, with_content: bool) -> Iterator[Raw]:
        limit = MAX_UNCHECKED_BYTES + MAX_RATIO * self.path.stat().st_size
        try:
            with tarfile.open(self.path, "r:*") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
                    if not member.isfile():
                        continue
                    if member.offset_data + member.size > limit:
                        raise tarfile.TarError(f"it expands more than {MAX_RATIO}-fold: unpack it if that is right")
                    file = cast(BufferedIOBase | None, archive.extractfile(member))
                    if inventory.admit(member.name.removeprefix("./"), member.size, file):
                        if with_content and file is not None:
                            file.seek(0)
                            yield _read_image(file)
                        else:
                            yield b""
        except _DAMAGE_ERRORS as error:
            raise _damage_error(self.text, error) from None

    def listing(self) -> Listing:
        inventory = _Inventory()
        for _ in self._members(inventory, with_content=False):
            pass
        return inventory.listing(self.text)

    def read(self) -> Iterator[Raw]:
        return self._members(_Inventory(), with_content=True)
