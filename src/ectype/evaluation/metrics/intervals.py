"""Confidence intervals: of means, of proportions, and of statistics of complete sets of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.core.errors import DataError

__all__ = ["Estimate", "Interval", "jackknife", "mean_interval", "wilson_interval"]

Z_95 = 1.96
"""Standard errors on either side of a 95% interval."""


class Interval(NamedTuple):
    """Both ends of a 95% interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float
    n: int
    """Images that it was computed on."""


def jackknife(
    statistic: Callable[..., float], samples: Sequence[Tensor], groups: int = 20, *, seed: int = 0
) -> Interval:
    """Return the 95% normal interval of a statistic by the delete-a-group jackknife (Kott 2001; Shao and Tu 1995).

    Each set in turn is cut into random groups, and the statistic is computed without each of them. (G − 1) / G Σ (θ_g −
    θ̄)² is that set's part of the variance; the parts add up because the sets are independent. The statistic is computed
    1 + G × sets times.

    The target is the *expected statistic at these n*: the interval says how far other draws of as many images would
    move the figure. The bias of small sets, which a Fréchet distance has plenty of, is in the figure and not in the
    interval. Where two sets have the same distribution, a squared distance has no first-order term and its error is not
    normal: the interval is then too wide rather than too narrow, and its low end may lie below 0.

    Args:
        statistic: Function of as many tensors as there are sets, each with one row per image.
        samples: The sets that the figure varies with. What is held fixed, such as reference moments, belongs in
            `statistic`.
        groups: Number of groups that each set is cut into.
        seed: Seed of the random groups.

    Raises:
        DataError: No sets, fewer than two groups, or a set with fewer images than groups.

    >>> x = torch.arange(100.0)
    >>> low, high = jackknife(lambda a: float(a.mean()), [x])
    >>> low < 49.5 < high
    True
    """
    smallest = min((len(sample) for sample in samples), default=0)
    if groups < 2 or smallest < groups:
        raise DataError(
            f"{smallest} images cannot be cut into {groups} groups: use 2 groups or more, each with an image."
        )
    generator = torch.Generator().manual_seed(seed)
    variance = 0.0
    for which, sample in enumerate(samples):
        parts = torch.randperm(len(sample), generator=generator).tensor_split(groups)
        values = []
        for part in parts:
            kept = torch.ones(len(sample), dtype=torch.bool)
            kept[part] = False
            remaining = sample[kept.to(sample.device)]
            values.append(statistic(*samples[:which], remaining, *samples[which + 1 :]))
        mean = sum(values) / groups
        variance += (groups - 1) / groups * sum((value - mean) ** 2 for value in values)
    value, half = statistic(*samples), Z_95 * math.sqrt(variance)
    return Interval(value - half, value + half)


def mean_interval(values: Float[Tensor, " n"]) -> Interval:
    """Return the 95% interval of a mean over images by the normal approximation: mean ± 1.96 standard errors.

    It says how far another draw of test images would move the mean, and nothing about other seeds or training images.
    Both ends are NaN for fewer than two values.

    >>> low, high = mean_interval(torch.tensor([1.0, 2.0, 3.0]))
    >>> round(low, 3), round(high, 3)
    (0.868, 3.132)
    """
    if len(values) < 2:
        return Interval(math.nan, math.nan)
    values = values.double()
    center, half = float(values.mean()), Z_95 * float(values.std()) / math.sqrt(len(values))
    return Interval(center - half, center + half)


def wilson_interval(proportion: float, n: int, z: float = Z_95) -> Interval:
    """Return the 95% interval of a proportion of n images (Wilson 1927).

    It lies within [0, 1], and is accurate near 0 and 1.

    >>> low, high = wilson_interval(0.5, 10)
    >>> round(low, 4), round(high, 4)
    (0.2366, 0.7634)
    """
    center = (proportion + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(proportion * (1 - proportion) / n + z**2 / (4 * n**2))
    # At 0 and 1 the two terms are equal except for rounding.
    return Interval(
        max(0.0, center - half) if proportion > 0 else 0.0, min(1.0, center + half) if proportion < 1 else 1.0
    )
