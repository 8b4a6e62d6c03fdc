"""Held-out images that nearly equal a training image, such as in splits that the source names."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ectype.data.near_duplicates import original_rows, stored_pairs
from ectype.data.prepared import Prepared
from ectype.data.sources.base import TRAIN

__all__ = ["HeldOutDuplicates", "find_held_out_duplicates"]


class HeldOutDuplicates(NamedTuple):
    """Pairs of a held-out and a training image."""

    num_compared: int
    """Number of held-out images that were compared."""
    held_out: np.ndarray
    """[n] rows of the held-out images that have a near-duplicate in training."""
    training: np.ndarray
    """[n] rows of the closest training images."""


def find_held_out_duplicates(prepared: Prepared) -> HeldOutDuplicates:
    """Find the held-out images that nearly equal a training image."""
    kept, is_training = np.flatnonzero(prepared.split_ids), prepared.split_ids == TRAIN
    none = np.zeros(0, np.int64)
    if not 0 < np.count_nonzero(is_training) < len(kept):
        return HeldOutDuplicates(0, none, none)
    pairs = stored_pairs(prepared.root, prepared.shards, prepared.info.channels)
    if not pairs.is_complete:
        return HeldOutDuplicates(0, none, none)
    # Copies stand for each other: a pair of two images is a pair of all their copies.
    originals = original_rows(prepared.root, len(prepared.split_ids), kept)
    training_copy = np.full(len(originals), -1)
    training_copy[originals[is_training][::-1]] = np.flatnonzero(is_training)[::-1]
    own = np.unique(originals[kept])
    ends = [originals[pairs.rows[:, 0]], originals[pairs.rows[:, 1]]]
    one, other = np.concatenate([own, *ends]), np.concatenate([own, *ends[::-1]])
    distances = np.concatenate([np.full(len(own), -1, np.float32), pairs.distances, pairs.distances])
    usable = np.flatnonzero(training_copy[other] >= 0)
    usable = usable[np.argsort(-distances[usable], kind="stable")]
    closest = np.full(len(originals), -1)
    closest[one[usable]] = training_copy[other[usable]]  # the last one assigned has the smallest distance
    held_out = kept[~is_training[kept]]
    found = held_out[closest[originals[held_out]] >= 0]
    return HeldOutDuplicates(len(held_out), found, closest[originals[found]])
