"""Held-out images that all but are training images: another encoding of one, or the next frame of a film. No torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ectype.data.prepared import Prepared
from ectype.data.sources import TRAIN

__all__ = ["Kin", "kin"]

SIDE = 16
"""Pixels of a side that images are compared at."""
NEAR = 0.1
"""Share of the median distance of two grey images within which they are kin, if their colours agree too."""
COLOUR = 3.0
"""How many times farther apart channels may be, in the mean over them: encoders keep colours coarsely."""
MOST, READ, AT_ONCE = 20_000, 1 << 30, 32 << 20
"""Images of each kind that are compared at most, bytes of them that are read, and at a time."""
PAIRS = 2000


class Kin(NamedTuple):
    """Pairs of a held-out and a training image."""

    asked: int
    """Held-out images that were compared."""
    held_out: np.ndarray
    """[n] rows of those with kin in training."""
    training: np.ndarray
    """[n] rows of the nearest training images."""


def kin(prepared: Prepared) -> Kin:
    """Held-out images whose nearest training image is almost them, as pictures of 16×16."""
    rng = np.random.default_rng(0)
    train, held_out = (
        np.sort(rng.permutation(rows)[: min(MOST, max(1, READ // prepared.info.numbers))])
        for rows in (np.flatnonzero(prepared.sides == TRAIN), np.flatnonzero(prepared.sides > TRAIN))
    )
    if not len(train) or not len(held_out):
        return Kin(0, np.zeros(0, np.int64), np.zeros(0, np.int64))
    coloured, others = _small(prepared, train), _small(prepared, held_out)
    known, asked = coloured.mean(1), others.mean(1)
    # About their mean, or the difference of large squares would be lost to rounding.
    mean = known.mean(0)
    known, asked = known - mean, asked - mean
    some = known[rng.integers(0, len(known), PAIRS)] - known[rng.integers(0, len(known), PAIRS)]
    usual = float(np.median((some**2).sum(1)) ** 0.5)
    squares, found, nearest = (known**2).sum(1), [], []
    for first in range(0, len(asked), 256):
        part = asked[first : first + 256]
        apart = (part**2).sum(1)[:, None] + squares - 2 * part @ known.T
        place = apart.argmin(1)
        near = apart[np.arange(len(part)), place].clip(0) ** 0.5 < NEAR * usual
        # A red square is not a green one, though they may be as bright.
        between = others[first : first + len(part)] - coloured[place]
        near &= (between**2).sum(2).mean(1) ** 0.5 < COLOUR * NEAR * usual
        found.append(first + np.flatnonzero(near))
        nearest.append(place[near])
    return Kin(len(asked), held_out[np.concatenate(found)], train[np.concatenate(nearest)])


def _small(prepared: Prepared, rows: np.ndarray) -> np.ndarray:
    """[n, channels, 256] float32."""
    made, first = [], 0
    channels, height, width = prepared.info.shape
    across = [np.linspace(0, length, min(SIDE, length) + 1).astype(int) for length in (height, width)]
    areas = np.diff(across[0])[:, None] * np.diff(across[1])
    for shard in prepared.shards:
        pixels = np.load(shard, mmap_mode="r")
        here = rows[(rows >= first) & (rows < first + len(pixels))] - first
        size = max(1, AT_ONCE // (4 * prepared.info.numbers))
        for start in range(0, len(here), size):
            part = here[start : start + size]
            seen = pixels[part, :channels].astype(np.float32)
            sums = np.add.reduceat(np.add.reduceat(seen, across[0][:-1], axis=2), across[1][:-1], axis=3)
            made.append((sums / areas).reshape(len(part), channels, -1))
        first += len(pixels)
    return np.concatenate(made)
