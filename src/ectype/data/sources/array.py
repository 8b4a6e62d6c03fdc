"""The source for images that are stored as arrays: IDX and NumPy files, and datasets of packages.

Arrays are read from front to back in blocks, compressed or not, so that memory does not grow with their size.
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
from typing import TypeAlias

import numpy as np

from ectype.core.errors import DataError
from ectype.data.bit_depth import reduce_16_to_8_bits, scale_to_8_bits
from ectype.data.packed_strings import NumberedStrings
from ectype.data.raw_image import Raw
from ectype.data.sources.base import (
    MAX_ENCODED_BYTES,
    SPLIT_FOLDERS,
    UNASSIGNED,
    Listing,
    Source,
    natural_sort_key,
    same_name_key,
)

__all__ = [
    "DAMAGE_ERRORS",
    "MAX_DEFLATE_RATIO",
    "ArrayPart",
    "ArraySource",
    "BinaryFile",
    "block_reader",
    "check_promised_size",
    "split_id_from_name",
]

BinaryFile: TypeAlias = io.BufferedIOBase
DAMAGE_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, ValueError)
"""What reading a damaged file may raise, besides OSError."""
IMAGES_PER_BLOCK = 64
MAX_DEFLATE_RATIO = 1032
"""A byte that is compressed by gzip or zip stands for at most this many."""


@dataclass(frozen=True)
class ArrayPart:
    """Images in one array: its shape, how to read it from the start, its labels and its split."""

    name: str
    shape: tuple[int, ...]
    """[n, h, w], [n, h, w, c] or [n, c, h, w]."""
    read_blocks: Callable[[int], Iterator[np.ndarray]]
    """Yields all images in blocks of the given number of images."""
    labels: Callable[[], np.ndarray] | None = None
    split_id: int = UNASSIGNED
    label_note: str = ""
    """Why labels that seem to be there are not used."""

    @property
    def channels_first(self) -> bool:
        """Whether the shape is [n, c, h, w]."""
        return len(self.shape) == 4 and self.shape[3] not in (1, 3, 4)


class ArraySource(Source):
    """Images from one or more arrays."""

    decoded = True

    def __init__(
        self, text: str, location: str, signature: str, parts: Sequence[ArrayPart], classes: Sequence[str] = ()
    ) -> None:
        super().__init__(text, location, signature)
        self.parts = parts
        self._classes = tuple(classes)

    def listing(self) -> Listing:
        names = NumberedStrings([(part.name, part.shape[0]) for part in self.parts], with_prefix=len(self.parts) > 1)
        if not len(names):
            raise DataError(f"no images in '{self.text}': its arrays are empty.")
        split_ids = np.concatenate([np.full(part.shape[0], part.split_id, np.uint8) for part in self.parts])
        labels, classes, why_unused = self._labels()
        notes = (f"labels are not used: {why_unused}",) if why_unused else ()
        return Listing(names, split_ids, labels, classes, notes=notes)

    def _labels(self) -> tuple[np.ndarray | None, tuple[str, ...], str]:
        """Return class indices, class names, and why labels that are there are not used."""
        readers = [part.labels for part in self.parts if part.labels is not None]
        if len(readers) < len(self.parts):
            reasons = [part.label_note for part in self.parts if part.label_note]
            missing = ", ".join(part.name for part in self.parts if part.labels is None)
            return None, (), "; ".join(reasons) or (f"{missing} has none" if readers else "")
        with self._reading():
            labels = np.concatenate([read() for read in readers])
        if self._classes and labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < len(self._classes):
            return labels.astype(np.int32), self._classes, ""
        if labels.dtype.kind == "U":
            labels = np.array([same_name_key(label) for label in labels.tolist()])
        values, value_index = np.unique(labels, return_inverse=True)
        if len(values) < 2:
            return None, (), f"all images have the same one, {values[0]}" if len(values) else ""
        texts = [str(value) for value in values.tolist()]
        order = sorted(range(len(texts)), key=lambda i: natural_sort_key(texts[i]))
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        return rank[value_index], tuple(texts[i] for i in order), ""

    def _blocks(self, part: ArrayPart, size: int) -> Iterator[np.ndarray]:
        """Yield uint8 blocks [k, h, w, c]."""
        for block in part.read_blocks(size):
            block = self._to_uint8(block, part)
            if block.ndim == 3:
                block = block[..., None]
            elif part.channels_first:
                block = block.transpose(0, 2, 3, 1)
            yield block

    def _to_uint8(self, block: np.ndarray, part: ArrayPart) -> np.ndarray:
        if block.dtype == bool:
            return block.astype(np.uint8) * np.uint8(255)
        is_8_bit = block.dtype == np.uint8
        if is_8_bit and (self.value_range is None or self.value_range[1] > 255):
            return block
        low, high = block.min(initial=0), block.max(initial=0)
        is_16_bit = block.dtype.kind == "u" and block.dtype.itemsize == 2  # of either byte order
        if is_16_bit:
            self.num_16_bit += len(block)
            self.max_16_bit_value = max(self.max_16_bit_value, int(high))
        if self.value_range is not None and (block.dtype.kind != "f" or np.isfinite(block).all()):
            return scale_to_8_bits(block, self.value_range)
        if block.dtype.kind == "f":
            if not (low >= 0 and high <= 1):
                raise DataError(
                    f"'{part.name}' in '{self.text}' has values from {low:g} to {high:g}: floats must be between 0 and "
                    "1; set data.value_range to the values that are black and white, or store uint8."
                )
            return np.rint(block.astype(np.float32) * 255).astype(np.uint8)
        if is_16_bit:
            return reduce_16_to_8_bits(block)
        if low < 0 or high > 255:
            raise DataError(
                f"'{part.name}' in '{self.text}' has values from {low} to {high}: {block.dtype} pixels must be between "
                "0 and 255; set data.value_range to the values that are black and white, or store uint8 or uint16."
            )
        return block.astype(np.uint8)

    def read(self) -> Iterator[Raw]:
        for block in self.batches(IMAGES_PER_BLOCK):
            yield from block

    def batches(self, size: int) -> Iterator[Sequence[Raw] | np.ndarray]:
        # Each batch has exactly `size` images, also where one array ends and the next begins: the position of a batch
        # follows from its index.
        self.num_16_bit = self.max_16_bit_value = 0
        with self._reading():
            pending: list[np.ndarray] = []
            for part in self.parts:
                for block in self._blocks(part, size):
                    while len(block):
                        missing = size - sum(map(len, pending))
                        pending.append(block[:missing])
                        block = block[missing:]
                        if sum(map(len, pending)) == size:
                            yield _join_blocks(pending)
                            pending = []
            if pending:
                yield _join_blocks(pending)

    def sample(self, size: int) -> list[Raw]:
        with self._reading():
            return [image for part in self.parts for image in next(self._blocks(part, size), ())][:size]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except DAMAGE_ERRORS as error:
            raise DataError(f"'{self.text}' is damaged or incomplete ({error}): download or create it again.") from None
        except OSError as error:
            raise DataError(
                f"'{self.text}' cannot be read ({error.strerror or error}): check the file and its permissions."
            ) from None


def _join_blocks(blocks: Sequence[np.ndarray]) -> Sequence[Raw] | np.ndarray:
    """Return one block if all images have the same shape, else a list of images."""
    if len({block.shape[1:] for block in blocks}) > 1:
        return [image for block in blocks for image in block]
    return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]


def check_promised_size(shape: tuple[int, ...], dtype: np.dtype, available: int) -> None:
    """Check, before memory is allocated, that a file can hold the array that its header promises.

    Args:
        shape: Shape of the array.
        dtype: Type of its elements.
        available: Largest number of bytes that the file can hold, unpacked.

    Raises:
        EOFError: It cannot, or an image is larger than any that is read.
    """
    promised = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or promised > available:
        raise EOFError(f"its header promises {list(shape)} values of {dtype}, more than the file can hold")
    if len(shape) > 2 and promised // max(shape[0], 1) > MAX_ENCODED_BYTES:
        raise EOFError(f"an image of {list(shape[1:])} values is larger than {MAX_ENCODED_BYTES >> 20} MiB")


def block_reader(
    open_file: Callable[[], contextlib.AbstractContextManager[BinaryFile]],
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Callable[[int], Iterator[np.ndarray]]:
    """Return a function that yields an array in blocks of the given number of rows.

    Args:
        open_file: Opens the file from its start.
        offset: Bytes before the array.
        shape: Shape of the array.
        dtype: Type of the array, which is stored in C order.
    """
    bytes_per_row = math.prod(shape[1:]) * dtype.itemsize

    def read_blocks(size: int) -> Iterator[np.ndarray]:
        with open_file() as file:
            file.read(offset)
            for first in range(0, shape[0], size):
                count = min(size, shape[0] - first)
                content = file.read(count * bytes_per_row)
                if len(content) < count * bytes_per_row:
                    complete = first + len(content) // max(bytes_per_row, 1)
                    raise EOFError(f"it ends after {complete} of {shape[0]} images")
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])

    return read_blocks


def split_id_from_name(name: str) -> int:
    """Return the split that the name of a file or array contains as a word, or `UNASSIGNED`."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), UNASSIGNED)
