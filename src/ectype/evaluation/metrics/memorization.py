"""Whether samples are near-duplicates of each other, or of training images."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.loader import evenly_spaced
from ectype.evaluation.metrics.precision_recall import nearest_neighbors

__all__ = ["Authenticity", "CloserToTraining", "Duplicates", "closer_to_train", "duplicates"]

DUPLICATE_QUANTILE = 0.005
"""Fraction of real images whose nearest neighbor is as close as that of a duplicate."""
NUM_TRAIN_SUBSETS = 5
"""Random sets of training images that samples are compared with."""

Features = Float[Tensor, "n d"]


class Duplicates(NamedTuple):
    """Samples that are nearly identical to another sample."""

    rate: float
    """Fraction of samples that are closer to another one than all but 0.5% of real images are to each other."""
    birthday_estimate: float
    """Estimated number of different images, n(n − 1) / 2 ÷ pairs; infinite without a pair."""
    pairs: Int[Tensor, "p 2"]
    """The closest pairs, closest first, each once."""


def duplicates(real: Features, fake: Float[Tensor, "m d"]) -> Duplicates:
    """Run the birthday test (Arora and Zhang 2018): a generator with few different images repeats them in a sample.

    The threshold is taken from as many real images as there are samples, or from all of them. The more images there
    are, the closer the closest ones, so fewer real images make the test stricter, never blind.

    Args:
        real: Features of the real images that samples are compared with.
        fake: Features of samples.

    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> duplicates(x, x[:10].repeat(20, 1)).rate
    1.0
    """
    n = min(len(real), len(fake))
    some = real[evenly_spaced(len(real), n)]
    among_real = nearest_neighbors(some, some, 1, exclude_self=True).distance[:, 0]
    # Copies among the real images do not show how close different images come.
    apart = among_real[among_real > 0]
    threshold = float(torch.quantile(apart, DUPLICATE_QUANTILE)) if len(apart) else 0.0
    found = nearest_neighbors(fake[:n], fake[:n], 1, exclude_self=True)
    close = found.distance[:, 0] <= threshold
    order = found.distance[:, 0].argsort()
    pairs = torch.stack([order, found.place[order, 0]], dim=1).sort(dim=1).values
    kept: dict[tuple[int, int], None] = dict.fromkeys((int(a), int(b)) for a, b in pairs[:64])
    unique = torch.tensor(list(kept), dtype=torch.int64).reshape(-1, 2)
    colliding = int(close.sum()) / 2
    estimate = n * (n - 1) / 2 / colliding if colliding else math.inf
    return Duplicates(float(close.double().mean()), estimate, unique)


class Authenticity:
    """Fraction of samples farther from their nearest training image than that is from the next (Alaa et al. 2022).

    It is somewhat above ½ for fresh real images, and low for copies and for samples that are drawn in towards the
    middle of the data.

    Args:
        train: Features of training images; the distance of each to the next is computed once.
    """

    def __init__(self, train: Features) -> None:
        self.train = train
        self._to_next = nearest_neighbors(train, train, 1, exclude_self=True).distance[:, 0]

    def __call__(self, fake: Float[Tensor, "m d"]) -> float:
        """Return the fraction of these samples."""
        found = nearest_neighbors(fake, self.train, 1)
        return float((found.distance[:, 0] > self._to_next[found.place[:, 0]]).double().mean())


class CloserToTraining(NamedTuple):
    """How close samples are to training images, compared with held-out images."""

    fraction: float
    """Fraction of samples whose nearest real image is a training image, among equally many of both; ½ is fair."""
    auc: float
    """How well training images are told from held-out images by their distance to the nearest sample: the fraction of
    pairs in which the training image is the nearer one; ½ is fair."""
    z: float
    """Standard errors that `auc` is above ½."""
    sample: Int[Tensor, " m"]
    """Indices of samples, those that are relatively closest to a training image first."""
    nearest: Int[Tensor, " m"]
    """Index of the training image nearest to each of these samples."""


def closer_to_train(
    train: Features, held_out: Float[Tensor, "h d"], fake: Float[Tensor, "m d"], *, seed: int
) -> CloserToTraining:
    """Compare how near samples are to training images and to images that were not trained on.

    This tells memorization from samples that merely lack variety (arXiv 2306.04675): images of both kinds come from the
    same source, so without copying each is equally likely to be near a sample.

    The fraction is taken at equal numbers: several random sets of training images, each as large as the held-out set,
    are compared with it. The test uses all images at once, by the rank of their distance to the nearest sample (Mann
    and Whitney 1947). This is a membership inference attack by the distance of Hayes et al. 2019 ("LOGAN") and Chen et
    al. 2020 ("GAN-Leaks"). Its error is known whatever the samples are, so it also holds with few held-out images.

    Args:
        train: Features of training images.
        held_out: Features of images that were not trained on.
        fake: Features of samples.
        seed: Seed of the random sets.

    >>> train, held_out = (torch.randn(200, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    >>> copied = closer_to_train(train, held_out, train + 1e-3, seed=0)
    >>> copied.fraction, copied.auc
    (1.0, 1.0)
    """
    n = min(len(train), len(held_out))
    generator = torch.Generator().manual_seed(seed)
    to_held_out = nearest_neighbors(fake, held_out, 1)
    wins = torch.zeros(len(fake), dtype=torch.float64)
    subsets = NUM_TRAIN_SUBSETS if len(train) >= 2 * n else 1
    for _ in range(subsets):
        chosen = torch.randperm(len(train), generator=generator)[:n]
        near = nearest_neighbors(fake, train[chosen], 1).distance[:, 0]
        others = held_out if n == len(held_out) else held_out[evenly_spaced(len(held_out), n)]
        other = (to_held_out if others is held_out else nearest_neighbors(fake, others, 1)).distance[:, 0]
        wins += (near < other).double() + 0.5 * (near == other).double()
    wins /= subsets
    to_train = nearest_neighbors(fake, train, 1)
    order = (to_train.distance[:, 0] / to_held_out.distance[:, 0].clamp(min=1e-12)).argsort()
    to_sample = (nearest_neighbors(images, fake, 1).distance[:, 0] for images in (train, held_out))
    auc, z = _rank_test(*to_sample)
    return CloserToTraining(float(wins.mean()), auc, z, order, to_train.place[order, 0])


def _rank_test(train: Float[Tensor, " n"], held_out: Float[Tensor, " h"]) -> tuple[float, float]:
    """Return the fraction of pairs in which the first is smaller, and by how many standard errors it is above ½."""
    n, m = len(train), len(held_out)
    _, place, count = torch.cat([train, held_out]).unique(return_inverse=True, return_counts=True)
    # Equal distances share the mean of their ranks.
    rank = (count.cumsum(0).double() - (count.double() - 1) / 2)[place]
    larger = float(rank[n:].sum()) - m * (m + 1) / 2
    auc = larger / (n * m)
    return auc, (auc - 0.5) / math.sqrt((n + m + 1) / (12 * n * m))
