"""How many kinds of images a set holds, and which of the real ones it lacks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.feed import evenly
from ectype.errors import DataError
from ectype.measure.neighbours import nearest

__all__ = ["BinComparison", "Bins", "fit_bins", "ndb", "vendi", "vendi_ratio"]

FILLED = 10
"""Real images that a bin should hold on average: a share of fewer cannot be told from chance."""
SIGNIFICANT = 1.96
"""Standard errors beyond which two shares differ at the 5% level, two-sided."""
LOST = 0.1
"""A bin is lost when fakes fill less than this part of its share among real images."""

Kernel = Callable[[Tensor], Tensor]
"""Features [n, d] → positive semidefinite similarities [n, n] with ones on the diagonal."""


def vendi(features: Float[Tensor, "n d"], kernel: Kernel | None = None) -> float:
    """The Vendi score: the effective number of different images (Friedman and Dieng 2023, definition 3.1).

    It is exp of the entropy of the eigenvalues of K / n: 1 where all are alike, n where none resembles another. It
    grows with n: compare at the same n only.

    Args:
        features: Of at least one image.
        kernel: Similarities, see `Kernel`; None for the cosine, whose eigenvalues are taken of the d × d matrix where
            d < n. Features of nothing but zeros, which have no direction, count as alike and unlike all others.

    Raises:
        DataError: No features, or some that are not finite.
    """
    if len(features) == 0 or not bool(features.isfinite().all()):
        raise DataError(f"a Vendi score of {len(features)} features needs one or more, and all of them finite.")
    features = features.double()
    if kernel is not None:
        values = torch.linalg.eigvalsh(kernel(features).double() / len(features))
    else:
        directed = F.normalize(features[features.square().sum(1) > 0], dim=1, eps=0)
        n, d = directed.shape
        products = directed.T @ directed if d < n else directed @ directed.T
        alike = features.new_tensor([1 - n / len(features)])
        values = torch.cat([torch.linalg.eigvalsh(products / len(features)), alike])
    values = values[values > 0]
    return float(torch.exp(-(values * values.log()).sum()))


def vendi_ratio(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], kernel: Kernel | None = None) -> float:
    """Vendi score of fakes ÷ that of real images: below 1 where fakes are less diverse; noise is above 1.

    Of the larger set only as many are used as the smaller has, spread evenly, since the score grows with their number.

    Raises:
        DataError: No features, or some that are not finite.
    """
    n = min(len(real), len(fake))
    return vendi(fake[evenly(len(fake), n)], kernel) / vendi(real[evenly(len(real), n)], kernel)


class BinComparison(NamedTuple):
    """Real and generated images counted in the same bins."""

    bins: int
    """How many there are."""
    different: float
    """NDB/K: share of bins whose shares differ at the 5% level. About .05 for a perfect generator, or below."""
    jensen_shannon: float
    """Divergence of both histograms in nats, in [0, log 2]."""
    lost: list[int]
    """Bins that fakes fill significantly less and with under a tenth of the real share; the largest real one first."""
    lost_mass: float
    """Share of real images in lost bins."""
    real_shares: Float[Tensor, " k"]
    """Of each bin among real images."""
    fake_shares: Float[Tensor, " k"]
    """Of each bin among fakes."""
    real_bins: Int[Tensor, " n"]
    """The bin of each real image, so that lost ones can be shown."""


class Bins(NamedTuple):
    """Cells of the feature space."""

    means: Float[Tensor, "k d"]

    def assign(self, features: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The cell of each."""
        return nearest(features, self.means).place[:, 0]


def fit_bins(train: Float[Tensor, "t d"], real: int, k: int = 100, seed: int = 0) -> Bins:
    """The k-means cells of training features (Richardson and Weiss 2018, section 3).

    Args:
        train: Features that bins are fitted on.
        real: How many real images will be counted in them.
        k: Most bins. There are at most a tenth as many as training and as real images, so that a bin expects ten.
        seed: Of k-means.

    Raises:
        DataError: Fewer than 20 training or real images, which fill no two bins, or features not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    bins = min(k, len(train) // FILLED, real // FILLED)
    if bins < 2:
        raise DataError(
            f"{len(train)} training and {real} real images fill {max(bins, 0)} of {k} bins: give {2 * FILLED} or more "
            "of each, and ask for two bins or more."
        )
    array = np.ascontiguousarray(train.detach().cpu().numpy(), np.float32)
    if not np.isfinite(array).all():
        raise DataError("bins need features that are finite: look for broken images or weights.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct images than bins: the rest stay empty
        means = KMeans(bins, n_init="auto", random_state=seed % 2**32).fit(array)
    return Bins(torch.from_numpy(means.cluster_centers_).float())


def ndb(cells: Bins, real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> BinComparison:
    """The number of statistically different bins (Richardson and Weiss 2018, section 3), and which ones are lost.

    A two-proportion z-test compares each bin's shares among real and generated images. The paper counts the training
    images themselves as the real ones; held-out ones are the stricter choice, as bins were not fitted on them.

    Args:
        cells: Of `fit_bins`.
        real: Features of real images, best held out.
        fake: Generated features.

    Raises:
        DataError: No fakes, or features not finite.
    """
    bins = len(cells.means)
    if len(fake) == 0 or not (torch.isfinite(real).all() and torch.isfinite(fake).all()):
        raise DataError(f"{len(fake)} generated images cannot be counted in bins: give one or more, all finite.")
    found = [cells.assign(features) for features in (real, fake)]
    counts = torch.stack([bin.bincount(minlength=bins) for bin in found]).double()
    n = counts.sum(1, keepdim=True)
    real_share, fake_share = shares = counts / n
    pooled = counts.sum(0) / n.sum()
    error = (pooled * (1 - pooled) * (1 / n).sum()).sqrt()
    z = torch.where(error > 0, (real_share - fake_share) / error, 0)
    missing = (z > SIGNIFICANT) & (fake_share < LOST * real_share)
    lost = sorted(missing.nonzero()[:, 0].tolist(), key=lambda bin: -float(real_share[bin]))
    middle = shares.mean(0)
    divergence = float(torch.special.xlogy(shares, shares / middle.where(middle > 0, 1)).sum()) / 2
    return BinComparison(
        bins=bins,
        different=float((z.abs() > SIGNIFICANT).double().mean()),
        jensen_shannon=min(max(0.0, divergence), math.log(2)),
        lost=lost,
        lost_mass=float(real_share[lost].sum()),
        real_shares=real_share,
        fake_shares=fake_share,
        real_bins=found[0],
    )
