"""A function of images of one size, used on an image of any size: in tiles that overlap and are blended."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

__all__ = ["tiled"]

AT_ONCE = 16
"""Tiles that go through a function together."""


def tiled(
    function: Callable[[Tensor], Tensor],
    image: Shaped[Tensor, "c height width"],
    size: tuple[int, int],
    *,
    overlap: float = 0.25,
    at_once: int = AT_ONCE,
) -> Float[Tensor, "k height width"]:
    """What a function makes of an image, tile by tile, without seams.

    Tiles are spread evenly from border to border, so that none reaches beyond the image. Each counts most in its
    middle, by a raised cosine, and the weights of all tiles sum to one at every pixel: where two meet, one fades into
    the other. A side shorter than a tile is mirrored on until it fills one, and cut back afterwards. Beside the image
    and the result no more than `at_once` tiles are in memory.

    Args:
        function: Tiles [n, c, h, w] of that size, as they are in the image, to [n, k, h, w].
        image: Of any type, on any device.
        size: Height and width of a tile.
        overlap: Least share of a tile's side that it shares with the next, from 0 to below 1. Without any, seams show.
        at_once: Tiles given to the function together, at most.

    Returns:
        float32, on the image's device.

    Raises:
        ValueError: Another overlap, or tiles that come back with another size.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap:g} must be at least 0 and below 1: 0.25 is usual.")
    sides = (image.shape[1], image.shape[2])
    lines = [_filled(side, tile).to(image.device) for side, tile in zip(sides, size, strict=True)]
    starts = [_starts(len(line), tile, overlap) for line, tile in zip(lines, size, strict=True)]
    shares = [_shares(at, tile).to(image.device) for at, tile in zip(starts, size, strict=True)]
    tiles = [
        (slice(y, y + size[0]), slice(x, x + size[1]), down[:, None], across)
        for y, down in zip(starts[0], shares[0], strict=True)
        for x, across in zip(starts[1], shares[1], strict=True)
    ]
    blended: Tensor | None = None
    for first in range(0, len(tiles), at_once):
        some = tiles[first : first + at_once]
        given = torch.stack([image[:, lines[0][y][:, None], lines[1][x]] for y, x, *_ in some])
        made = function(given).to(image.device, torch.float32)
        if made.shape[0] != len(some) or made.shape[2:] != given.shape[2:]:
            raise ValueError(
                f"tiles of {list(given.shape)} came back as {list(made.shape)}: tiling needs the same size."
            )
        if blended is None:
            blended = made.new_zeros(made.shape[1], *map(len, lines))
        for (y, x, down, across), tile in zip(some, made, strict=True):
            blended[:, y, x].addcmul_(tile, down * across)
    assert blended is not None
    top, left = ((len(line) - side) // 2 for line, side in zip(lines, sides, strict=True))
    return blended[:, top : top + sides[0], left : left + sides[1]]


def _filled(side: int, tile: int) -> Int[Tensor, " n"]:
    """Which pixel of a side stands at each place of what is cut into tiles: mirrored on at both ends if need be."""
    before = max(0, tile - side) // 2
    place = torch.arange(max(side, tile)) - before
    period = max(1, 2 * (side - 1))
    place = place.remainder(period)
    return torch.minimum(place, period - place) if side > 1 else torch.zeros_like(place)


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along a side: as few as overlap so much, evenly spread, the last one ending with the side."""
    step = max(1, tile - math.ceil(overlap * tile))
    gaps = math.ceil((side - tile) / step)
    return [round(k * (side - tile) / gaps) for k in range(gaps + 1)] if gaps else [0]


def _shares(starts: list[int], tile: int) -> Float[Tensor, "tiles side"]:
    """How much each tile counts along its side: raised cosines divided by their sum over all tiles."""
    window = torch.sin(math.pi * (torch.arange(tile, dtype=torch.float64) + 0.5) / tile).square()
    total = torch.zeros(starts[-1] + tile, dtype=torch.float64)
    for start in starts:
        total[start : start + tile] += window
    return torch.stack([window / total[start : start + tile] for start in starts]).float()
