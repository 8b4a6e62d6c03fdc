"""Many strings in little memory: all text in one array, and the end of each string in another.

A list of Python strings takes about a hundred bytes for each, more than some images. These take the length of the text
and eight bytes, and can be mapped from files. An Arrow array would do the same, but importing pyarrow takes 5% of the
time in which prepared images are found, and 44 MB of memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, overload

import numpy as np

__all__ = ["NumberedStrings", "PackedStrings", "read_strings", "write_strings"]

_TEXT_FILE, _ENDS_FILE = "names.npy", "name-ends.npy"
_STRINGS_PER_BLOCK = 1 << 13


class PackedStrings(Sequence[str]):
    """Strings stored as bytes, each ended by a NUL, which no path contains.

    Args:
        text: [bytes] uint8.
        ends: [n] position of the NUL of each string.
        rows: Which of the strings to use, in order; None for all.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray, rows: np.ndarray | None = None) -> None:
        self._text, self._ends, self._rows = text, ends, rows

    def __len__(self) -> int:
        return len(self._ends if self._rows is None else self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PackedStrings: ...
    def __getitem__(self, index: int | slice) -> str | PackedStrings:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = range(len(self))[index] if self._rows is None else int(self._rows[index])
        return self._text[self._start(row) : int(self._ends[row])].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for block in self.blocks():
            yield from block.decode(errors="surrogateescape").split("\0")[:-1]

    def take(self, rows: np.ndarray) -> PackedStrings:
        """Return the strings at these positions, without copying text."""
        return PackedStrings(self._text, self._ends, rows if self._rows is None else self._rows[rows])

    def blocks(self) -> Iterator[bytes]:
        """Yield the strings as bytes with their NULs, some thousands at a time."""
        return (self._block(start) for start in range(0, len(self), _STRINGS_PER_BLOCK))

    def _block(self, start: int) -> bytes:
        stop = min(start + _STRINGS_PER_BLOCK, len(self))
        if self._rows is None:
            return self._text[self._start(start) : self._start(stop)].tobytes()
        rows = self._rows[start:stop]
        if (np.diff(rows) == 1).all():
            return self._text[self._start(int(rows[0])) : self._start(int(rows[-1]) + 1)].tobytes()
        starts = np.where(rows > 0, self._ends[rows - 1] + 1, 0)
        lengths = self._ends[rows] + 1 - starts
        # Position of each byte in the text: counted on from the start of its string.
        offsets = np.cumsum(lengths) - lengths
        positions = np.arange(lengths.sum()) + np.repeat(starts - offsets, lengths)
        return self._text[positions].tobytes()

    def _start(self, row: int) -> int:
        return int(self._ends[row - 1]) + 1 if row else 0


class NumberedStrings(Sequence[str]):
    """Numbers with a prefix: train/00000, train/00001, …, test/00000, …

    Args:
        counts: Prefixes, and how many strings have each.
        width: Minimum number of digits.
        with_prefix: Whether strings have their prefix; only if there is one, they may go without.
    """

    def __init__(self, counts: Sequence[tuple[str, int]], width: int = 5, *, with_prefix: bool = True) -> None:
        self._counts, self._width, self._with_prefix = counts, width, with_prefix

    def __len__(self) -> int:
        return sum(count for _, count in self._counts)

    def _string(self, prefix: str, number: int) -> str:
        return f"{prefix}/{number:0{self._width}d}" if self._with_prefix else f"{number:0{self._width}d}"

    def __iter__(self) -> Iterator[str]:
        return (self._string(prefix, i) for prefix, count in self._counts for i in range(count))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        for prefix, count in self._counts:
            if index < count:
                return self._string(prefix, index)
            index -= count
        raise IndexError(index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]


def write_strings(folder: Path, strings: Sequence[str]) -> None:
    """Write strings to a folder, some thousands at a time."""
    ends = np.lib.format.open_memmap(folder / _ENDS_FILE, "w+", np.int64, (len(strings),))
    with open(folder / _TEXT_FILE, "wb") as file:
        _write_text_header(file, 0)
        first = position = 0
        remaining = iter(strings)
        while block := list(itertools.islice(remaining, _STRINGS_PER_BLOCK)):
            content = "".join(f"{string}\0" for string in block).encode(errors="surrogateescape")
            nul_positions = np.flatnonzero(np.frombuffer(content, np.uint8) == 0)
            ends[first : first + len(block)] = nul_positions + position
            first, position = first + len(block), position + len(content)
            file.write(content)
        file.seek(0)
        _write_text_header(file, position)
    ends.flush()


def _write_text_header(file: IO[bytes], length: int) -> None:
    """Write a header whose size does not depend on the length, since NumPy reserves space for it to grow."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]


def read_strings(folder: Path) -> PackedStrings:
    """Map the strings that `write_strings` wrote to a folder.

    Raises:
        OSError: There are none.
        ValueError: The files are damaged.
    """
    return PackedStrings(np.load(folder / _TEXT_FILE, mmap_mode="r"), np.load(folder / _ENDS_FILE, mmap_mode="r"))
