"""Assignment of images to the training, validation and test splits.

By hash, the split of an image depends on its own key only (its name, or the part of it that `group` matches): a number
in [0, 1) that is hashed from the key falls into the range of the test, validation or training split. Adding files moves
no other file, with one exception: a split that would be empty takes the one group whose number is closest to its range,
and gives it back once it has a group of its own. The sizes of splits are therefore approximate, the more exact the more
groups there are.

Splits that the source names are kept. A split that it does not have is taken from its training images by the same rule.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import regex

from ectype.config.schema import Split
from ectype.core.errors import DataError
from ectype.data.sources.base import TEST, TRAIN, UNASSIGNED, VAL, natural_sort_key, same_name_key, strip_tile_suffix

__all__ = ["assign_splits"]

MAX_MATCHING_SECONDS = 1.0
"""Seconds of searches that take longer than usual, for all names together."""
USUAL_MATCHING_SECONDS = 1e-3
_SPLIT_NAMES = {TRAIN: "train", VAL: "val", TEST: "test"}


def assign_splits(names: Sequence[str], source_split_ids: np.ndarray, split: Split) -> np.ndarray:
    """Assign each image to a split.

    Args:
        names: [n] unique names of the images.
        source_split_ids: [n] splits that the source names; 0 where it names none.
        split: Sizes of the splits, and the rule.

    Returns:
        [n] uint8: 1 train, 2 validation, 3 test. No split is empty, except those whose fraction is 0.

    Raises:
        DataError: There are fewer groups of images than splits, or the group pattern is invalid.
    """
    split_ids = source_split_ids.astype(np.uint8)
    is_available = (split_ids == UNASSIGNED) | (split_ids == TRAIN)
    available = np.flatnonzero(is_available)
    fractions = {i: fraction for i, fraction in ((TEST, split.test), (VAL, split.val)) if fraction > 0}
    fractions = {i: fraction for i, fraction in fractions.items() if not (split_ids == i).any()}
    if not len(available) and not split.val and not split.test:
        return split_ids  # images that are only used for evaluation
    if sum(fractions.values()) >= 1:
        raise DataError(f"split.val={split.val} and split.test={split.test} leave no images for training: lower them.")
    key_of = _group_key(split.group)
    available_names = itertools.compress(names, is_available)
    if split.by == "contiguous":
        listed = list(available_names)
        keys = [key_of(name) for name in listed]
        _check_enough_groups(len(set(keys)), fractions, split)
        split_ids[available] = _split_contiguously(listed, keys, fractions)
    else:
        # A group is represented by its hash. Any two of a million groups have the same one with probability 1 : 18,000.
        hashes = np.fromiter((_unit_hash(key_of(name)) for name in available_names), np.float64, len(available))
        _check_enough_groups(len(np.unique(hashes)), fractions, split)
        split_ids[available] = _split_by_hash(hashes, fractions)
    return split_ids


def _check_enough_groups(num_groups: int, fractions: dict[int, float], split: Split) -> None:
    """Raise an error unless there is a group for training and one for each split to fill."""
    needed = 1 + len(fractions)
    if num_groups >= needed:
        return
    found = f"{num_groups} groups by split.group='{split.group}'" if split.group else f"{num_groups} images to train on"
    split_names = " + ".join(["train", *(_SPLIT_NAMES[i] for i in sorted(fractions))])
    finer = ", with a finer pattern" if split.group else ""
    # Training always needs validation images, but not test images.
    alternative = ", or set split.test=0" if TEST in fractions and num_groups >= len(fractions) else ""
    raise DataError(f"{found} cannot fill {needed} splits ({split_names}): give at least {needed}{finer}{alternative}.")


def _group_key(group: str | None) -> Callable[[str], str]:
    """Return the function that maps a name to the key that all files of its group share."""
    if group is None:
        return lambda name: same_name_key(strip_tile_suffix(name))
    try:
        pattern = regex.compile(same_name_key(group), regex.VERSION0)  # the rules of Python's own `re`
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise DataError(f"split.group='{group}' is not a valid regular expression ({error}): fix it.") from None
    seconds_left = MAX_MATCHING_SECONDS

    def key(name: str) -> str:
        nonlocal seconds_left
        started, name = time.perf_counter(), same_name_key(strip_tile_suffix(name))
        try:
            match = pattern.search(name, timeout=max(0.01, seconds_left))
        except TimeoutError:
            raise DataError(
                f"split.group='{group}' takes too long to search in '{name[:100]}': write it without repetitions "
                "inside of repetitions, such as (a+)+."
            ) from None
        # Time counts only where it is unusual, so that any number of names can be searched.
        if (took := time.perf_counter() - started) > USUAL_MATCHING_SECONDS:
            seconds_left -= took
        if match is None:
            return name
        # The NUL distinguishes a group from a file that has the group's key as its name.
        return "\0" + (next((part for part in match.groups() if part is not None), match[0]))

    return key


def _unit_hash(key: str) -> float:
    """Return a number in [0, 1) that depends on the key only."""
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8, person=b"ectype split").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _split_by_hash(hashes: np.ndarray, fractions: dict[int, float]) -> np.ndarray:
    """Return split ids by the range that each hash falls into: test first, then validation, then training."""
    order = [i for i in (TEST, VAL) if i in fractions] + [TRAIN]
    bounds = np.cumsum([fractions.get(i, 0.0) for i in order[:-1]])
    split_ids = np.array(order, np.uint8)[np.searchsorted(bounds, hashes, side="right")]
    edges = [0.0, *bounds.tolist(), 1.0]
    for split_id, low, high in zip(order, edges, edges[1:], strict=False):
        if not (split_ids == split_id).any():
            # Take a group from a split that has more than one; from training first, which is usually the largest.
            donor = next(i for i in (TRAIN, VAL, TEST) if len(np.unique(hashes[split_ids == i])) > 1)
            donor_hashes = hashes[split_ids == donor]
            closest = donor_hashes[np.abs(donor_hashes - (low + high) / 2).argmin()]
            split_ids[hashes == closest] = split_id
    return split_ids


def _split_contiguously(names: Sequence[str], keys: Sequence[str], fractions: dict[int, float]) -> np.ndarray:
    """Return split ids: contiguous blocks of the names in natural order, with borders at the ends of groups."""
    order = sorted(range(len(names)), key=lambda i: natural_sort_key(names[i]))
    group_index: dict[str, int] = {}
    for i in order:  # a group's files are at the position of its first one
        group_index.setdefault(keys[i], len(group_index))
    group_sizes = np.bincount([group_index[key] for key in keys])
    ends = np.cumsum(group_sizes)
    group_splits = np.full(len(group_sizes), TRAIN, np.uint8)
    last = len(group_sizes)
    for num_filled, split_id in enumerate(i for i in (TEST, VAL) if i in fractions):
        target_end = (ends[last - 1] if last else 0) - fractions[split_id] * len(names)
        # At least one group for this split, and one each for training and the splits that are still to be filled.
        min_remaining = len(fractions) - num_filled
        first = int(np.searchsorted(ends, target_end + 0.5))
        first = min(max(first, min_remaining), last - 1)
        group_splits[first:last] = split_id
        last = first
    return np.fromiter((group_splits[group_index[key]] for key in keys), np.uint8, len(keys))
