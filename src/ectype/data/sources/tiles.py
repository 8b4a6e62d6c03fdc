"""Large images cut into tiles of the target size at full resolution. Nothing here imports PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from ectype.data.decode_pairs import orient_targets, split_halves
from ectype.data.image_file import image_size, multi_frame_kind
from ectype.data.raw_image import Pair, Raw, Rejected, SideBySide, Single, Tile, Unreadable
from ectype.data.sources.base import Listing, Source

__all__ = ["TiledSource", "cut_tiles"]

Box: TypeAlias = tuple[int, int, int, int]
"""Top, left, height, width."""


class TiledSource(Source):
    """The tiles of a source's images, row by row, named `name#top,left`.

    Tiles are evenly spaced from border to border, with the smallest overlap that covers the image. An image with a
    side shorter than a tile has one tile along that side, which is enlarged later. All tiles of an image are in one
    split.

    Args:
        source: The source of the images.
        size: Height and width of a tile.
    """

    def __init__(self, source: Source, size: tuple[int, int]) -> None:
        self.source, self.size = source, size
        self.decoded = source.decoded
        self.boxes: list[list[Box] | None] = []
        self.multi_frame_counts = Counter[str]()
        for raw in source.read():
            self.boxes.append(_tile_boxes(_cuttable_size(raw), size))
            if not isinstance(raw, Pair | SideBySide) and (kind := multi_frame_kind(raw)) is not None:
                self.multi_frame_counts[kind] += 1
        super().__init__(source.text, f"{source.location}#tiles", source.signature)

    @property
    def num_16_bit(self) -> int:
        """Number of 16-bit images that the source reduced; known once all are read."""
        return self.source.num_16_bit

    @property
    def max_16_bit_value(self) -> int:
        """Largest value of these images."""
        return self.source.max_16_bit_value

    def listing(self) -> Listing:
        images = self.source.listing()
        names: list[str] = []
        image_index: list[int] = []
        for i, (name, boxes) in enumerate(zip(images.names, self.boxes, strict=True)):
            names += [name] if boxes is None else [f"{name}#{top},{left}" for top, left, _, _ in boxes]
            image_index += [i] * (1 if boxes is None else len(boxes))
        index = np.array(image_index, np.int64)
        labels = None if images.labels is None else images.labels[index]
        note = f"{len(images.names):,} images cut into {len(names):,} tiles of {self.size[1]}×{self.size[0]}"
        return replace(
            images, names=names, split_ids=images.split_ids[index], labels=labels, notes=(*images.notes, note)
        )

    def read(self) -> Iterator[Raw]:
        for raw, boxes in zip(self.source.read(), self.boxes, strict=True):
            yield from [raw] if boxes is None else _iterate_tiles(raw, boxes)


def cut_tiles(raw: Raw, size: tuple[int, int]) -> list[Raw]:
    """Cut one image into tiles as a `TiledSource` does.

    Args:
        raw: The image or pair.
        size: Height and width of a tile.

    Returns:
        The tiles row by row, or the image itself if it cannot be read.
    """
    boxes = _tile_boxes(_cuttable_size(raw), size)
    return [raw] if boxes is None else list(_iterate_tiles(raw, boxes))


def _cuttable_size(raw: Raw) -> tuple[int, int] | None:
    """Return height and width, or None if the item cannot be cut; decoding will then report the reason."""
    try:
        pair = _as_pair(raw)
    except Rejected:
        return None
    if not isinstance(pair, Pair):
        return image_size(pair)
    sizes = {image_size(single) for single in (pair.image, *pair.targets) if single is not None}
    return sizes.pop() if len(sizes) == 1 else None


def _as_pair(raw: Raw) -> Single | Pair:
    """Return the halves of a file as a pair, and the targets of a pair as its image lies."""
    return orient_targets(split_halves(raw), is_stored=None) if isinstance(raw, Pair | SideBySide) else raw


def _tile_boxes(size: tuple[int, int] | None, tile_size: tuple[int, int]) -> list[Box] | None:
    if size is None:
        return None
    starts = []
    for image_side, tile_side in zip(size, tile_size, strict=True):
        count = max(1, -(-image_side // tile_side))
        last = max(0, image_side - tile_side)
        starts.append([round(i * last / max(1, count - 1)) for i in range(count)])
    height, width = min(size[0], tile_size[0]), min(size[1], tile_size[1])
    return [(top, left, height, width) for top in starts[0] for left in starts[1]]


def _iterate_tiles(raw: Raw, boxes: list[Box]) -> Iterator[Raw]:
    pair = _as_pair(raw)
    for box in boxes:
        if isinstance(pair, Pair):
            targets = tuple(None if target is None else _tile(target, box) for target in pair.targets)
            yield Pair(_tile(pair.image, box), targets)
        else:
            yield _tile(pair, box)


def _tile(raw: Single, box: Box) -> Single:
    if isinstance(raw, Unreadable):
        return raw
    top, left, height, width = box
    return Tile(raw.file, raw.top + top, raw.left + left, height, width) if isinstance(raw, Tile) else Tile(raw, *box)
