"""Held-out images that nearly equal a training image, such as another encoding or the next frame of a video."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ectype.data.prepared import Prepared
from ectype.data.sources.base import TRAIN

__all__ = ["NearDuplicates", "find_near_duplicates"]

COMPARED_SIDE_PX = 16
"""Images are reduced to this many pixels per side before they are compared."""
MAX_RELATIVE_DISTANCE = 0.1
"""Two images are near duplicates if the distance of their gray values is below this fraction of the median distance of
two training images, and their colors agree too."""
COLOR_DISTANCE_FACTOR = 3.0
"""The distance of the color channels may be this factor larger, since encoders store colors coarsely."""
MAX_IMAGES = 20_000
"""Maximum number of training images, and of held-out images, that are compared."""
MAX_BYTES_READ = 1 << 30
"""Maximum bytes of training images, and of held-out images, that are read."""
MAX_BYTES_PER_BATCH = 32 << 20
"""Maximum bytes of float32 pixels that are reduced at a time."""
IMAGES_PER_BATCH = 256
"""Held-out images that are compared at a time."""
NUM_SAMPLED_PAIRS = 2000
"""Pairs of training images whose median distance is computed."""


class NearDuplicates(NamedTuple):
    """Pairs of a held-out and a training image."""

    num_compared: int
    """Number of held-out images that were compared."""
    held_out: np.ndarray
    """[n] rows of the held-out images that have a near duplicate in training."""
    training: np.ndarray
    """[n] rows of the closest training images."""


def find_near_duplicates(prepared: Prepared) -> NearDuplicates:
    """Find the held-out images whose closest training image, at 16×16 pixels, is almost equal."""
    rng = np.random.default_rng(0)
    max_images = min(MAX_IMAGES, max(1, MAX_BYTES_READ // prepared.info.num_elements))
    train_rows, held_out_rows = (
        np.sort(rng.permutation(rows)[:max_images])
        for rows in (np.flatnonzero(prepared.split_ids == TRAIN), np.flatnonzero(prepared.split_ids > TRAIN))
    )
    if not len(train_rows) or not len(held_out_rows):
        return NearDuplicates(0, np.zeros(0, np.int64), np.zeros(0, np.int64))
    train_color, held_out_color = _downsample(prepared, train_rows), _downsample(prepared, held_out_rows)
    train, held_out = train_color.mean(1), held_out_color.mean(1)
    # Centered, since the difference of large squares would be lost to rounding.
    center = train.mean(0)
    train, held_out = train - center, held_out - center
    differences = train[rng.integers(0, len(train), NUM_SAMPLED_PAIRS)]
    differences = differences - train[rng.integers(0, len(train), NUM_SAMPLED_PAIRS)]
    max_distance = MAX_RELATIVE_DISTANCE * float(np.median((differences**2).sum(1)) ** 0.5)
    squared_norms, found, closest = (train**2).sum(1), [], []
    for first in range(0, len(held_out), IMAGES_PER_BATCH):
        batch = held_out[first : first + IMAGES_PER_BATCH]
        squared_distances = (batch**2).sum(1)[:, None] + squared_norms - 2 * batch @ train.T
        index = squared_distances.argmin(1)
        is_near = squared_distances[np.arange(len(batch)), index].clip(0) ** 0.5 < max_distance
        # Images of different colors may have the same gray values.
        color_difference = held_out_color[first : first + len(batch)] - train_color[index]
        is_near &= (color_difference**2).sum(2).mean(1) ** 0.5 < COLOR_DISTANCE_FACTOR * max_distance
        found.append(first + np.flatnonzero(is_near))
        closest.append(index[is_near])
    return NearDuplicates(len(held_out), held_out_rows[np.concatenate(found)], train_rows[np.concatenate(closest)])


def _downsample(prepared: Prepared, rows: np.ndarray) -> np.ndarray:
    """Return the images of these rows, which ascend, as [n, channels, at most 256 pixels] float32 area means."""
    batches, first = [], 0
    channels, height, width = prepared.info.shape
    edges_y, edges_x = (
        np.linspace(0, length, min(COMPARED_SIDE_PX, length) + 1).astype(int) for length in (height, width)
    )
    areas = np.diff(edges_y)[:, None] * np.diff(edges_x)
    batch_size = max(1, MAX_BYTES_PER_BATCH // (4 * prepared.info.num_elements))
    for shard in prepared.shards:
        pixels = np.load(shard, mmap_mode="r")
        shard_rows = rows[(rows >= first) & (rows < first + len(pixels))] - first
        for start in range(0, len(shard_rows), batch_size):
            batch_rows = shard_rows[start : start + batch_size]
            images = pixels[batch_rows, :channels].astype(np.float32)
            sums = np.add.reduceat(np.add.reduceat(images, edges_y[:-1], axis=2), edges_x[:-1], axis=3)
            batches.append((sums / areas).reshape(len(batch_rows), channels, -1))
        first += len(pixels)
    return np.concatenate(batches)
