"""Images in NumPy files: `.npy` and `.npz`."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from ectype.core.errors import DataError
from ectype.data.sources.array import (
    DAMAGE_ERRORS,
    MAX_DEFLATE_RATIO,
    ArrayPart,
    ArraySource,
    BinaryFile,
    block_reader,
    check_promised_size,
    split_id_from_name,
)
from ectype.data.sources.base import TEST, UNASSIGNED, signature_of_files

__all__ = ["open_numpy"]


class _NpyFile:
    """The header of a .npy file, alone or in an .npz file, and access to its rows.

    Args:
        name: The array's name.
        open_file: Opens the file from its start.
        available: Largest number of bytes that the file can hold, unpacked.
    """

    def __init__(
        self, name: str, open_file: Callable[[], contextlib.AbstractContextManager[BinaryFile]], available: int
    ) -> None:
        self.name = name
        self._open = open_file
        with open_file() as file:
            version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._fortran, self.dtype = read(file)  # type: ignore[arg-type]
            self._offset = file.tell()
        if not self.dtype.hasobject:
            check_promised_size(self.shape, self.dtype, available)

    def read_blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield blocks of `size` rows."""
        if not self._fortran:
            yield from block_reader(self._open, self._offset, self.shape, self.dtype)(size)
            return
        array = self.read()  # in Fortran order, a row is scattered over the complete file
        yield from (array[i : i + size] for i in range(0, len(array), size))

    def read(self) -> np.ndarray:
        """Return the complete array."""
        with self._open() as file:
            return np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[arg-type]


def open_numpy(text: str, path: Path) -> ArraySource:
    """Open the images in a `.npy` or `.npz` file: numeric arrays [n, h, w], [n, h, w, c] or [n, c, h, w].

    An `.npz` file may hold several of them, if their names state the split (`x_train`, `test_images`), and labels of
    the same length.

    Args:
        text: The source as the user wrote it.
        path: The file.

    Raises:
        DataError: There is no such array, several have no split or the same one, or the file is damaged.
    """
    try:
        if path.suffix.lower() == ".npy":
            arrays = [_NpyFile(path.stem, lambda: path.open("rb"), path.stat().st_size)]
        else:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            arrays = [
                _NpyFile(
                    member.filename.removesuffix(".npy"),
                    _member_opener(path, member.filename),
                    min(member.file_size, MAX_DEFLATE_RATIO * min(member.compress_size, path.stat().st_size)),
                )
                for member in members
            ]
        parts = _parts(text, [array for array in arrays if array.shape])
    except (*DAMAGE_ERRORS, OSError) as error:
        raise DataError(f"'{text}' is damaged or not a NumPy file ({error}): create it again.") from None
    return ArraySource(text, str(path.resolve()), signature_of_files([path]), parts)


def _member_opener(path: Path, member: str) -> Callable[[], contextlib.AbstractContextManager[BinaryFile]]:
    @contextlib.contextmanager
    def open_member() -> Iterator[BinaryFile]:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            yield cast(BinaryFile, file)

    return open_member


def _parts(text: str, arrays: Sequence[_NpyFile]) -> list[ArrayPart]:
    numeric = [a for a in arrays if a.dtype.kind in "buif"]
    images = [a for a in numeric if len(a.shape) == 3 or (len(a.shape) == 4 and {a.shape[1], a.shape[3]} & {1, 3, 4})]
    if not images:
        shapes = ", ".join(f"{a.name} {list(a.shape)}" for a in numeric) or "no numeric arrays"
        raise DataError(f"no images in '{text}' ({shapes}): an array must be [n, h, w], [n, h, w, c] or [n, c, h, w].")
    split_ids = [split_id_from_name(a.name) if len(images) > 1 else UNASSIGNED for a in images]
    if len(set(split_ids)) < len(split_ids):
        names = ", ".join(a.name for a in images)
        raise DataError(
            f"several arrays of images in '{text}' ({names}): name them x_train, x_val and x_test, or keep only one."
        )
    parts = []
    for i in sorted(range(len(images)), key=lambda i: split_ids[i] or TEST + 1):
        labels, note = _labels(images[i], split_ids[i], [a for a in arrays if a not in images])
        parts.append(
            ArrayPart(images[i].name, images[i].shape, images[i].read_blocks, labels, split_ids[i], label_note=note)
        )
    return parts


def _labels(images: _NpyFile, split_id: int, arrays: Sequence[_NpyFile]) -> tuple[Callable[[], np.ndarray] | None, str]:
    """Return how to read the labels of an array of images, or None and, if there could be some, why they are not used.

    Labels are integers, whole floats or text with as many rows, of the same split, or a one-hot array.
    """
    of_split = [a for a in arrays if not split_id or split_id_from_name(a.name) == split_id]
    named = [a for a in of_split if re.search(r"(^|_)(y|labels?|targets?|class(es)?)(_|$)", a.name.lower())]
    fitting = [a for a in of_split if a.shape[0] == images.shape[0] and len(a.shape) in (1, 2)]
    flat = [a for a in fitting if a.dtype.kind in "iubUS" and a.shape[1:] in ((), (1,))]
    for options in ([a for a in flat if a in named], flat):
        if len(options) == 1:
            return lambda labels=options[0]: _flat_labels(labels.read()), ""
    for array in (a for a in fitting if a.dtype.kind in "biuf"):
        values = array.read()
        if values.ndim == 2 and values.shape[1] > 1 and _is_one_hot(values):
            return lambda values=values: values.argmax(1), ""
        if array in named and values.size == len(values) and (np.mod(values, 1) == 0).all():
            return lambda values=values: _flat_labels(values), ""
    names = ", ".join(a.name for a in flat)
    if flat:
        return None, f"{names} could be the labels of {images.name}: call one of them y, or keep only one"
    return None, "; ".join(_why_unused(array, images) for array in named)


def _is_one_hot(values: np.ndarray) -> bool:
    return bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())


def _flat_labels(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(-1)
    return flat.astype(np.str_ if flat.dtype.kind in "US" else np.int64)


def _why_unused(array: _NpyFile, images: _NpyFile) -> str:
    if array.shape[0] != images.shape[0]:
        return f"{array.name} has {array.shape[0]:,} rows, {images.name} has {images.shape[0]:,} images"
    if array.dtype.kind == "O":
        return f"{array.name} holds Python objects, which are not read: save it as integers or text"
    kind = f"{array.name} [{', '.join(map(str, array.shape))}] {array.dtype}"
    return f"{kind} does not hold one class of each image: save class indices, text or one-hot rows"
