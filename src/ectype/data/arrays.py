"""Images that are arrays already: IDX and NumPy files.

Files are read front to back in blocks, compressed or not, so that memory does not grow with them.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np

from ectype.data.decode import reduce16
from ectype.data.names import Numbered
from ectype.data.raw import Raw
from ectype.data.sources import NONE, SPLITS, TEST, Listing, Source, natural, signature_of_files
from ectype.errors import DataError

__all__ = ["ArraySource", "Part", "open_idx", "open_numpy", "stream"]

File: TypeAlias = io.BufferedIOBase
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, ValueError)


@dataclass(frozen=True)
class Part:
    """Some images in one array: its shape, how to read it from the start, its labels and its split."""

    name: str
    shape: tuple[int, ...]
    """[n, h, w], [n, h, w, c] or [n, c, h, w]."""
    rows: Callable[[int], Iterator[np.ndarray]]
    """Blocks of so many images, from the first on."""
    labels: Callable[[], np.ndarray] | None = None
    side: int = NONE

    @property
    def channels_first(self) -> bool:
        return len(self.shape) == 4 and self.shape[3] not in (1, 3, 4)


class ArraySource(Source):
    """Images from one array or several."""

    decoded = True

    def __init__(self, text: str, location: str, signature: str, parts: Sequence[Part], classes: Sequence[str] = ()):
        super().__init__(text, location, signature)
        self.parts = parts
        self._classes = tuple(classes)

    def listing(self) -> Listing:
        names = Numbered([(part.name, part.shape[0]) for part in self.parts], headed=len(self.parts) > 1)
        if not len(names):
            raise DataError(f"no images in '{self.text}': its arrays are empty.")
        sides = np.concatenate([np.full(part.shape[0], part.side, np.uint8) for part in self.parts])
        labels, classes = self._labels()
        return Listing(names, sides, labels, classes)

    def _labels(self) -> tuple[np.ndarray | None, tuple[str, ...]]:
        readers = [part.labels for part in self.parts if part.labels is not None]
        if len(readers) < len(self.parts):
            return None, ()
        with self._reading():
            labels = np.concatenate([read() for read in readers])
        if self._classes and labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < len(self._classes):
            return labels.astype(np.int32), self._classes
        values, numbers = np.unique(labels, return_inverse=True)
        if len(values) < 2:
            return None, ()
        texts = [str(value) for value in values.tolist()]
        order = sorted(range(len(texts)), key=lambda i: natural(texts[i]))
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        return place[numbers], tuple(texts[i] for i in order)

    def _blocks(self, part: Part, size: int) -> Iterator[np.ndarray]:
        for block in part.rows(size):
            block = self._bytes(block, part)
            if block.ndim == 3:
                block = block[..., None]
            elif part.channels_first:
                block = block.transpose(0, 2, 3, 1)
            yield block

    def _bytes(self, block: np.ndarray, part: Part) -> np.ndarray:
        """Values as uint8."""
        if block.dtype == np.uint8:
            return block
        if block.dtype == bool:
            return block.astype(np.uint8) * np.uint8(255)
        low, high = block.min(initial=0), block.max(initial=0)
        if block.dtype.kind == "f":
            if not (low >= 0 and high <= 1):
                raise DataError(
                    f"'{part.name}' in '{self.text}' has values from {low:g} to {high:g}: floats must be in 0 to 1 "
                    "(else store uint8)."
                )
            return np.rint(block.astype(np.float32) * 255).astype(np.uint8)
        if block.dtype.kind == "u" and block.dtype.itemsize == 2:  # of either byte order
            self.deep += len(block)
            self.brightest = max(self.brightest, int(high))
            return reduce16(block)
        if low < 0 or high > 255:
            raise DataError(
                f"'{part.name}' in '{self.text}' has values from {low} to {high}: {block.dtype} pixels must be in 0 to "
                "255 (else store uint8 or uint16)."
            )
        return block.astype(np.uint8)

    def read(self) -> Iterator[Raw]:
        for block in self.chunks(64):
            yield from block

    def chunks(self, size: int) -> Iterator[Sequence[Raw] | np.ndarray]:
        # A chunk holds exactly `size` images, also where one array ends and the next begins, so that its place follows
        # from its number.
        self.deep = self.brightest = 0
        with self._reading():
            rest: list[np.ndarray] = []
            for part in self.parts:
                for block in self._blocks(part, size):
                    while len(block):
                        missing = size - sum(map(len, rest))
                        rest.append(block[:missing])
                        block = block[missing:]
                        if sum(map(len, rest)) == size:
                            yield _joined(rest)
                            rest = []
            if rest:
                yield _joined(rest)

    def sample(self, size: int) -> list[Raw]:
        with self._reading():
            return [image for part in self.parts for image in next(self._blocks(part, size), ())][:size]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise DataError(f"'{self.text}' is damaged or incomplete ({error}): fetch or write it again.") from None
        except OSError as error:
            raise DataError(f"'{self.text}' cannot be read ({error.strerror or error}).") from None


def _joined(blocks: Sequence[np.ndarray]) -> Sequence[Raw] | np.ndarray:
    """One block where shapes agree, else a list of images."""
    if len({block.shape[1:] for block in blocks}) > 1:
        return [image for block in blocks for image in block]
    return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]


def stream(
    open_file: Callable[[], contextlib.AbstractContextManager[File]],
    start: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Callable[[int], Iterator[np.ndarray]]:
    """Blocks of an array that lies in a file from a position on, in C order."""
    each = math.prod(shape[1:]) * dtype.itemsize

    def rows(size: int) -> Iterator[np.ndarray]:
        with open_file() as file:
            file.read(start)
            for first in range(0, shape[0], size):
                count = min(size, shape[0] - first)
                content = file.read(count * each)
                if len(content) < count * each:
                    raise EOFError(f"it ends after {first + len(content) // max(each, 1)} of {shape[0]} images")
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])

    return rows


# ── IDX ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _open_idx_file(path: Path) -> File:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else open(path, "rb")


def _idx_header(path: Path) -> tuple[int, ...]:
    """The shape in an IDX file of bytes."""
    try:
        with _open_idx_file(path) as file:
            magic = file.read(4)
            if len(magic) == 4 and magic[:3] == b"\0\0\x08" and magic[3] in (1, 3, 4):
                sizes = file.read(4 * magic[3])
                if len(sizes) == 4 * magic[3]:
                    return tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    except (*_DAMAGE, OSError) as error:
        raise DataError(f"IDX file '{path}' is damaged ({error}): fetch it again.") from None
    raise DataError(f"'{path}' is no IDX file of bytes: it should begin with 00 00 08; fetch it again.")


def _idx_part(path: Path, side: int) -> Part:
    shape = _idx_header(path)
    rows = stream(lambda: _open_idx_file(path), 4 + 4 * len(shape), shape, np.dtype(np.uint8))
    stem = re.sub(r"[-_.]?images[-_.]?idx\d[-.]?ubyte.*$", "", path.name)
    return Part(stem or path.name, shape, rows, _idx_labels(path, shape[0]), side)


def _idx_label_path(path: Path) -> Path | None:
    pattern = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    stem = pattern.removesuffix(".gz")
    options = (stem, stem + ".gz")
    return next((path.with_name(o) for o in options if o != path.name and path.with_name(o).exists()), None)


def _idx_labels(path: Path, count: int) -> Callable[[], np.ndarray] | None:
    beside = _idx_label_path(path)
    if beside is None:
        return None
    (length,) = shape = _idx_header(beside)
    if length != count:
        raise DataError(f"'{beside.name}' has {length} labels for {count} images in '{path.name}': fetch both again.")
    rows = stream(lambda: _open_idx_file(beside), 8, shape, np.dtype(np.uint8))
    return lambda: next(rows(max(count, 1)), np.empty(0, np.uint8))


def open_idx(text: str, path: Path) -> ArraySource:
    """One IDX file of images, or a folder of them; labels are found beside them.

    Raises:
        DataError: No images in the folder, a damaged file, or labels that do not fit.
    """
    if path.is_dir():
        found = sorted(path.glob("*idx[34]*ubyte*"))
        # MNIST is often unpacked beside its archives: one of the two will do.
        paths = [p for p in found if not (p.suffix == ".gz" and p.with_suffix("") in found)]
    elif "idx1" in path.name:
        raise DataError(f"'{text}' holds labels: give the file of images beside it, or their folder.")
    else:
        paths = [path]
    paths.sort(key=lambda p: _side_of(p.name) or TEST + 1)
    sides = [_side_of(p.name) if len(paths) > 1 else NONE for p in paths]
    parts = [_idx_part(p, side) for p, side in zip(paths, sides, strict=True)]
    files = [*paths, *filter(None, map(_idx_label_path, paths))]
    return ArraySource(text, str(path.resolve()), signature_of_files(files), parts)


def _side_of(name: str) -> int:
    """The split that a file's or array's name speaks of."""
    return next((SPLITS[word] for word in re.split(r"[^a-z0-9]+", name.lower()) if word in SPLITS), NONE)


# ── NumPy ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Array:
    """The header of a .npy, alone or in an .npz, and how to get at its rows."""

    def __init__(self, name: str, open_file: Callable[[], contextlib.AbstractContextManager[File]]) -> None:
        self.name = name
        self._open = open_file
        with open_file() as file:
            version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._fortran, self.dtype = read(file)  # type: ignore[arg-type]
            self._start = file.tell()

    def rows(self, size: int) -> Iterator[np.ndarray]:
        if not self._fortran:
            yield from stream(self._open, self._start, self.shape, self.dtype)(size)
            return
        whole = self.whole()  # columns first: a row is scattered over all of the file
        yield from (whole[i : i + size] for i in range(0, len(whole), size))

    def whole(self) -> np.ndarray:
        with self._open() as file:
            return np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[arg-type]


def open_numpy(text: str, path: Path) -> ArraySource:
    """Images in a `.npy` or `.npz`: the arrays [n, h, w], [n, h, w, c] or [n, c, h, w] of numbers.

    An `.npz` may hold several, whose names say their split (`x_train`, `test_images`), and labels of the same length.

    Raises:
        DataError: No such array, several without a split, or a damaged file.
    """
    try:
        if path.suffix.lower() == ".npy":
            arrays = [_Array(path.stem, lambda: path.open("rb"))]
        else:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.endswith(".npy")]
            arrays = [_Array(name.removesuffix(".npy"), _opener(path, name)) for name in members]
        arrays = [array for array in arrays if array.dtype.kind in "buif" and array.shape]
        parts = _numpy_parts(text, arrays)
    except (*_DAMAGE, OSError) as error:
        raise DataError(f"'{text}' is damaged or no NumPy file ({error}): write it again.") from None
    return ArraySource(text, str(path.resolve()), signature_of_files([path]), parts)


def _opener(path: Path, member: str) -> Callable[[], contextlib.AbstractContextManager[File]]:
    @contextlib.contextmanager
    def opener() -> Iterator[File]:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            yield cast(File, file)

    return opener


def _numpy_parts(text: str, arrays: Sequence[_Array]) -> list[Part]:
    images = [a for a in arrays if len(a.shape) == 3 or (len(a.shape) == 4 and {a.shape[1], a.shape[3]} & {1, 3, 4})]
    if not images:
        shapes = ", ".join(f"{a.name} {list(a.shape)}" for a in arrays) or "no arrays of numbers"
        raise DataError(f"no images in '{text}' ({shapes}): an array must be [n, h, w], [n, h, w, c] or [n, c, h, w].")
    sides = [_side_of(a.name) if len(images) > 1 else NONE for a in images]
    if len(set(sides)) < len(sides):
        names = ", ".join(a.name for a in images)
        raise DataError(
            f"several arrays of images in '{text}' ({names}): name them x_train, x_val and x_test, or keep one."
        )
    order = sorted(range(len(images)), key=lambda i: sides[i] or TEST + 1)
    return [
        Part(images[i].name, images[i].shape, images[i].rows, _numpy_labels(images[i], sides[i], arrays), sides[i])
        for i in order
    ]


def _numpy_labels(images: _Array, side: int, arrays: Sequence[_Array]) -> Callable[[], np.ndarray] | None:
    """The labels of an array of images: as long, of whole numbers, of the same split; None where that is not clear."""
    fits = [
        a
        for a in arrays
        if len(a.shape) in (1, 2) and a.shape[0] == images.shape[0] and (not side or _side_of(a.name) == side)
    ]
    whole = [a for a in fits if a.dtype.kind in "iub" and (len(a.shape) == 1 or a.shape[1] == 1)]
    named = [a for a in whole if re.search(r"(^|_)(y|labels?|targets?|class(es)?)(_|$)", a.name.lower())]
    for options in (named, whole):
        if len(options) == 1:
            return lambda chosen=options[0]: chosen.whole().reshape(-1).astype(np.int64)
    for array in fits:  # one-hot
        if len(array.shape) == 2 and array.shape[1] > 1:
            values = array.whole()
            if ((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all():
                return lambda: values.argmax(1)
    return None
