"""How many different kinds of images a set holds, and which kinds of the real images it lacks."""

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

from ectype.core.errors import DataError
from ectype.data.loader import evenly_spaced
from ectype.evaluation.metrics.precision_recall import nearest_neighbors

__all__ = ["BinComparison", "Bins", "fit_bins", "ndb", "vendi", "vendi_ratio"]

MIN_IMAGES_PER_BIN = 10
"""Real images that a bin should hold on average: a proportion of fewer images cannot be told from chance."""
CRITICAL_Z = 1.96
"""Standard errors beyond which two proportions differ at the 5% level, two-sided."""
LOST_RATIO = 0.1
"""A bin is lost when generated images fill less than this fraction of its proportion among real images."""

Kernel = Callable[[Tensor], Tensor]
"""Features [n, d] → positive semidefinite similarities [n, n] with ones on the diagonal."""


def vendi(features: Float[Tensor, "n d"], kernel: Kernel | None = None) -> float:
    """Compute the Vendi score: the effective number of different images (Friedman and Dieng 2023, definition 3.1).

    It is exp of the entropy of the eigenvalues of K / n: 1 where all images are identical, n where none resembles
    another. It grows with n, so only scores at the same n compare.

    Args:
        features: Features of at least one image.
        kernel: Similarities, see `Kernel`; None for the cosine, whose eigenvalues are taken from the d × d matrix where
            d < n. Features that are all zero have no direction: they count as equal to each other and unlike the rest.

    Raises:
        DataError: No features, or some that are not finite.

    >>> round(vendi(torch.eye(3)), 6), round(vendi(torch.ones(3, 2)), 6)
    (3.0, 1.0)
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
        zeros = features.new_tensor([1 - n / len(features)])
        values = torch.cat([torch.linalg.eigvalsh(products / len(features)), zeros])
    values = values[values > 0]
    return float(torch.exp(-(values * values.log()).sum()))


def vendi_ratio(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], kernel: Kernel | None = None) -> float:
    """Compute the Vendi score of generated images ÷ that of real images.

    It is below 1 where generated images are less diverse, and above 1 for noise. Of the larger set only as many images
    are used as the smaller one has, spread evenly, because the score grows with their number.

    Raises:
        DataError: No features, or some that are not finite.

    >>> real = torch.eye(4)
    >>> round(vendi_ratio(real, real[:2].repeat(2, 1)), 6)
    0.5
    """
    n = min(len(real), len(fake))
    return vendi(fake[evenly_spaced(len(fake), n)], kernel) / vendi(real[evenly_spaced(len(real), n)], kernel)


class BinComparison(NamedTuple):
    """Real and generated images counted in the same bins."""

    bins: int
    """Number of bins."""
    different: float
    """NDB/K: fraction of bins whose proportions differ at the 5% level; 0.05 or less for a perfect generator."""
    jensen_shannon: float
    """Divergence of both histograms in nats, in [0, log 2]."""
    lost: list[int]
    """Bins that generated images fill significantly less, and below a tenth of the real proportion; the largest real
    bin first."""
    lost_mass: float
    """Fraction of real images in lost bins."""
    real_fractions: Float[Tensor, " k"]
    """Proportion of each bin among real images."""
    fake_fractions: Float[Tensor, " k"]
    """Proportion of each bin among generated images."""
    real_bins: Int[Tensor, " n"]
    """Bin of each real image, so that images of lost bins can be shown."""


class Bins(NamedTuple):
    """Cells of a feature space, by their centers."""

    means: Float[Tensor, "k d"]

    def assign(self, features: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """Return the cell of each image."""
        return nearest_neighbors(features, self.means).place[:, 0]


def fit_bins(train: Float[Tensor, "t d"], real: int, k: int = 100, seed: int = 0) -> Bins:
    """Fit the k-means cells of training features (Richardson and Weiss 2018, section 3).

    Args:
        train: Features that bins are fitted on.
        real: How many real images will be counted in the bins.
        k: Maximum number of bins. There are at most a tenth as many bins as training images and as real images, so
            that a bin expects ten.
        seed: Seed of k-means.

    Raises:
        DataError: Fewer than 20 training or real images, which fill no two bins, or features that are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    bins = min(k, len(train) // MIN_IMAGES_PER_BIN, real // MIN_IMAGES_PER_BIN)
    if bins < 2:
        raise DataError(
            f"{len(train)} training and {real} real images fill {max(bins, 0)} of {k} bins: give "
            f"{2 * MIN_IMAGES_PER_BIN} or more of each, and ask for two bins or more."
        )
    array = np.ascontiguousarray(train.detach().cpu().numpy(), np.float32)
    if not np.isfinite(array).all():
        raise DataError("bins need features that are finite: look for broken images or weights.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct images than bins: the others stay empty
        means = KMeans(bins, n_init="auto", random_state=seed % 2**32).fit(array)
    return Bins(torch.from_numpy(means.cluster_centers_).float())


def ndb(cells: Bins, real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> BinComparison:
    """Count the statistically different bins (Richardson and Weiss 2018, section 3), and find the lost ones.

    A two-proportion z-test compares each bin's proportions among real and generated images. The paper counts the
    training images themselves as the real ones; held-out images are the stricter choice, because the bins were not
    fitted on them.

    Args:
        cells: Bins from `fit_bins`.
        real: Features of real images, preferably held out.
        fake: Features of generated images.

    Raises:
        DataError: No generated images, or features that are not finite.

    >>> cells = Bins(torch.tensor([[0.0], [10.0]]))
    >>> real = torch.tensor([[0.0], [10.0]]).repeat(50, 1)
    >>> found = ndb(cells, real, torch.zeros(100, 1))
    >>> found.different, found.lost, found.lost_mass
    (1.0, [1], 0.5)
    """
    bins = len(cells.means)
    if len(fake) == 0 or not (torch.isfinite(real).all() and torch.isfinite(fake).all()):
        raise DataError(f"{len(fake)} generated images cannot be counted in bins: give one or more, all finite.")
    assigned = [cells.assign(features) for features in (real, fake)]
    counts = torch.stack([bin.bincount(minlength=bins) for bin in assigned]).double()
    n = counts.sum(1, keepdim=True)
    real_fractions, fake_fractions = fractions = counts / n
    pooled = counts.sum(0) / n.sum()
    error = (pooled * (1 - pooled) * (1 / n).sum()).sqrt()
    z = torch.where(error > 0, (real_fractions - fake_fractions) / error, 0)
    missing = (z > CRITICAL_Z) & (fake_fractions < LOST_RATIO * real_fractions)
    lost = sorted(missing.nonzero()[:, 0].tolist(), key=lambda bin: -float(real_fractions[bin]))
    middle = fractions.mean(0)
    divergence = float(torch.special.xlogy(fractions, fractions / middle.where(middle > 0, 1)).sum()) / 2
    return BinComparison(
        bins=bins,
        different=float((z.abs() > CRITICAL_Z).double().mean()),
        jensen_shannon=min(max(0.0, divergence), math.log(2)),
        lost=lost,
        lost_mass=float(real_fractions[lost].sum()),
        real_fractions=real_fractions,
        fake_fractions=fake_fractions,
        real_bins=assigned[0],
    )
