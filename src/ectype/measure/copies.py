"""Do samples repeat each other, and do they repeat the training images?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.feed import evenly
from ectype.measure.neighbours import nearest

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
    some = real[evenly(len(real), n)]
    among_real = nearest(some, some, 1, exclude_self=True).distance[:, 0]
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
    told: float
    """How well a training image is told from a held-out one by how near it is to a sample: the share of pairs in which
    it is the nearer one; ½ is fair."""
    z: float
    """Standard errors that `told` is above ½."""
    sample: Int[Tensor, " m"]
    """Samples, those closest to a training image by comparison first."""
    nearest: Int[Tensor, " m"]
    """The training image nearest to each of these."""


def closer_to_train(
    train: Features, held_out: Float[Tensor, "h d"], fake: Float[Tensor, "m d"], *, seed: int
) -> Closer:
    """Are samples nearer to images that were trained on than to images that were not?

    The question that tells memorisation from samples that are merely too much alike (arXiv 2306.04675): images of both
    kinds come from the same source, so without copying each is as likely to be near a sample.

    The share is taken at equal numbers: several random sets of training images, each as large as the held-out one, are
    compared with it. The test asks all images at once, by the rank of their distance to the nearest sample (Mann and
    Whitney 1947): a membership test of the distance of Hayes et al. 2019 ("LOGAN") and Chen et al. 2020 ("GAN-Leaks").
    Its error is known whatever samples look like, so it holds with few held-out images too.

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
        other = away if n == len(held_out) else nearest(fake, held_out[evenly(len(held_out), n)], 1)
        wins += (near < other.distance[:, 0]).double() + 0.5 * (near == other.distance[:, 0]).double()
    wins /= SUBSETS if len(train) >= 2 * n else 1
    whole = nearest(fake, train, 1)
    order = (whole.distance[:, 0] / away.distance[:, 0].clamp(min=1e-12)).argsort()
    reach = (nearest(images, fake, 1).distance[:, 0] for images in (train, held_out))
    told, z = _ranked(*reach)
    return Closer(float(wins.mean()), told, z, order, whole.place[order, 0])


def _ranked(train: Float[Tensor, " n"], held_out: Float[Tensor, " h"]) -> tuple[float, float]:
    """Share of pairs in which the first is smaller, and by how many standard errors it is above ½."""
    n, m = len(train), len(held_out)
    _, place, count = torch.cat([train, held_out]).unique(return_inverse=True, return_counts=True)
    # Equal distances share the mean of their ranks.
    rank = (count.cumsum(0).double() - (count.double() - 1) / 2)[place]
    larger = float(rank[n:].sum()) - m * (m + 1) / 2
    share = larger / (n * m)
    return share, (share - 0.5) / math.sqrt((n + m + 1) / (12 * n * m))
