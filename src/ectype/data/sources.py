"""Where images come from: one `Source` for folders, archives, arrays and tables, found from the text a user wrote.

A source lists its items (names, labels, splits) and hands out their raw content in that order, chunk by chunk; it never
decodes. Nothing here imports torch, and each kind's own libraries are imported when that kind is opened.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np

from ectype.data.raw import Raw
from ectype.errors import DataError, did_you_mean

__all__ = ["FolderSource", "Listing", "Source", "layout", "natural", "open_source", "untiled"]

# Split codes, as stored with prepared images. NONE: the source does not say.
NONE, TRAIN, VAL, TEST = 0, 1, 2, 3
SPLITS = {"train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL}
SPLITS |= {"test": TEST, "testing": TEST, "t10k": TEST}

SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif"),
        *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".mpo"),
    ]
)
# Images to their owner, though not to us: they are rejected by name, so that nobody wonders where they went.
FOREIGN = frozenset(
    [
        *(".heic", ".heif", ".svg", ".psd", ".xcf", ".tga", ".ico", ".exr", ".hdr", ".jxl"),
        *(".dcm", ".nii", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".eps"),
    ]
)
MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|RIFF....WEBP|P[1-6]\s|\0\0\0\x0cjP|....ftypavi[fs]", re.DOTALL
)
PART = re.compile(r"#\d+,\d+$")
"""Behind the name of an image that a part was cut from: its top and left."""
LARGEST = 256 << 20
"""Bytes of an encoded image in an archive beyond which it is rejected: the cure for zip bombs."""


@dataclass(frozen=True)
class Listing:
    """What a source knows of its items without decoding them.

    `sides` [n] holds split codes, `labels` [n] class indices (None without classes). `refused` are items that will
    never be read, as (name, reason); `skipped` counts other files by suffix.
    """

    names: Sequence[str]
    sides: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


class Source(ABC):
    """A set of images in a fixed order.

    Attributes:
        text: What the user wrote.
        location: What identifies the source on this machine, such as an absolute path.
        signature: Hash of names, sizes and times: as long as it stays, prepared images still fit.
        decoded: Whether items are pixels already, so that other processes would have nothing to do.
        deep, brightest: Images that the source itself reduced from 16 bits, and their largest value; known once all are
            read.
        several: How many of its files are paged or animated, of a source whose items are parts of files.
    """

    decoded = False
    deep = 0
    brightest = 0
    several: Mapping[str, int] = MappingProxyType({})

    def __init__(self, text: str, location: str, signature: str) -> None:
        self.text = text
        self.location = location
        self.signature = signature

    @abstractmethod
    def listing(self) -> Listing:
        """All items. Raises `DataError` where there are none or they cannot be listed."""

    @abstractmethod
    def read(self) -> Iterator[Raw]:
        """The content of each item, in the listing's order."""

    def chunks(self, size: int) -> Iterator[Sequence[Raw] | np.ndarray]:
        """The content of `size` items at a time; a block [k, h, w, c] of pixels where all are alike."""
        items = self.read()
        while chunk := list(itertools.islice(items, size)):
            yield chunk

    def sample(self, size: int) -> list[Raw]:
        """Some items to judge all by: spread evenly where any can be read alone, else the first."""
        return list(itertools.islice(self.read(), size))


# ── Names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def natural(text: str) -> tuple[str | int, ...]:
    """Sort key that puts slice-9 before slice-10."""
    # Every second part is of digits, those that `int` knows; str.isdigit knows more.
    return tuple(int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", text)))


def _folders(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The folders above each item, less those that all share: an archive often wraps its content in one."""
    folders = [tuple(name.split("/")[:-1]) for name in names]
    # What the first and the last in order share, all share.
    ends = zip(min(folders), max(folders), strict=False) if folders else ()
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1] and pair[0].lower() not in SPLITS, ends)
    depth = sum(1 for _ in shared)
    return [parts[depth:] for parts in folders]


def layout(names: Sequence[str]) -> Listing:
    """What folder names say.

    - Folders above everything count for nothing.
    - The first folders are splits if all of them are named train, val, valid, validation, dev, test or t10k: with a
      `bus` beside it, `train` is a vehicle. The folders below the first are, if every image lies in one so named, of
      two splits at least, and each first folder has images to train on: `cats/train`, `cats/test`, `dogs/train` …
    - The first folder besides is the class, if every image lies in one and there are at least two.
    """
    folders = _folders(names)
    sides, notes = np.zeros(len(names), np.uint8), []
    for level in (0, 1):
        found = [parts[level].lower() if len(parts) > level else "" for parts in folders]
        others = sorted({name for name in found if name not in SPLITS}, key=natural)
        splits = {SPLITS[name] for name in found if name in SPLITS}
        taught = {parts[0] for parts, name in zip(folders, found, strict=True) if SPLITS.get(name) == TRAIN}
        whole = level == 0 and others in ([], [""]) and splits
        if whole or (not others and len(splits) > 1 and taught == {parts[0] for parts in folders}):
            sides = np.array([SPLITS.get(name, 0) for name in found], np.uint8)
            folders = [parts[:level] + parts[level + 1 :] for parts in folders]
            notes = ["splits: the folders train, val or test within each class"] if level else []
            break
        if len(splits) > 1 and others not in ([], [""]):
            beside = " and ".join(f"'{name}'" for name in others[:2] if name) + (" …" if len(others) > 2 else "")
            note = "folders that are named like splits are not taken for such"
            notes.append(f"{note}, since beside them lies {beside}: give a folder with none but these")
    found = [parts[0] if parts else None for parts in folders]
    classes = sorted({name for name in found if name is not None}, key=natural)
    if len(classes) < 2:
        return Listing(names, sides, notes=tuple(notes))
    if outside := found.count(None):
        note = f"folders are not taken for classes: {outside} of {len(names)} images lie in none"
        return Listing(names, sides, notes=(*notes, note))
    number = {name: i for i, name in enumerate(classes)}
    labels = np.fromiter((number[name] for name in found if name is not None), np.int32, len(names))
    return Listing(names, sides, labels, tuple(classes), notes=tuple(notes))


def untiled(name: str) -> str:
    """The name of the image that a part was cut from."""
    return PART.sub("", name)


def judge(name: str) -> str:
    """What a file's name says of it: image, foreign, ignored, unknown (no suffix) or other."""
    parts = PurePosixPath(name).parts
    if any(part.startswith((".", "__MACOSX")) for part in parts) or parts[-1] in ("Thumbs.db", "desktop.ini"):
        return "ignored"
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in SUFFIXES:
        return "image"
    return "foreign" if suffix in FOREIGN else "other" if suffix else "unknown"


class Signature:
    """Hash of names, sizes and times that come in any order, none of which is kept."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, name: str, size: int, time: int) -> None:
        text = f"{name}\0{size}\0{time}".encode(errors="surrogateescape")
        self._sum += int.from_bytes(hashlib.blake2b(text, digest_size=32).digest(), "big")

    @property
    def text(self) -> str:
        return f"{self._sum % (1 << 256):064x}"


def signature_of(entries: Iterable[tuple[str, int, int]]) -> str:
    """Hash of names, sizes and times, in any order."""
    signature = Signature()
    for entry in entries:
        signature.add(*entry)
    return signature.text


def signature_of_files(paths: Iterable[Path]) -> str:
    """Hash of some files' names, sizes and times."""
    return signature_of((path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths)


# ── Folders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


RUN = {"recipe.yaml", "environment.json"}
"""Files by which the directory of a run is known."""


def _walk(root: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files below a folder with their relative names, links to folders followed once each."""
    seen: set[tuple[int, int]] = set()
    waiting = [(root, "")]
    while waiting:
        folder, above = waiting.pop()
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            raise DataError(f"folder '{folder}' may not be read: give yourself the permission, or move it.") from None
        if above and {entry.name for entry in entries} >= RUN:
            continue  # pictures that a run made are none of the data
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir():
                waiting.append((entry.path, f"{above}{entry.name}/"))
            else:
                yield above + entry.name, entry


class FolderSource(Source):
    """Image files in a folder, at any depth."""

    def __init__(self, text: str, root: Path) -> None:
        self.root = root.resolve()
        self.skipped: Counter[str] = Counter()
        refused: list[tuple[str, str]] = []
        self.names: list[str] = []
        signature = Signature()
        for name, entry in _walk(str(self.root)):
            kind = judge(entry.name)
            if kind == "unknown":
                kind = "image" if _looks_like_image(entry.path) else "other"
            if kind == "foreign":
                refused.append((name, f"format not supported ({PurePosixPath(name).suffix.lower()})"))
            elif kind == "other":
                self.skipped[PurePosixPath(name).suffix.lower() or "no suffix"] += 1
            elif kind == "image":
                self.names.append(name)
                try:
                    stat = entry.stat()
                    signature.add(name, stat.st_size, stat.st_mtime_ns)
                except OSError:  # a link to nothing: the decoder will say so
                    signature.add(name, 0, 0)
        self.names.sort()
        self.refused = tuple(sorted(refused))
        for name, _ in self.refused:
            signature.add(name, -1, -1)
        super().__init__(text, str(self.root), signature.text)

    def listing(self) -> Listing:
        return replace(layout(self.names), refused=self.refused, skipped=self.skipped)

    def path(self, name: str) -> str:
        """Where a file of the listing is."""
        return os.path.join(self.root, name)

    def read(self) -> Iterator[Raw]:
        return map(self.path, self.names)

    def sample(self, size: int) -> list[Raw]:
        return [self.path(self.names[i]) for i in spread(len(self.names), size)]


def _looks_like_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return bool(MAGIC.match(file.read(16)))
    except OSError:
        return False


def spread(length: int, size: int) -> list[int]:
    """At most `size` positions, spread evenly over `length`."""
    return sorted({i * length // size for i in range(size)}) if length else []


# ── Opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def open_source(text: str) -> Source:
    """The images a text names.

    Args:
        text: `digits` (built in), `hf:user/name[:config]`, `torchvision:Name`, or the path of a folder, a zip or tar,
            an IDX file or a folder of them, an `.npz`, `.npy` or `.parquet` file, or a folder of Parquet files. Tables
            take `#image_column[,label_column]` behind.

    Raises:
        DataError: There is nothing there, or nothing that can be read as images.
    """
    if text == "digits":
        from ectype.data.packages import digits

        return digits()
    if text.startswith("hf:"):
        from ectype.data.tables import HubSource

        return HubSource(text)
    if text.startswith("torchvision:"):
        from ectype.data.packages import TorchvisionSource

        return TorchvisionSource(text)
    path = Path(text).expanduser()
    columns = ""
    if not path.exists() and "#" in text:
        before, _, columns = text.rpartition("#")
        path = Path(before).expanduser()
    if not path.exists():
        raise DataError(_missing(text, path))
    return _open_folder(text, path, columns) if path.is_dir() else _open_file(text, path, columns)


def _missing(text: str, path: Path) -> str:
    near = path.parent
    if not near.is_dir():
        return f"no images at '{text}': there is no folder '{near}' either; check the path."
    try:
        options = [entry.name for entry in itertools.islice(os.scandir(near), 1000) if not entry.name.startswith(".")]
    except OSError:
        options = []
    hint = did_you_mean(path.name, [*options, "digits"])
    if not hint.startswith("did"):
        hint = "give a folder, archive or array file, `hf:user/name`, `torchvision:Name`, or `digits`."
    return f"no images at '{text}': there is no such file or folder; {hint}"


def _open_folder(text: str, path: Path, columns: str) -> Source:
    try:
        direct = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
    except PermissionError:
        raise DataError(f"folder '{text}' may not be read: give yourself the permission, or move it.") from None
    if any(re.search(r"idx3[-.]?ubyte", name) for name in direct):
        from ectype.data.arrays import open_idx

        return open_idx(text, path)
    source = FolderSource(text, path)
    if not source.names and source.skipped[".parquet"]:
        from ectype.data.tables import ParquetSource

        return ParquetSource(text, path, columns)
    if not source.names and not source.refused:
        suffixes = ", ".join(f"{count} {suffix}" for suffix, count in source.skipped.most_common(3))
        found = f"only other files ({suffixes})" if suffixes else "nothing"
        raise DataError(f"no images in '{text}': found {found}; give a folder of {_SOME} files.")
    return source


_SOME = "JPEG, PNG, WebP, TIFF, GIF or BMP"


def _open_file(text: str, path: Path, columns: str) -> Source:
    name = path.name.lower()
    if name.endswith(".zip"):
        from ectype.data.archives import ZipSource

        return ZipSource(text, path)
    if re.search(r"\.(tar(\.(gz|bz2|xz))?|tgz|tbz2?|txz)$", name):
        from ectype.data.archives import TarSource

        return TarSource(text, path)
    if name.endswith((".npz", ".npy")):
        from ectype.data.arrays import open_numpy

        return open_numpy(text, path)
    if name.endswith(".parquet"):
        from ectype.data.tables import ParquetSource

        return ParquetSource(text, path, columns)
    if re.search(r"idx[13][-.]?ubyte", name):
        from ectype.data.arrays import open_idx

        return open_idx(text, path)
    if path.suffix.lower() in SUFFIXES:
        raise DataError(f"'{text}' is a single image: give the folder that holds many.")
    raise DataError(
        f"'{text}' is no kind of file that holds images: give a folder, .zip, .tar, .npz, .npy, .parquet or IDX file."
    )
