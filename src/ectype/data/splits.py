"""Which images are held out.

By hash, an image's side depends on its own key alone (its name, or what `group` finds in it): a number in [0, 1) hashed
from the key falls into the test share, the validation share, or the rest. Adding files moves no other file, with one
exception: a split that would be empty borrows the one group whose number lies nearest to its share, and gives it back
once it has one of its own. Shares are therefore only approximately kept, the closer the more groups there are.

Splits that the source names are kept; one it does not have is taken from its training images by the same rule.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

from ectype.data.sources import NONE, TEST, TRAIN, VAL, natural, untiled
from ectype.errors import DataError
from ectype.sections import Split

__all__ = ["assign"]

_WORDS = {TRAIN: "train", VAL: "val", TEST: "test"}


def assign(names: Sequence[str], given: np.ndarray, split: Split) -> np.ndarray:
    """The side of each image.

    Args:
        names: Of the images, unique.
        given: [n] codes of the splits that the source names; 0 where it does not.
        split: The rule.

    Returns:
        [n] uint8: 1 train, 2 validation, 3 test. No split is empty, but for those whose share is 0.

    Raises:
        DataError: Fewer groups of images than splits, or a pattern that is none.
    """
    sides = given.astype(np.uint8)
    pool = np.flatnonzero((sides == NONE) | (sides == TRAIN))
    wanted = {side: share for side, share in ((TEST, split.test), (VAL, split.val)) if share > 0}
    wanted = {side: share for side, share in wanted.items() if not (sides == side).any()}
    if not len(pool) and not split.val and not split.test:
        return sides  # nobody asks for images to train on
    if sum(wanted.values()) >= 1:
        raise DataError(f"split.val={split.val} and split.test={split.test} leave nothing to train on: lower them.")
    key_of = _key(split.group)
    chosen = itertools.compress(names, (sides == NONE) | (sides == TRAIN))
    if split.by == "contiguous":
        own = list(chosen)
        keys = [key_of(name) for name in own]
        _check(len(set(keys)), wanted, split)
        sides[pool] = _contiguous(own, keys, wanted)
    else:
        # A number stands for its group; that any two of a million groups share one, and so a side, is 1 : 18,000.
        numbers = np.fromiter((_number(key_of(name)) for name in chosen), np.float64, len(pool))
        _check(len(np.unique(numbers)), wanted, split)
        sides[pool] = _hashed(numbers, wanted)
    return sides


def _check(groups: int, wanted: dict[int, float], split: Split) -> None:
    """Raise unless there is a group for each split."""
    if groups >= 1 + len(wanted):
        return
    what = f"groups by split.group='{split.group}'" if split.group else "images to train on"
    needed = " + ".join(["train", *(_WORDS[side] for side in sorted(wanted))])
    # Validation images are needed by all training; test images can be done without.
    instead = ", or set split.test=0" if TEST in wanted and groups >= len(wanted) else ""
    raise DataError(
        f"{groups} {what} cannot fill {1 + len(wanted)} splits ({needed}): give {1 + len(wanted)} at the least"
        + (", by a finer pattern" if split.group else "")
        + f"{instead}."
    )


def _key(group: str | None) -> Callable[[str], str]:
    """What files that belong together share."""
    if group is None:
        return untiled
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DataError(f"split.group='{group}' is no regular expression ({error}): mend it.") from None

    def key(name: str) -> str:
        match = pattern.search(untiled(name))
        if match is None:
            return untiled(name)
        # A mark keeps a group apart from a file that is called like it.
        return "\0" + (next((part for part in match.groups() if part is not None), match[0]))

    return key


def _number(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8, person=b"ectype split").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _hashed(numbers: np.ndarray, wanted: dict[int, float]) -> np.ndarray:
    """Sides by where numbers fall: the test share first, then validation, then the rest."""
    order = [side for side in (TEST, VAL) if side in wanted] + [TRAIN]
    bounds = np.cumsum([wanted.get(side, 0.0) for side in order[:-1]])
    sides = np.array(order, np.uint8)[np.searchsorted(bounds, numbers, side="right")]
    edges = [0.0, *bounds.tolist(), 1.0]
    for side, low, high in zip(order, edges, edges[1:], strict=False):
        if not (sides == side).any():
            # From those that can spare one, the training images first: they are the many.
            giver = next(s for s in (TRAIN, VAL, TEST) if len(np.unique(numbers[sides == s])) > 1)
            theirs = numbers[sides == giver]
            nearest = theirs[np.abs(theirs - (low + high) / 2).argmin()]
            sides[numbers == nearest] = side
    return sides


def _contiguous(names: Sequence[str], keys: Sequence[str], wanted: dict[int, float]) -> np.ndarray:
    """Train, validation and test as slabs of the names in natural order; borders move to where a group ends."""
    order = sorted(range(len(names)), key=lambda i: natural(names[i]))
    place: dict[str, int] = {}
    for i in order:  # a group's files stand where its first one does
        place.setdefault(keys[i], len(place))
    order.sort(key=lambda i: place[keys[i]])
    sizes = np.bincount([place[key] for key in keys])
    ends = np.cumsum(sizes)
    sides = np.full(len(sizes), TRAIN, np.uint8)
    last = len(sizes)
    for waiting, side in enumerate(s for s in (TEST, VAL) if s in wanted):
        target = (ends[last - 1] if last else 0) - wanted[side] * len(names)
        # At least one group here, and one each for the splits still to come.
        least = len(wanted) - waiting
        first = int(np.searchsorted(ends, target + 0.5))
        first = min(max(first, least), last - 1)
        sides[first:last] = side
        last = first
    return np.fromiter((sides[place[key]] for key in keys), np.uint8, len(keys))
