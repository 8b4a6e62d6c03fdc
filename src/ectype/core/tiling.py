"""Apply a function that needs images of a fixed size to an image of any size, in overlapping tiles that are blended."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

__all__ = ["apply_in_tiles"]

TILES_PER_BATCH = 16


def apply_in_tiles(
    function: Callable[[Tensor], Tensor],
    image: Shaped[Tensor, "c height width"],
    size: tuple[int, int],
    *,
    overlap: float = 0.25,
    batch_size: int = TILES_PER_BATCH,
) -> Float[Tensor, "k height width"]:
    """Apply a function to an image tile by tile, without visible seams.

    Tiles are evenly spaced from border to border, so that none extends beyond the image. Each tile is weighted by a
    raised cosine with its maximum in the middle, and the weights of all tiles sum to one at every pixel. A side that is
    shorter than a tile is extended by reflection and cut back afterwards. In addition to the image and the result, at
    most `batch_size` tiles are in memory.

    Args:
        function: Maps tiles [n, c, h, w] of this size, with the values of the image, to [n, k, h, w].
        image: An image of any type, on any device.
        size: Height and width of a tile.
        overlap: Minimum fraction of a tile's side that it shares with the next, in [0, 1). Seams are visible at 0.
        batch_size: Maximum number of tiles per call of the function.

    Returns:
        A float32 tensor on the image's device.

    Raises:
        ValueError: `overlap` is out of its range, or the function changes the size of tiles.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap:g} must be at least 0 and below 1: 0.25 is usual.")
    sides = (image.shape[1], image.shape[2])
    pixels = [_reflected(side, tile).to(image.device) for side, tile in zip(sides, size, strict=True)]
    starts = [_tile_starts(len(line), tile, overlap) for line, tile in zip(pixels, size, strict=True)]
    weights = [_blend_weights(at, tile).to(image.device) for at, tile in zip(starts, size, strict=True)]
    tiles = [
        (slice(y, y + size[0]), slice(x, x + size[1]), vertical[:, None], horizontal)
        for y, vertical in zip(starts[0], weights[0], strict=True)
        for x, horizontal in zip(starts[1], weights[1], strict=True)
    ]
    blended: Tensor | None = None
    for first in range(0, len(tiles), batch_size):
        chunk = tiles[first : first + batch_size]
        inputs = torch.stack([image[:, pixels[0][y][:, None], pixels[1][x]] for y, x, *_ in chunk])
        outputs = function(inputs).to(image.device, torch.float32)
        if outputs.shape[0] != len(chunk) or outputs.shape[2:] != inputs.shape[2:]:
            raise ValueError(
                f"tiles of {list(inputs.shape)} came back as {list(outputs.shape)}: tiling needs the same size."
            )
        if blended is None:
            blended = outputs.new_zeros(outputs.shape[1], *map(len, pixels))
        for (y, x, vertical, horizontal), tile in zip(chunk, outputs, strict=True):
            blended[:, y, x].addcmul_(tile, vertical * horizontal)
    assert blended is not None
    top, left = ((len(line) - side) // 2 for line, side in zip(pixels, sides, strict=True))
    return blended[:, top : top + sides[0], left : left + sides[1]]


def _reflected(side: int, tile: int) -> Int[Tensor, " n"]:
    """Return the indices of a side's pixels, extended by reflection at both ends to the size of a tile if shorter."""
    before = max(0, tile - side) // 2
    index = torch.arange(max(side, tile)) - before
    period = max(1, 2 * (side - 1))
    index = index.remainder(period)
    return torch.minimum(index, period - index) if side > 1 else torch.zeros_like(index)


def _tile_starts(side: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles start along a side: as few as the overlap allows, evenly spaced, from border to border."""
    step = max(1, tile - math.ceil(overlap * tile))
    gaps = math.ceil((side - tile) / step)
    return [round(k * (side - tile) / gaps) for k in range(gaps + 1)] if gaps else [0]


def _blend_weights(starts: list[int], tile: int) -> Float[Tensor, "tiles side"]:
    """Return the weights of each tile along its side: raised cosines divided by their sum over all tiles."""
    window = torch.sin(math.pi * (torch.arange(tile, dtype=torch.float64) + 0.5) / tile).square()
    total = torch.zeros(starts[-1] + tile, dtype=torch.float64)
    for start in starts:
        total[start : start + tile] += window
    return torch.stack([window / total[start : start + tile] for start in starts]).float()
