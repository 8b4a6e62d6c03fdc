"""What is remembered of splits, so that images that are added move no others: the split of each image.

A file for each source, preparation and `split` section lies in the cache, and stays when prepared images are removed.
It contains hashes of names. If it is missing, damaged or cannot be written, images are assigned as if they were seen
for the first time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ectype.core.errors import DataError
from ectype.data.array_file import read_arrays, write_arrays
from ectype.data.cache import entry_lock
from ectype.data.sources.base import TEST, TRAIN

__all__ = ["Remembered", "load_memory", "memory_lock", "save_memory"]


class Remembered(NamedTuple):
    """Images and their splits."""

    hashes: np.ndarray
    """[n] float64 hashes of names, which ascend."""
    split_ids: np.ndarray
    """[n] uint8: 1 train, 2 validation, 3 test."""

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """Return the split of each of these images, uint8; 0 for those that are not remembered."""
        if not len(self.hashes):
            return np.zeros(len(hashes), np.uint8)
        place = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        return np.where(self.hashes[place] == hashes, self.split_ids[place], 0).astype(np.uint8)

    def updated(self, hashes: np.ndarray, split_ids: np.ndarray) -> Remembered:
        """Return the memory with these images. Images that are gone are remembered, because they may come back."""
        # The first of equal hashes is kept.
        joined, index = np.unique(np.concatenate([hashes, self.hashes]), return_index=True)
        return Remembered(joined, np.concatenate([split_ids, self.split_ids])[index])


NOTHING = Remembered(np.zeros(0), np.zeros(0, np.uint8))


@contextlib.contextmanager
def memory_lock(file: Path) -> Iterator[None]:
    """Let one process at a time assign splits and remember them, where a lock can be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, DataError):
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(entry_lock(file))
        yield


def load_memory(file: Path) -> Remembered:
    """Return what is remembered; nothing if the file is missing or damaged."""
    arrays = read_arrays(file)
    if set(arrays) != {"hashes", "split_ids"}:
        return NOTHING
    found = Remembered(**arrays)
    is_sound = (
        found.hashes.dtype == np.float64
        and found.split_ids.dtype == np.uint8
        and found.hashes.shape == found.split_ids.shape == (found.hashes.size,)
        and bool((np.diff(found.hashes) > 0).all())
        and bool(((found.split_ids >= TRAIN) & (found.split_ids <= TEST)).all())
    )
    return found if is_sound else NOTHING


def save_memory(file: Path, memory: Remembered) -> None:
    """Write what is remembered, completely or not at all. In a cache that cannot be written, nothing is remembered."""
    write_arrays(file, **memory._asdict())
