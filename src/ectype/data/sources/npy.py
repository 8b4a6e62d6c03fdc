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
    """The header of a .npy file, alone or in an .npz file, and access to its rows."""

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
        arrays = [array for array in arrays if array.dtype.kind in "buif" and array.shape]
        parts = _parts(text, arrays)
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
    images = [a for a in arrays if len(a.shape) == 3 or (len(a.shape) == 4 and {a.shape[1], a.shape[3]} & {1, 3, 4})]
    if not images:
        shapes = ", ".join(f"{a.name} {list(a.shape)}" for a in arrays) or "no numeric arrays"
        raise DataError(f"no images in '{text}' ({shapes}): an array must be [n, h, w], [n, h, w, c] or [n, c, h, w].")
    split_ids = [split_id_from_name(a.name) if len(images) > 1 else UNASSIGNED for a in images]
    if len(set(split_ids)) < len(split_ids):
        names = ", ".join(a.name for a in images)
        raise DataError(
            f"several arrays of images in '{text}' ({names}): name them x_train, x_val and x_test, or keep only one."
        )
    order = sorted(range(len(images)), key=lambda i: split_ids[i] or TEST + 1)
    return [
        ArrayPart(
            images[i].name,
            images[i].shape,
            images[i].read_blocks,
            _labels(images[i], split_ids[i], arrays),
            split_ids[i],
        )
        for i in order
    ]


def _labels(images: _NpyFile, split_id: int, arrays: Sequence[_NpyFile]) -> Callable[[], np.ndarray] | None:
    """Return how to read the labels of an array of images, or None if it is not clear which array they are.

    Labels are an integer array with as many rows, of the same split, or a one-hot array.
    """
    candidates = [
        a
        for a in arrays
        if len(a.shape) in (1, 2)
        and a.shape[0] == images.shape[0]
        and (not split_id or split_id_from_name(a.name) == split_id)
    ]
    integers = [a for a in candidates if a.dtype.kind in "iub" and (len(a.shape) == 1 or a.shape[1] == 1)]
    named = [a for a in integers if re.search(r"(^|_)(y|labels?|targets?|class(es)?)(_|$)", a.name.lower())]
    for options in (named, integers):
        if len(options) == 1:
            return lambda labels=options[0]: labels.read().reshape(-1).astype(np.int64)
    for array in candidates:  # one-hot
        if len(array.shape) == 2 and array.shape[1] > 1:
            values = array.read()
            if ((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all():
                return lambda: values.argmax(1)
    return None
