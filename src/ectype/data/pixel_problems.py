"""Problems of a whole set of images that no single image shows: all dark, all transparent, or all nearly equal.

Nothing here imports PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ectype.data.decode import DARK_VALUE

__all__ = ["PixelProblem", "find_pixel_problems"]

MIN_IMAGES = 8
"""Fewer images are not judged."""
MAX_EQUAL_DIFFERENCE = 16
"""Images are nearly equal if no pixel differs by more than this many levels of 255 between any two of them."""
DARK_16_BIT_VALUE = 1 << 15
"""Images of 16 bits are dark if no value reaches half of their range."""
NUM_COMPARED_FIRST = 64
"""Images that are compared before all are."""
IMAGES_PER_BLOCK = 256


class PixelProblem(NamedTuple):
    """A problem that all images share."""

    message: str
    """One line, without a period."""
    evidence: str
    """The name of the measured value."""
    value: float
    fix: str
    """What helps, in a few words that complete "try …"."""
    overrides: dict[str, Any]
    """Settings that help; empty if only other files do."""


def find_pixel_problems(
    *,
    num_images: int,
    num_invisible: int,
    max_value: int,
    max_16_bit_value: int,
    shards: Sequence[np.ndarray],
    kept: np.ndarray,
) -> list[PixelProblem]:
    """Return the problems that all usable images share.

    Args:
        num_images: Number of usable images.
        num_invisible: Number of wholly transparent images.
        max_value: Largest value of 8 bits, as in `Decoded`.
        max_16_bit_value: Largest value of the 16-bit images before they were reduced; 0 if there are none, or if the
            range of values was given.
        shards: The images, uint8 [n, c, h, w] each, mapped from disk.
        kept: Which rows of the shards are usable.
    """
    if num_images < MIN_IMAGES:
        return []
    if num_invisible == num_images:
        message = (
            "all images are wholly transparent, so that only the background is seen: data.alpha=ignore shows the "
            "colors that are stored"
        )
        overrides = {"data.alpha": "ignore"}
        return [PixelProblem(message, "wholly transparent images", num_invisible, "ignoring alpha", overrides)]
    if 0 < max_16_bit_value < DARK_16_BIT_VALUE:
        white = (1 << max(8, max_16_bit_value.bit_length())) - 1
        return [_dark("the images of 16 bits", max_16_bit_value, 65535, white)]
    if max_value < DARK_VALUE:
        return [_dark("the images", max_value, 255, max_value)]
    if (difference := _largest_difference(shards, kept)) <= MAX_EQUAL_DIFFERENCE:
        message = (
            f"all images are nearly equal: no pixel differs by more than {difference} of 255 between any two of them; "
            "check that these are the right files"
        )
        return [PixelProblem(message, "largest difference of a pixel, of 255", difference, "checking the files", {})]
    return []


def _dark(subject: str, largest: int, possible: int, white: int) -> PixelProblem:
    message = f"nothing in {subject} is brighter than {largest} of {possible}"
    evidence = f"largest value, of {possible}"
    if not white:
        return PixelProblem(f"{message}: they are black", evidence, 0, "checking the files", {})
    message += f", so they are dark: data.value_range=[0, {white}] shows {white} as white"
    overrides = {"data.value_range": [0, white]}
    return PixelProblem(message, evidence, largest, "another range of values", overrides)


def _largest_difference(shards: Sequence[np.ndarray], kept: np.ndarray) -> int:
    """Return the largest difference of a pixel between any two usable images.

    If the first images that are compared, evenly spaced, differ clearly, only these are read.
    """
    rows = np.flatnonzero(kept)
    starts = np.cumsum([0, *map(len, shards)])

    def spread(selected: np.ndarray) -> int:
        low = high = None
        for shard, start in zip(shards, starts, strict=False):
            here = selected[(selected >= start) & (selected < start + len(shard))] - start
            for first in range(0, len(here), IMAGES_PER_BLOCK):
                block = shard[here[first : first + IMAGES_PER_BLOCK]]
                low = block.min(0) if low is None else np.minimum(low, block.min(0))
                high = block.max(0) if high is None else np.maximum(high, block.max(0))
        assert low is not None
        assert high is not None
        return int((high - low).max())

    first = spread(rows[np.unique(np.linspace(0, len(rows) - 1, NUM_COMPARED_FIRST).astype(int))])
    return first if first > MAX_EQUAL_DIFFERENCE else spread(rows)
