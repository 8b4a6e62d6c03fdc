"""Who is whose neighbour: precision, recall, density and coverage of generated images among real ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["PRDC", "Neighbours", "nearest", "prdc"]

CHUNK = 2**20
"""Distances that are held at once: 8 MB, which the processor keeps close by."""

Features = Float[Tensor, "n d"]


class Neighbours(NamedTuple):
    """The nearest of other points to each point."""

    distance: Float[Tensor, "n k"]
    """Ascending."""
    place: Int[Tensor, "n k"]


def _rows(x: Features, y: Float[Tensor, "m d"]) -> int:
    return max(1, CHUNK // max(1, len(y)))


def _centred(x: Features, y: Float[Tensor, "m d"]) -> tuple[Tensor, Tensor]:
    # ‖a‖² + ‖b‖² − 2ab loses what both have in common to rounding: take out as much as can be.
    centre = y.double().mean(0)
    return x.double() - centre, y.double() - centre


def nearest(x: Features, y: Float[Tensor, "m d"], k: int = 1, *, exclude_self: bool = False) -> Neighbours:
    """The k nearest of `y` to each of `x`, by Euclidean distance, in float64, a block of rows at a time.

    Args:
        x: Points.
        y: Among which to look; the same as `x` where `exclude_self`.
        k: How many, less than there are.
        exclude_self: Leave each point itself out.

    Raises:
        ValueError: Fewer than k points to choose from.
    """
    if k > len(y) - exclude_self:
        raise ValueError(f"k={k}: there are {len(y) - exclude_self} points to choose from; take a smaller k.")
    a, b = _centred(x, y)
    squares = b.square().sum(1)
    distance, index = [], []
    for start in range(0, len(a), step := _rows(x, y)):
        rows = a[start : start + step]
        # ‖row‖² is the same for all of a row: it is added to what is found.
        found = torch.addmm(squares, rows, b.T, alpha=-2)
        if exclude_self:
            here = torch.arange(len(rows))
            found[here, start + here] = torch.inf
        # The smallest alone needs no selection, which is slower.
        values, places = found.min(dim=1, keepdim=True) if k == 1 else found.topk(k, dim=1, largest=False)
        distance.append(values.add_(rows.square().sum(1, keepdim=True)).clamp_(min=0).sqrt_())
        index.append(places)
    return Neighbours(torch.cat(distance), torch.cat(index))


class PRDC(NamedTuple):
    """Shares, and which images they count."""

    precision: float
    """Of generated images inside of the support of real ones (Kynkäänniemi et al. 2019)."""
    recall: float
    """Of real images inside of the support of generated ones."""
    density: float
    """Mean number of real neighbourhoods around a generated image ÷ k (Naeem et al. 2020); may exceed 1."""
    coverage: float
    """Of real images with a generated one in their neighbourhood."""
    precise: Bool[Tensor, " m"]
    recalled: Bool[Tensor, " n"]
    dense: Float[Tensor, " m"]
    covered: Bool[Tensor, " n"]


def prdc(real: Features, fake: Float[Tensor, "m d"], k: int = 5) -> PRDC:
    """Precision and recall, density and coverage, by neighbourhoods that reach to the k-th neighbour of the same kind.

    The values are those of the package `prdc` on the same features.

    Args:
        real: Features of real images.
        fake: Of generated images.
        k: Less than either number of images.

    Raises:
        ValueError: k is too large.
    """
    reach_real = nearest(real, real, k, exclude_self=True).distance[:, -1]
    reach_fake = nearest(fake, fake, k, exclude_self=True).distance[:, -1]
    a, b = _centred(fake, real)
    squares = b.square().sum(1)
    dense = torch.zeros(len(a), dtype=torch.float64)
    recalled = torch.zeros(len(b), dtype=torch.bool)
    closest = torch.full((len(b),), torch.inf, dtype=torch.float64)
    for start in range(0, len(a), step := _rows(fake, real)):
        rows = slice(start, start + step)
        distance = torch.addmm(squares, a[rows], b.T, alpha=-2).add_(a[rows].square().sum(1, keepdim=True))
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
