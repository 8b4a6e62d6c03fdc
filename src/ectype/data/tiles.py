"""Large images cut into parts of the wanted size, at full resolution, so that nothing is thrown away. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from ectype.data.decode import Rejected, several_of, size_of
from ectype.data.decode_pairs import parted
from ectype.data.raw import Halves, Pair, Raw, Single, Tile, Unreadable
from ectype.data.sources import Listing, Source

__all__ = ["TiledSource", "cut"]

Box: TypeAlias = tuple[int, int, int, int]
"""Top, left, height, width."""


class TiledSource(Source):
    """The parts of a source's images, row by row, named `name#top,left`.

    They lie evenly from border to border and overlap as little as that allows. An image with a shorter side is one
    part, enlarged later. Parts of one image stay in one split.
    """

    def __init__(self, source: Source, size: tuple[int, int]) -> None:
        self.source, self.size = source, size
        self.decoded = source.decoded
        self.boxes: list[list[Box] | None] = []
        self.several = Counter[str]()
        for raw in source.read():
            self.boxes.append(_boxes(_size(raw), size))
            if not isinstance(raw, Pair | Halves) and (kind := several_of(raw)) is not None:
                self.several[kind] += 1
        super().__init__(source.text, f"{source.location}#tiles", source.signature)

    @property
    def deep(self) -> int:
        """Images of 16 bits that the source reduced, known once all are read."""
        return self.source.deep

    @property
    def brightest(self) -> int:
        """Their largest value."""
        return self.source.brightest

    def listing(self) -> Listing:
        whole = self.source.listing()
        names, places = [], []
        for place, (name, boxes) in enumerate(zip(whole.names, self.boxes, strict=True)):
            names += [name] if boxes is None else [f"{name}#{top},{left}" for top, left, _, _ in boxes]
            places += [place] * (1 if boxes is None else len(boxes))
        index = np.array(places, np.int64)
        labels = None if whole.labels is None else whole.labels[index]
        note = f"{len(whole.names):,} images cut into {len(names):,} parts of {self.size[1]}×{self.size[0]}"
        return replace(whole, names=names, sides=whole.sides[index], labels=labels, notes=(*whole.notes, note))

    def read(self) -> Iterator[Raw]:
        for raw, boxes in zip(self.source.read(), self.boxes, strict=True):
            yield from [raw] if boxes is None else _cut(raw, boxes)


def cut(raw: Raw, size: tuple[int, int]) -> list[Raw]:
    """The parts of one image, as a `TiledSource` has them; itself where it cannot be cut."""
    boxes = _boxes(_size(raw), size)
    return [raw] if boxes is None else list(_cut(raw, boxes))


def _size(raw: Raw) -> tuple[int, int] | None:
    """Height and width of what can be cut; None where it cannot, and decoding says why."""
    try:
        pair = parted(raw) if isinstance(raw, Halves) else raw
    except Rejected:
        return None
    if not isinstance(pair, Pair):
        return size_of(pair)
    sizes = {size_of(each) for each in (pair.image, *pair.targets) if each is not None}
    return sizes.pop() if len(sizes) == 1 else None


def _boxes(size: tuple[int, int] | None, wanted: tuple[int, int]) -> list[Box] | None:
    if size is None:
        return None
    starts = []
    for side, tile in zip(size, wanted, strict=True):
        count = max(1, -(-side // tile))
        last = max(0, side - tile)
        starts.append([round(i * last / max(1, count - 1)) for i in range(count)])
    height, width = min(size[0], wanted[0]), min(size[1], wanted[1])
    return [(top, left, height, width) for top in starts[0] for left in starts[1]]


def _cut(raw: Raw, boxes: list[Box]) -> Iterator[Raw]:
    pair = parted(raw) if isinstance(raw, Halves) else raw
    for box in boxes:
        if isinstance(pair, Pair):
            targets = tuple(None if target is None else _tile(target, box) for target in pair.targets)
            yield Pair(_tile(pair.image, box), targets)
        else:
            yield _tile(pair, box)


def _tile(raw: Single, box: Box) -> Single:
    return raw if isinstance(raw, Unreadable | Tile) else Tile(raw, *box)
