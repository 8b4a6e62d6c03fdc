"""The interface of image sources, and helpers that all of them share.

A source lists its items (names, labels, splits) and yields their raw content in that order, batch by batch; it never
decodes. Nothing here imports PyTorch.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np

from ectype.data.raw_image import Raw

__all__ = [
    "Listing",
    "Source",
    "infer_labels_and_splits",
    "natural_sort_key",
    "same_name_key",
    "strip_tile_suffix",
    "unsupported_notes",
    "unsupported_reason",
]

# Split ids, as they are stored with prepared images. UNASSIGNED: the source does not name a split.
UNASSIGNED, TRAIN, VAL, TEST = 0, 1, 2, 3
SPLIT_IDS = {"train": TRAIN, "val": VAL, "test": TEST}
SPLIT_FOLDERS = {"train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL}
SPLIT_FOLDERS |= {"test": TEST, "testing": TEST, "t10k": TEST}

IMAGE_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif"),
        *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".mpo"),
    ]
)
_PHOTO, _RAW = "`magick mogrify -format jpg` (ImageMagick)", "darktable-cli, RawTherapee or the package rawpy"
_DRAWING, _MEDICAL = "`magick mogrify -format png` (ImageMagick)", "the packages pydicom or nibabel"
UNSUPPORTED_SUFFIXES: Mapping[str, str] = {
    ".svg": "Inkscape, rsvg-convert or the package cairosvg",
    ".eps": "Ghostscript or Inkscape",
    ".heic": f"{_PHOTO} or the package pillow-heif",
    ".heif": f"{_PHOTO} or the package pillow-heif",
    ".jxl": "djxl (libjxl) or the package pillow-jxl-plugin",
    **dict.fromkeys((".psd", ".xcf", ".tga", ".ico", ".exr", ".hdr"), _DRAWING),
    **dict.fromkeys((".dcm", ".nii"), _MEDICAL),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf"), _RAW),
}
"""Image formats that cannot be read here, and what converts them. Files are rejected by name, so that users learn why
they are missing."""
IMAGE_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|RIFF....WEBP|P[1-6]\s|\0\0\0\x0cjP|....ftypavi[fs]", re.DOTALL
)
"""First bytes of image files."""
MAGIC_BYTES = 16
"""Bytes to read in order to match `IMAGE_MAGIC`."""
TILE_SUFFIX = re.compile(r"#\d+,\d+$")
"""End of the name of a tile: its top and left in the image."""
MAX_ENCODED_BYTES = 256 << 20
"""Encoded images in archives that have more bytes are rejected, as a protection against zip bombs."""


@dataclass(frozen=True)
class Listing:
    """What a source knows about its items without decoding them.

    Attributes:
        names: [n] unique names, in the source's order.
        split_ids: [n] uint8 split of each item: 0 unassigned, 1 train, 2 validation, 3 test.
        labels: [n] int32 class indices; None without classes.
        classes: Class names.
        refused: (name, reason) of items that are never read.
        skipped: Number of other files by suffix.
        notes: Messages for the user, one line each.
    """

    names: Sequence[str]
    split_ids: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


class Source(ABC):
    """A set of images in a fixed order.

    Attributes:
        text: The source as the user wrote it.
        location: Identifies the source on this machine, for instance by an absolute path.
        signature: Hash of names, sizes and times. Prepared images are valid as long as it does not change.
        decoded: Whether items are pixels already, so that decoding in other processes would gain nothing.
        num_16_bit: Number of images that the source itself reduced from 16 to 8 bits; known once all are read.
        max_16_bit_value: Largest value of these images, before they were reduced.
        multi_frame_counts: Number of paged and of animated files, if items are parts of files. Other sources leave
            this to decoding.
        value_range: The values that become 0 and 255 where the source itself yields pixels; None for the range of their
            type. Set before the items are read.
    """

    decoded = False
    num_16_bit = 0
    max_16_bit_value = 0
    multi_frame_counts: Mapping[str, int] = MappingProxyType({})
    value_range: tuple[float, float] | None = None

    def __init__(self, text: str, location: str, signature: str) -> None:
        self.text = text
        self.location = location
        self.signature = signature

    @abstractmethod
    def listing(self) -> Listing:
        """List all items.

        Raises:
            DataError: There are no items, or they cannot be listed.
        """

    @abstractmethod
    def read(self) -> Iterator[Raw]:
        """Yield the content of each item, in the listing's order."""

    def batches(self, size: int) -> Iterator[Sequence[Raw] | np.ndarray]:
        """Yield the content of `size` items at a time: a list, or an array [k, h, w, c] if all have the same shape."""
        items = self.read()
        while batch := list(itertools.islice(items, size)):
            yield batch

    def sample(self, size: int) -> list[Raw]:
        """Return some items: evenly spaced if items can be read separately, else the first ones."""
        return list(itertools.islice(self.read(), size))


def same_name_key(text: str) -> str:
    """Return a form of a name that is equal for all Unicode forms of the same text (NFC).

    macOS writes `é` as two characters, other systems as one, and copies between them mix both.

    >>> same_name_key("cafe\u0301") == same_name_key("caf\u00e9")
    True
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def natural_sort_key(text: str) -> tuple[str | int, ...]:
    """Return a sort key that orders numbers by value, so that slice-9 precedes slice-10."""
    # re.split alternates text and digits. The pattern has ASCII digits only, since int() rejects some of str.isdigit().
    return tuple(int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", text)))


def _distinct_folders(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the folders of each item without the leading ones that all share (archives often have a root folder)."""
    folders = [tuple(name.split("/")[:-1]) for name in names]
    # A prefix that the first and the last in sorted order share is shared by all.
    ends = zip(min(folders), max(folders), strict=False) if folders else ()
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1] and pair[0].lower() not in SPLIT_FOLDERS, ends)
    depth = sum(1 for _ in shared)
    return [parts[depth:] for parts in folders]


def infer_labels_and_splits(names: Sequence[str]) -> Listing:
    """Infer labels and splits from folder names.

    - Leading folders that all images share are ignored.
    - The first folders are splits if all of them are named train, val, valid, validation, dev, test or t10k. If there
      is a folder `bus` next to `train`, `train` is a class. The second folders are splits if every image lies in one
      with such a name, there are at least two splits, and each first folder has training images: `cats/train`,
      `cats/test`, `dogs/train`, …
    - The first other folder is the class, if every image lies in one and there are at least two.

    Args:
        names: Paths of the images, with forward slashes.

    Returns:
        The listing, with notes on folders that look like splits or classes but are not used as such.
    """
    folders = _distinct_folders([same_name_key(name) for name in names])
    split_ids, notes = np.zeros(len(names), np.uint8), []
    for level in (0, 1):
        found = [parts[level].lower() if len(parts) > level else "" for parts in folders]
        others = sorted({name for name in found if name not in SPLIT_FOLDERS}, key=natural_sort_key)
        splits = {SPLIT_FOLDERS[name] for name in found if name in SPLIT_FOLDERS}
        with_training = {
            parts[0] for parts, name in zip(folders, found, strict=True) if SPLIT_FOLDERS.get(name) == TRAIN
        }
        all_at_top = level == 0 and others in ([], [""]) and splits
        if all_at_top or (not others and len(splits) > 1 and with_training == {parts[0] for parts in folders}):
            split_ids = np.array([SPLIT_FOLDERS.get(name, UNASSIGNED) for name in found], np.uint8)
            folders = [parts[:level] + parts[level + 1 :] for parts in folders]
            notes = ["splits: the folders train, val or test within each class"] if level else []
            break
        if len(splits) > 1 and others not in ([], [""]):
            neighbors = " and ".join(f"'{name}'" for name in others[:2] if name) + (" …" if len(others) > 2 else "")
            notes.append(
                f"folders named like splits are not used as splits because of {neighbors} next to them: use a folder "
                "that has split folders only"
            )
    class_folders = [parts[0] if parts else None for parts in folders]
    classes = sorted({name for name in class_folders if name is not None}, key=natural_sort_key)
    if len(classes) < 2:
        return Listing(names, split_ids, notes=tuple(notes))
    if outside := class_folders.count(None):
        note = f"folders are not used as classes: {outside} of {len(names)} images are outside of them"
        return Listing(names, split_ids, notes=(*notes, note))
    index = {name: i for i, name in enumerate(classes)}
    labels = np.fromiter((index[name] for name in class_folders if name is not None), np.int32, len(names))
    return Listing(names, split_ids, labels, tuple(classes), notes=tuple(notes))


def strip_tile_suffix(name: str) -> str:
    """Return the name of the image that a tile was cut from; other names are returned unchanged."""
    return TILE_SUFFIX.sub("", name)


def classify_filename(name: str) -> str:
    """Classify a file by its name: image, unsupported, ignored, unknown (without suffix) or other."""
    parts = PurePosixPath(name).parts
    if any(part.startswith((".", "__MACOSX")) for part in parts) or parts[-1] in ("Thumbs.db", "desktop.ini"):
        return "ignored"
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "unsupported" if suffix in UNSUPPORTED_SUFFIXES else "other" if suffix else "unknown"


def unsupported_reason(name: str) -> str:
    """Return why a file whose name is classified as `unsupported` is rejected."""
    return f"{_UNSUPPORTED} ({PurePosixPath(name).suffix.lower()})"


_UNSUPPORTED = "format not supported"


def unsupported_notes(refused: Iterable[tuple[str, str]]) -> list[str]:
    """Return a note for each format among rejected files that cannot be read: how many, and what converts them."""
    counts = Counter(PurePosixPath(name).suffix.lower() for name, why in refused if why.startswith(_UNSUPPORTED))
    return [
        f"{suffix} files cannot be read ({count:,}): convert them to PNG or JPEG, for example with "
        f"{UNSUPPORTED_SUFFIXES[suffix]}"
        for suffix, count in counts.most_common()
    ]


class Signature:
    """Hash of names, sizes and times that does not depend on their order and stores none of them."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, name: str, size: int, time: int) -> None:
        """Add a file: its name, its bytes, and its modification time in ns."""
        text = f"{name}\0{size}\0{time}".encode(errors="surrogateescape")
        self._sum += int.from_bytes(hashlib.blake2b(text, digest_size=32).digest(), "big")

    @property
    def text(self) -> str:
        """The hash as 64 hexadecimal digits."""
        return f"{self._sum % (1 << 256):064x}"


def signature_of(entries: Iterable[tuple[str, int, int]]) -> str:
    """Return a hash of names, sizes and times, in any order."""
    signature = Signature()
    for entry in entries:
        signature.add(*entry)
    return signature.text


def signature_of_files(paths: Iterable[Path]) -> str:
    """Return a hash of the names, sizes and times of files."""
    return signature_of((path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths)


def evenly_spaced_positions(length: int, size: int) -> list[int]:
    """Return at most `size` positions, evenly spaced over `length`."""
    return sorted({i * length // size for i in range(size)}) if length else []
