"""Many names in few bytes: the text of all in one array, the place where each ends in another.

A list of strings takes about a hundred bytes for each, more than some images; these take the names' own length and
eight, and can be mapped from files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

__all__ = ["Names", "Numbered", "read_names", "write_names"]

_TEXT, _ENDS = "names.npy", "name-ends.npy"
_PIECE = 1 << 14
"""Names handled at a time."""


class Names(Sequence[str]):
    """Strings kept as bytes, each ended by a NUL, which no path contains.

    Args:
        text: [bytes] uint8.
        ends: [n] where each name's NUL is.
        rows: Which of the names these are, in order; all if not given.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray, rows: np.ndarray | None = None) -> None:
        self._text, self._ends, self._rows = text, ends, rows

    def __len__(self) -> int:
        return len(self._ends if self._rows is None else self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Names: ...
    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = range(len(self))[index] if self._rows is None else int(self._rows[index])
        start = int(self._ends[row - 1]) + 1 if row else 0
        return self._text[start : int(self._ends[row])].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _PIECE):
            yield from self._piece(start).decode(errors="surrogateescape").split("\0")[:-1]

    def take(self, rows: np.ndarray) -> Names:
        """Some of these names."""
        return Names(self._text, self._ends, rows if self._rows is None else self._rows[rows])

    def pieces(self) -> Iterator[bytes]:
        """The names as bytes, NULs included, some thousands at a time."""
        return (self._piece(start) for start in range(0, len(self), _PIECE))

    def _piece(self, start: int) -> bytes:
        stop = min(start + _PIECE, len(self))
        if self._rows is None:
            return self._text[self._start(start) : self._start(stop)].tobytes()
        rows = self._rows[start:stop]
        if len(rows) == rows[-1] - rows[0] + 1 and (np.diff(rows) == 1).all():
            return self._text[self._start(int(rows[0])) : self._start(int(rows[-1]) + 1)].tobytes()
        return b"".join(self._text[self._start(row) : self._start(row + 1)].tobytes() for row in rows.tolist())

    def _start(self, row: int) -> int:
        return int(self._ends[row - 1]) + 1 if row else 0


class Numbered(Sequence[str]):
    """Names that are numbers under a heading each: train/00000, train/00001, …, test/00000, …

    Args:
        counts: Heading and how many; without headings if there is one part only.
        width: Digits, at least.
    """

    def __init__(self, counts: Sequence[tuple[str, int]], width: int = 5, *, headed: bool = True) -> None:
        self._counts, self._width, self._headed = counts, width, headed

    def __len__(self) -> int:
        return sum(count for _, count in self._counts)

    def _name(self, heading: str, number: int) -> str:
        return f"{heading}/{number:0{self._width}d}" if self._headed else f"{number:0{self._width}d}"

    def __iter__(self) -> Iterator[str]:
        return (self._name(heading, i) for heading, count in self._counts for i in range(count))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        for heading, count in self._counts:
            if index < count:
                return self._name(heading, index)
            index -= count
        raise IndexError(index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]


def write_names(place: Path, names: Sequence[str]) -> None:
    """Write names into a directory, some thousands at a time."""
    ends = np.lib.format.open_memmap(place / _ENDS, "w+", np.int64, (len(names),))
    with open(place / _TEXT, "wb") as file:
        _text_header(file, 0)
        first = position = 0
        remaining = iter(names)
        while piece := list(itertools.islice(remaining, _PIECE)):
            content = "".join(f"{name}\0" for name in piece).encode(errors="surrogateescape")
            found = np.flatnonzero(np.frombuffer(content, np.uint8) == 0)
            ends[first : first + len(piece)] = found + position
            first, position = first + len(piece), position + len(content)
            file.write(content)
        file.seek(0)
        _text_header(file, position)
    ends.flush()


def _text_header(file: object, length: int) -> None:
    """A header whose size does not depend on the length: NumPy leaves room for it to grow."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]


def read_names(place: Path) -> Names:
    """Names that were written into a directory, mapped. Raises `OSError` or `ValueError` where they are not."""
    return Names(np.load(place / _TEXT, mmap_mode="r"), np.load(place / _ENDS, mmap_mode="r"))
