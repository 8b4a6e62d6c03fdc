"""Do samples repeat each other, and do they repeat the training images?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.measure.neighbours import Neighbours, nearest

__all__ = ["Authenticity", "Closer", "Duplicates", "closer_to_train", "duplicates"]

RARE = 0.005
"""Share of real images that have another as close as what counts as a repetition."""
SUBSETS = 5
"""Sets of training images that samples are compared with."""

Features = Float[Tensor, "n d"]


class Duplicates(NamedTuple):
    """Samples that all but repeat another one."""

    rate: float
    """Share of samples with another one closer than all but a two-hundredth of real images come to each other."""
    support: float
    """Birthday estimate of how many different images there are, n(n − 1) / 2 ÷ pairs; infinite without a pair."""
    pairs: Int[Tensor, "p 2"]
    """The closest pairs, closest first, each once."""


def duplicates(real: Features, fake: Float[Tensor, "m d"]) -> Duplicates:
    """The birthday test (Arora & Zhang 2018): few different images repeat themselves in a small sample.

    How close counts is taken from as many real images as there are samples, or from all there are: the more there are,
    the closer the closest, so fewer real images make the test stricter, never blind.

    Args:
        real: Features of real images that the samples are compared with.
        fake: Of samples.
    """
    n = min(len(real), len(fake))
    among_real = nearest(real[:n], real[:n], 1, exclude_self=True).distance[:, 0]
    # Copies among the real images say nothing of how close different ones come.
    threshold = float(torch.quantile(among_real[among_real > 0], RARE)) if (among_real > 0).any() else 0.0
    found = nearest(fake[:n], fake[:n], 1, exclude_self=True)
    close = found.distance[:, 0] <= threshold
    order = found.distance[:, 0].argsort()
    pairs = torch.stack([order, found.place[order, 0]], dim=1).sort(dim=1).values
    kept: dict[tuple[int, int], None] = dict.fromkeys((int(a), int(b)) for a, b in pairs[:64])
    unique = torch.tensor(list(kept), dtype=torch.int64).reshape(-1, 2)
    colliding = int(close.sum()) / 2
    support = n * (n - 1) / 2 / colliding if colliding else math.inf
    return Duplicates(float(close.double().mean()), support, unique)


class Authenticity:
    """Share of samples farther from their nearest training image than that one is from the next (Alaa et al. 2022).

    Fresh real images have somewhat above ½; copies, and samples drawn in towards the middle of the data, have few.

    Args:
        train: Features of training images; how far each is from the next is found once.
    """

    def __init__(self, train: Features) -> None:
        self.train = train
        self._apart = nearest(train, train, 1, exclude_self=True).distance[:, 0]

    def __call__(self, fake: Float[Tensor, "m d"]) -> float:
        """The share of these samples."""
        found = nearest(fake, self.train, 1)
        return float((found.distance[:, 0] > self._apart[found.place[:, 0]]).double().mean())


class Closer(NamedTuple):
    """Samples against training and held-out images."""

    share: float
    """Of samples whose nearest real image is a training one, where there are as many of both; ½ is fair."""
    z: float
    """Standard errors by which fewer samples than by chance have a held-out image as the nearest of all images."""
    sample: Int[Tensor, " m"]
    """Samples, those closest to a training image by comparison first."""
    nearest: Int[Tensor, " m"]
    """The training image nearest to each of these."""


def closer_to_train(
    train: Features, held_out: Float[Tensor, "h d"], fake: Float[Tensor, "m d"], *, seed: int
) -> Closer:
    """Are samples nearer to images that were trained on than to images that were not?

    The question that tells memorisation from samples that are merely too much alike (arXiv 2306.04675): images of both
    kinds come from the same source, so without copying each is as likely to be the nearest.

    The share is taken at equal numbers: several random sets of training images, each as large as the held-out one, are
    compared with it. The test asks all images at once: of how many samples is each image the nearest? If held-out
    images are a random draw from all, then so are their counts, and the sum of a draw without replacement has a known
    mean and variance (Cochran 1977, section 2.5). That some images are the nearest of many samples is in it.

    Args:
        train: Features of training images.
        held_out: Of images that were not trained on.
        fake: Of samples.
        seed: Of the sets.
    """
    n = min(len(train), len(held_out))
    generator = torch.Generator().manual_seed(seed)
    away = nearest(fake, held_out, 1)
    wins = torch.zeros(len(fake), dtype=torch.float64)
    for _ in range(SUBSETS if len(train) >= 2 * n else 1):
        chosen = torch.randperm(len(train), generator=generator)[:n]
        near = nearest(fake, train[chosen], 1).distance[:, 0]
        other = away.distance[:, 0] if n == len(held_out) else nearest(fake, held_out[:n], 1).distance[:, 0]
        wins += (near < other).double() + 0.5 * (near == other).double()
    wins /= SUBSETS if len(train) >= 2 * n else 1
    share = float(wins.mean())
    whole = nearest(fake, train, 1)
    order = (whole.distance[:, 0] / away.distance[:, 0].clamp(min=1e-12)).argsort()
    return Closer(share, _scarcity(whole, away, len(train), len(held_out)), order, whole.place[order, 0])


def _scarcity(train: Neighbours, held_out: Neighbours, n: int, m: int) -> float:
    """By how many standard errors `m` held-out images of `n + m` are too rarely the nearest."""
    theirs = held_out.distance[:, 0] < train.distance[:, 0]
    counts = torch.zeros(n + m, dtype=torch.float64)
    places = torch.where(theirs, n + held_out.place[:, 0], train.place[:, 0])
    counts.index_add_(0, places, torch.ones(len(places), dtype=torch.float64))
    expected, error = m * counts.mean(), (m * (n / (n + m)) * counts.var()).sqrt()
    return float((expected - counts[n:].sum()) / error.clamp(min=1e-12))
