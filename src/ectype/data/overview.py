"""A picture of prepared images: each file with the part outlined that is kept, and what a model sees of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ectype.config.schema import DataConfig
from ectype.data.colors import parse_color
from ectype.data.decode import Spec
from ectype.data.image_file import LoadOptions, image_size
from ectype.data.packed_strings import read_strings
from ectype.data.picture_rows import RowTile, picture_of_rows, whole_image
from ectype.data.prepared import Prepared
from ectype.data.preview import interleave_targets, writing_file
from ectype.data.sources.base import TILE_SUFFIX, strip_tile_suffix

__all__ = ["save_overview"]

TILES_PER_LINE, LINES = 8, 8


def save_overview(prepared: Prepared, out: Path, config: DataConfig | None = None) -> None:
    """Write a picture of evenly spaced usable images, with their names, classes and targets.

    If the images are files of which a part is cut off, each file is shown as well, with the part outlined that is kept.

    Args:
        prepared: The images.
        out: The file.
        config: How they were prepared; without it, no files are shown.

    Raises:
        DataError: The file cannot be written.
    """
    info, target = prepared.info, prepared.info.target
    shown = 1 if target is None else 2
    usable = np.flatnonzero(prepared.split_ids)
    files = {} if config is None else _files(prepared, config, _spaced(usable, TILES_PER_LINE // (shown + 1) * LINES))
    shown += bool(files)
    per_line = TILES_PER_LINE // shown
    rows = _spaced(usable, per_line * LINES)
    pixels = _stored(prepared, rows)
    stored = [pixels] if target is None else _with_targets(pixels, info.channels, target.colours)
    names = read_strings(prepared.root).take(rows)
    items = []
    for i, row in enumerate(rows):
        label = "" if prepared.labels is None else info.classes[int(prepared.labels[row])]
        tiles = [RowTile(part[i]) for part in stored]
        if files:
            tiles.insert(0, files.get(int(row), RowTile(None)))
        tiles[0] = tiles[0]._replace(name=str(names[i]), value=label)
        items.append(tiles)
    headings = [*(["the file"] if files else []), "as models see it", *([] if target is None else ["its target"])]
    sheet = picture_of_rows(items, headings=headings if shown > 1 else (), items_per_line=per_line)
    with writing_file(out) as scratch:
        sheet.save(scratch)


def _spaced(usable: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return usable[np.unique(np.linspace(0, len(usable) - 1, count).astype(int))]


def _stored(prepared: Prepared, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    shards = [np.load(path, mmap_mode="r") for path in prepared.shards]
    starts = np.cumsum([0, *map(len, shards)])
    shard_index = [int(np.searchsorted(starts, row, side="right")) - 1 for row in rows]
    return np.stack([shards[i][row - starts[i]] for i, row in zip(shard_index, rows, strict=True)])


def _with_targets(
    pixels: NDArray[np.uint8], channels: int, colors: tuple[tuple[int, int, int], ...]
) -> list[NDArray[np.uint8]]:
    both = interleave_targets(pixels, channels, colors)
    return [both[::2], both[1::2]]


def _files(prepared: Prepared, config: DataConfig, rows: NDArray[np.int64]) -> dict[int, RowTile]:
    """Return row → whole file with the kept part outlined; nothing if all are kept whole, or are not files."""
    root = Path(str(config.source))
    if not root.is_dir():
        return {}
    spec = Spec(
        prepared.info.size,
        prepared.info.channels,
        config.resize_mode,
        parse_color(config.background),
        load=LoadOptions(config.max_pixels, config.value_range),
    )
    found: dict[int, RowTile] = {}
    for row, name in zip(rows.tolist(), read_strings(prepared.root).take(rows), strict=True):
        file = root / strip_tile_suffix(str(name))
        tile = whole_image(str(file), spec) if file.is_file() else None
        if tile is not None and TILE_SUFFIX.search(str(name)):
            tile = tile._replace(crop=_tile_box(str(name), file, spec))
        if tile is not None:
            found[row] = tile
    return found if any(tile.crop is not None for tile in found.values()) else {}


def _tile_box(name: str, file: Path, spec: Spec) -> tuple[float, float, float, float] | None:
    """Return the place of a tile in its image, as fractions."""
    size = image_size(str(file))
    if size is None:
        return None
    top, left = (int(part) for part in name.rpartition("#")[2].split(","))
    height, width = size
    bottom, right = min(height, top + spec.size[0]), min(width, left + spec.size[1])
    return (left / width, top / height, right / width, bottom / height)
