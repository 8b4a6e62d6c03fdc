"""Images in zip and tar files, read in place: nothing is extracted to disk."""

from __future__ import annotations

import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
    unsupported_reason,
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


_UTF8_FLAG = 0x800
"""Bit of a zip member's flags: its name is UTF-8."""
_UNICODE_PATH = 0x7075
"""Id of the extra field in which Info-ZIP stores the name as UTF-8."""
_LIKELY_ENCODINGS = ("cp949", "cp932", "gb18030")
_DRIVE = re.compile(r"[A-Za-z]:/")


def _zip_names(members: Sequence[zipfile.ZipInfo], text: str, encoding: str | None) -> tuple[list[str], list[str]]:
    """Return the names of the members of a zip file with forward slashes, and notes.

    Names are UTF-8 if they are marked as such. Others are bytes in an encoding that the file does not name: that of
    the language of the machine that made it.

    Args:
        members: The members.
        text: The file as the user wrote it.
        encoding: The encoding of names that are not marked; None takes UTF-8 if all are valid in it, else cp437.

    Raises:
        DataError: A name is not valid in the encoding.
    """
    names = [member.orig_filename.partition("\0")[0] for member in members]
    raw: dict[int, bytes] = {}
    for i, member in enumerate(members):
        if (unicode_name := _unicode_path(member)) is not None:
            names[i] = unicode_name
        elif not member.flag_bits & _UTF8_FLAG and not names[i].isascii():
            raw[i] = names[i].encode("cp437")  # which zipfile has decoded it with
    notes = []
    if raw:
        decoded = _decode_all(raw.values(), encoding or "utf-8")
        if decoded is None and encoding is not None:
            raise DataError(f"names in '{text}' are not valid in data.zip_encoding={encoding}: give another one.")
        if decoded is not None:
            for i, name in zip(raw, decoded, strict=True):
                names[i] = name
        else:
            first, example = next(iter(raw.items()))
            options = [(other, _decode_all([example], other)) for other in _LIKELY_ENCODINGS]
            shown = ", ".join(f"'{found[0]}' ({other})" for other, found in options if found is not None)
            notes.append(
                f"names in '{text}' are in an unknown encoding, such as '{names[first]}'"
                + (f", which may be {shown}" if shown else "")
                + ": set data.zip_encoding if they look wrong"
            )
    return [name.replace("\\", "/") for name in names], notes


def _decode_all(names: Iterable[bytes], encoding: str) -> list[str] | None:
    try:
        return [name.decode(encoding) for name in names]
    except UnicodeDecodeError:
        return None


def _unicode_path(member: zipfile.ZipInfo) -> str | None:
    """Return the name in the extra field of Info-ZIP, if there is one that belongs to the member's name."""
    extra = member.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind == _UNICODE_PATH and size > 5:
            content, checksum = extra[9 : 4 + size], int.from_bytes(extra[5:9], "little")
            own = member.orig_filename.encode("utf-8" if member.flag_bits & _UTF8_FLAG else "cp437")
            decoded = _decode_all([content], "utf-8")
            return decoded[0] if decoded is not None and checksum == zlib.crc32(own) else None
        extra = extra[4 + size :]
    return None


class _Inventory:
    """Sorts the members of an archive into items, refused members and skipped ones."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self.skipped: Counter[str] = Counter()
        self.notes: list[str] = []
        self._seen: set[str] = set()

    def admit(self, name: str, size: int, file: BufferedIOBase | None = None) -> bool:
        """Record a member and return whether it is an item.

        Args:
            name: Path in the archive, with forward slashes.
            size: Bytes when unpacked, as the archive states.
            file: The member, from which the first bytes are read if the name has no suffix.
        """
        kind = classify_filename(name)
        path = PurePosixPath(name)
        if kind == "unknown":
            kind = "image" if file is not None and IMAGE_MAGIC.match(file.read(MAGIC_BYTES)) else "other"
        unsafe = path.is_absolute() or ".." in path.parts or _DRIVE.match(name) is not None
        if kind in ("image", "unsupported") and unsafe:
            # Reading it would be harmless, but names become the paths of results.
            self.refused.append((name, "unsafe path in the archive"))
        elif kind == "unsupported":
            self.refused.append((name, unsupported_reason(name)))
        elif kind == "image" and size > MAX_ENCODED_BYTES:
            self.refused.append((name, _too_large()))
        elif kind == "image" and name in self._seen:
            self.refused.append((name, "a second file of this name in the archive"))
        elif kind == "image":
            self.names.append(name)
            self._seen.add(name)
            return True
        elif kind == "other":
            self.skipped[path.suffix.lower() or "no suffix"] += 1
        return False

    def listing(self, text: str) -> Listing:
        if not self.names and not self.refused:
            raise DataError(f"no images in archive '{text}': use an archive of JPEG, PNG or other image files.")
        found = infer_labels_and_splits(self.names)
        notes = (*found.notes, *self.notes)
        return replace(found, refused=tuple(self.refused), skipped=self.skipped, notes=notes)


class ZipSource(Source):
    """Image files in a zip archive.

    Args:
        text: The source as the user wrote it.
        path: The file.
        encoding: The encoding of names that are not marked as UTF-8; None takes UTF-8 if all are valid in it.
    """

    def __init__(self, text: str, path: Path, encoding: str | None = None) -> None:
        self.path, self.encoding = path.resolve(), encoding
        location = f"{self.path}#{encoding}" if encoding else str(self.path)
        super().__init__(text, location, signature_of_files([self.path]))
        self._items: list[zipfile.ZipInfo] | None = None
        self._inventory = _Inventory()

    def _list(self, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        if self._items is None:
            self._items = []
            members = archive.infolist()
            names, self._inventory.notes = _zip_names(members, self.text, self.encoding)
            for member, name in zip(members, names, strict=True):
                if name.endswith("/"):
                    continue
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
                    name = member.name.replace("\\", "/").removeprefix("./")
                    if inventory.admit(name, member.size, file):
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
