"""Precision, recall, density and coverage of generated images, from nearest neighbors in a feature space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["PRDC", "Neighbors", "nearest_neighbors", "prdc"]

MAX_DISTANCES_PER_BLOCK = 2**20
"""Distances that are held in memory at once: 8 MB, which fits into the processor's cache."""

Features = Float[Tensor, "n d"]


class Neighbors(NamedTuple):
    """The nearest of other points to each point."""

    distance: Float[Tensor, "n k"]
    """Euclidean distances, ascending."""
    place: Int[Tensor, "n k"]
    """Indices of the neighbors."""


def _rows_per_block(y: Features) -> int:
    return max(1, MAX_DISTANCES_PER_BLOCK // max(1, len(y)))


def _centered(x: Features, y: Float[Tensor, "m d"]) -> tuple[Tensor, Tensor]:
    # ‖a‖² + ‖b‖² − 2ab loses what both have in common to rounding: subtract as much of it as possible first.
    center = y.double().mean(0)
    return x.double() - center, y.double() - center


def nearest_neighbors(x: Features, y: Float[Tensor, "m d"], k: int = 1, *, exclude_self: bool = False) -> Neighbors:
    """Find the k nearest of `y` to each of `x` by Euclidean distance, in float64, one block of rows at a time.

    Args:
        x: Query points.
        y: Points to search; the same as `x` where `exclude_self`.
        k: Number of neighbors.
        exclude_self: Whether a point is no neighbor of itself.

    Raises:
        ValueError: There are fewer than k points to choose from.

    >>> found = nearest_neighbors(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [7.0]]))
    >>> found.distance.tolist(), found.place.tolist()
    ([[1.0], [2.0]], [[0], [1]])
    """
    if k > len(y) - exclude_self:
        raise ValueError(f"k={k}: there are {len(y) - exclude_self} points to choose from; take a smaller k.")
    a, b = _centered(x, y)
    squared_norms = b.square().sum(1)
    distance, index = [], []
    for start in range(0, len(a), step := _rows_per_block(y)):
        rows = a[start : start + step]
        # ‖row‖² is the same for all of a row, so it is added to the distances that were found.
        found = torch.addmm(squared_norms, rows, b.T, alpha=-2)
        if exclude_self:
            here = torch.arange(len(rows))
            found[here, start + here] = torch.inf
        # The minimum alone needs no selection, which is slower.
        values, places = found.min(dim=1, keepdim=True) if k == 1 else found.topk(k, dim=1, largest=False)
        distance.append(values.add_(rows.square().sum(1, keepdim=True)).clamp_(min=0).sqrt_())
        index.append(places)
    return Neighbors(torch.cat(distance), torch.cat(index))


class PRDC(NamedTuple):
    """Precision, recall, density and coverage, and the images that they count."""

    precision: float
    """Fraction of generated images inside the support of real images (Kynkäänniemi et al. 2019)."""
    recall: float
    """Fraction of real images inside the support of generated images."""
    density: float
    """Mean number of real neighborhoods around a generated image ÷ k (Naeem et al. 2020); may exceed 1."""
    coverage: float
    """Fraction of real images with a generated image in their neighborhood."""
    precise: Bool[Tensor, " m"]
    """Whether each generated image counts for precision."""
    recalled: Bool[Tensor, " n"]
    """Whether each real image counts for recall."""
    dense: Float[Tensor, " m"]
    """Density of each generated image."""
    covered: Bool[Tensor, " n"]
    """Whether each real image counts for coverage."""


def prdc(real: Features, fake: Float[Tensor, "m d"], k: int = 5) -> PRDC:
    """Compute precision, recall, density and coverage from neighborhoods that reach to the k-th neighbor.

    The neighborhood of an image is taken among images of its own kind. The values are those of the package `prdc` on
    the same features.

    Args:
        real: Features of real images.
        fake: Features of generated images.
        k: Less than either number of images.

    Raises:
        ValueError: k is too large.

    >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    >>> found = prdc(x, x)
    >>> found.precision, found.recall, found.coverage
    (1.0, 1.0, 1.0)
    """
    reach_real = nearest_neighbors(real, real, k, exclude_self=True).distance[:, -1]
    reach_fake = nearest_neighbors(fake, fake, k, exclude_self=True).distance[:, -1]
    a, b = _centered(fake, real)
    squared_norms = b.square().sum(1)
    dense = torch.zeros(len(a), dtype=torch.float64)
    recalled = torch.zeros(len(b), dtype=torch.bool)
    closest = torch.full((len(b),), torch.inf, dtype=torch.float64)
    for start in range(0, len(a), step := _rows_per_block(real)):
        rows = slice(start, start + step)
        distance = torch.addmm(squared_norms, a[rows], b.T, alpha=-2).add_(a[rows].square().sum(1, keepdim=True))
        distance = distance.clamp_(min=0).sqrt_()
        dense[rows] = (distance < reach_real).sum(1).double()
        recalled |= (distance < reach_fake[rows, None]).any(0)
        closest = torch.minimum(closest, distance.amin(0))
    precise, covered = dense > 0, closest < reach_real
    return PRDC(
        float(precise.double().mean()),
        float(recalled.double().mean()),
        float(dense.mean()) / k,
        float(covered.double().mean()),
        precise,
        recalled,
        dense / k,
        covered,
    )
