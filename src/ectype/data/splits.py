"""Assignment of images to the training, validation and test splits.

By hash, the split of an image depends on its own key only (its name, or the part of it that `group` matches): a number
in [0, 1) that is hashed from the key falls into the range of the test, validation or training split. Adding files moves
no other file, with one exception: a split that would be empty takes the one group whose number is closest to its range,
and gives it back once it has a group of its own. The sizes of splits are therefore approximate, the more exact the more
groups there are.

Images that nearly repeat each other form a group that is in one split (`duplicates: together`): the one that the number
of its first name, in natural order, falls into (`4.png` comes before `4-b.png`). Names that are added later usually
come later, so that this rarely changes. Since it can, the split of each image is remembered
(`ectype.data.split_memory`), and no image is moved that was assigned before:

- An image that is added joins the split of its group.
- If members of its group are in several splits, because they were not similar before it came, it joins the training
  images if one of them is there, else the validation images. The others stay where they are.
- Without memory, as after the cache was removed, splits are those of a source that is seen for the first time. They may
  differ from the remembered ones if images were added in between; the fingerprint of the images then says so.

Splits that the source names are kept. A split that it does not have is taken from its training images by the same rule.
With `group` or `by: contiguous`, the user has said what belongs together, and images are not compared.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex

from ectype.config.schema import Split
from ectype.core.errors import DataError
from ectype.data.duplicate_groups import Groups, group_images
from ectype.data.near_duplicates import NearPairs
from ectype.data.sources.base import TEST, TRAIN, UNASSIGNED, VAL, natural_sort_key, same_name_key, strip_tile_suffix
from ectype.data.split_memory import NOTHING, load_memory, save_memory

__all__ = ["Assignment", "assign_splits", "depends_on_duplicates"]

MAX_MATCHING_SECONDS = 1.0
"""Seconds of searches that take longer than usual, for all names together."""
USUAL_MATCHING_SECONDS = 1e-3
_SPLIT_NAMES = {TRAIN: "train", VAL: "val", TEST: "test"}


class Assignment(NamedTuple):
    """Images and their splits."""

    split_ids: np.ndarray
    """[n] uint8: 1 train, 2 validation, 3 test."""
    note: str = ""
    """One line on images that nearly repeat each other; empty if there are none, or if they were not looked for."""


def depends_on_duplicates(source_split_ids: np.ndarray, split: Split) -> bool:
    """Return whether near-duplicates change how images are assigned, so that `assign_splits` needs pairs of them."""
    is_by_name = split.by == "hash" and split.group is None
    return split.duplicates == "together" and is_by_name and bool(_fractions_to_fill(source_split_ids, split))


def assign_splits(
    names: Sequence[str],
    source_split_ids: np.ndarray,
    split: Split,
    pairs: NearPairs | None = None,
    memory: Path | None = None,
) -> Assignment:
    """Assign each image to a split.

    Args:
        names: [n] unique names of the images.
        source_split_ids: [n] splits that the source names; 0 where it names none.
        split: Sizes of the splits, and the rule.
        pairs: Near-duplicates among the images; needed if `depends_on_duplicates`, else None.
        memory: The file in which the splits of images are remembered if there are pairs; None remembers nothing.

    Returns:
        The splits. None is empty, except those whose fraction is 0.

    Raises:
        DataError: There are fewer groups of images than splits, or the group pattern is invalid.
    """
    split_ids = source_split_ids.astype(np.uint8)
    is_available = (split_ids == UNASSIGNED) | (split_ids == TRAIN)
    available = np.flatnonzero(is_available)
    fractions = _fractions_to_fill(split_ids, split)
    if not len(available) and not split.val and not split.test:
        return Assignment(split_ids)  # images that are only used for evaluation
    if sum(fractions.values()) >= 1:
        raise DataError(f"split.val={split.val} and split.test={split.test} leave no images for training: lower them.")
    key_of = _group_key(split.group)
    available_names = itertools.compress(names, is_available)
    if split.by == "contiguous":
        listed = list(available_names)
        keys = [key_of(name) for name in listed]
        _check_enough_groups(len(set(keys)), fractions, split)
        split_ids[available] = _split_contiguously(listed, keys, fractions)
        return Assignment(split_ids)
    # A group is represented by its hash. Any two of a million groups have the same one with probability 1 : 18,000.
    hashes = np.fromiter((_unit_hash(key_of(name)) for name in available_names), np.float64, len(available))
    images, first, image_of = np.unique(hashes, return_index=True, return_inverse=True)
    _check_enough_groups(len(images), fractions, split)
    if pairs is None or not fractions:
        split_ids[available] = _fill_empty(hashes, _split_by_hash(hashes, fractions), fractions)
        return Assignment(split_ids)
    image_of_row = np.full(len(names), -1)
    image_of_row[available] = image_of
    groups = group_images(image_of_row, pairs, min(fractions.values()))
    if groups.group_of.max() < len(fractions):  # fewer groups than splits
        groups = groups._replace(group_of=np.arange(len(images)))
    remembered = NOTHING if memory is None else load_memory(memory)
    known = remembered.of(images)
    known[~np.isin(known, [TRAIN, *fractions])] = UNASSIGNED
    leaders = _first_by_name(groups, known, lambda i: key_of(names[int(available[first[i]])]))
    group_hashes = images[leaders][groups.group_of]
    image_splits = _join_remembered(known, groups, _split_by_hash(group_hashes, fractions))
    image_splits = _fill_empty(group_hashes, image_splits, fractions)
    if memory is not None and (known != image_splits).any():
        save_memory(memory, remembered.updated(images, image_splits))
    split_ids[available] = image_splits[image_of]
    return Assignment(split_ids, groups.note(image_splits))


def _fractions_to_fill(source_split_ids: np.ndarray, split: Split) -> dict[int, float]:
    """Return the fractions of the splits that the source does not name and that are to have images."""
    fractions = {i: fraction for i, fraction in ((TEST, split.test), (VAL, split.val)) if fraction > 0}
    return {i: fraction for i, fraction in fractions.items() if not (source_split_ids == i).any()}


def _first_by_name(groups: Groups, known: np.ndarray, name_of: Callable[[int], str]) -> np.ndarray:
    """Return the member of each group whose name, without its suffix, is the first one in natural order.

    Of a group whose split is remembered, any member is returned, since it decides nothing.
    """

    def sort_key(i: int) -> tuple[tuple[str | int, ...], str]:
        name = name_of(i)
        return natural_sort_key(os.path.splitext(name)[0]), name

    order = np.argsort(groups.group_of, kind="stable")
    sizes = np.bincount(groups.group_of)
    starts = np.cumsum(sizes) - sizes
    members = order[starts]
    is_new = np.bincount(groups.group_of, known != UNASSIGNED) == 0
    for group in np.flatnonzero((sizes > 1) & is_new):
        own = order[starts[group] : starts[group] + sizes[group]]
        members[group] = min(map(int, own), key=sort_key)
    return members


def _join_remembered(known: np.ndarray, groups: Groups, by_hash: np.ndarray) -> np.ndarray:
    """Return the split of each image: the remembered one, else that of its group's remembered members, else by hash."""
    joined = np.full(len(known), UNASSIGNED, np.uint8)
    for split_id in (TEST, VAL, TRAIN):  # the last one counts if a group's members are in several
        joined[np.isin(groups.group_of, groups.group_of[known == split_id])] = split_id
    return np.where(known != UNASSIGNED, known, np.where(joined != UNASSIGNED, joined, by_hash)).astype(np.uint8)


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


def _ranges(fractions: dict[int, float]) -> list[tuple[int, float, float]]:
    """Return split ids with the range of hashes of each: test first, then validation, then training."""
    order = [i for i in (TEST, VAL) if i in fractions] + [TRAIN]
    edges = [0.0, *np.cumsum([fractions[i] for i in order[:-1]]).tolist(), 1.0]
    return list(zip(order, edges, edges[1:], strict=False))


def _split_by_hash(hashes: np.ndarray, fractions: dict[int, float]) -> np.ndarray:
    """Return split ids by the range that each hash falls into."""
    ranges = _ranges(fractions)
    bounds = [high for _, _, high in ranges[:-1]]
    return np.array([i for i, _, _ in ranges], np.uint8)[np.searchsorted(bounds, hashes, side="right")]


def _fill_empty(hashes: np.ndarray, split_ids: np.ndarray, fractions: dict[int, float]) -> np.ndarray:
    """Return split ids, where each split without images has got the group whose hash is closest to its range."""
    for split_id, low, high in _ranges(fractions):
        if not (split_ids == split_id).any():
            # Take a group from a split that has more than one; from training first, which is usually the largest.
            donor = next(i for i in (TRAIN, VAL, TEST) if len(np.unique(hashes[split_ids == i])) > 1)
            donor_hashes = hashes[split_ids == donor]
            closest = donor_hashes[np.abs(donor_hashes - (low + high) / 2).argmin()]
            split_ids[(hashes == closest) & (split_ids == donor)] = split_id
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
