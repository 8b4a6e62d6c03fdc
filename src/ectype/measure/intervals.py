"""Intervals of figures that are no means over images: distances between sets, diversity, shares of bins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ectype.errors import DataError

__all__ = ["Interval", "jackknife"]


class Interval(NamedTuple):
    """Both ends of a 95% interval."""

    low: float
    high: float


def jackknife(
    statistic: Callable[..., float], samples: Sequence[Tensor], groups: int = 20, *, seed: int = 0
) -> Interval:
    """The 95% normal interval of a statistic by the delete-a-group jackknife (Kott 2001; Shao and Tu 1995).

    Each set in turn is cut into random groups, the statistic computed without each of them, and (G − 1) / G Σ (θ_g −
    θ̄)² taken as that set's part of the variance; the parts add up, as sets are independent. The statistic is computed 1
    + G × sets times.

    The target is the *expected statistic at these n*: the interval says how far other draws of as many images would
    move the figure. The bias of few images, which a Fréchet distance has plenty of, is in the figure and not in the
    interval. Where two sets have one distribution a squared distance has no first-order term, its error is not normal,
    and the interval is too wide rather than too narrow; its low end may then lie below 0.

    Args:
        statistic: Of as many tensors as there are sets, each with one row per image.
        samples: The sets that the figure varies with. What is held fixed, such as reference moments, belongs into
            `statistic`.
        groups: Into which each set is cut.
        seed: Of the random groups.

    Raises:
        DataError: No sets, fewer than two groups, or a set of fewer images than groups.
    """
    fewest = min((len(sample) for sample in samples), default=0)
    if groups < 2 or fewest < groups:
        raise DataError(
            f"{fewest} images cannot be cut into {groups} groups: use 2 groups or more, each with an image."
        )
    generator = torch.Generator().manual_seed(seed)
    variance = 0.0
    for which, sample in enumerate(samples):
        parts = torch.randperm(len(sample), generator=generator).tensor_split(groups)
        without = []
        for part in parts:
            kept = torch.ones(len(sample), dtype=torch.bool)
            kept[part] = False
            chosen = sample[kept.to(sample.device)]
            without.append(statistic(*samples[:which], chosen, *samples[which + 1 :]))
        mean = sum(without) / groups
        variance += (groups - 1) / groups * sum((value - mean) ** 2 for value in without)
    value, half = statistic(*samples), 1.96 * math.sqrt(variance)
    return Interval(value - half, value + half)
