"""How well masks agree: counts of pixels by true and found class, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.masks import IGNORED

__all__ = ["accuracy", "boundary_f1", "confusion", "dice", "iou", "mean_of_classes", "resampled"]

Mask = Int[Tensor, "b h w"]
Counts = Float[Tensor, "k k"]
TOLERANCE = 0.0075
"""Of a boundary, as a share of the image's diagonal (Csurka et al. 2013; DAVIS, Perazzi et al. 2016, takes 0.008)."""
DRAWS = 1000
"""Sets of images drawn for an interval."""


def confusion(found: Mask, right: Mask, classes: int) -> Float[Tensor, "b k k"]:
    """Pixels of each image by their right class (row) and the one found (column); ignored ones do not count."""
    counted = right != IGNORED
    which = torch.arange(len(right), device=right.device)[:, None, None].expand_as(right)[counted]
    index = (which * classes + right[counted].long()) * classes + found[counted].long()
    counts = torch.bincount(index, minlength=len(right) * classes**2)
    return counts.view(len(right), classes, classes).cpu().double()


def iou(counts: Counts) -> Float[Tensor, " k"]:
    """Intersection over union of each class, TP / (TP + FP + FN), over all pixels counted.

    Not a number for a class that is neither there nor found: there is nothing to agree on. `mean_of_classes` leaves it
    out.
    """
    both = counts.diagonal()
    return both / (counts.sum(0) + counts.sum(1) - both)


def dice(counts: Counts) -> Float[Tensor, " k"]:
    """Dice coefficient of each class, 2 TP / (2 TP + FP + FN); not a number as in `iou`."""
    return 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))


def accuracy(counts: Counts) -> float:
    """Share of the pixels whose class is right."""
    return float(counts.diagonal().sum() / counts.sum())


def mean_of_classes(values: Float[Tensor, " k"]) -> float:
    """Over the classes that have a value; not a number where none has."""
    return float(values[~values.isnan()].mean())


def resampled(
    statistic: Callable[[Counts], float], counts: Float[Tensor, "n k k"], seed: int = 0
) -> tuple[float, float]:
    """The 95% interval of a figure of summed counts, by drawing images with replacement.

    Not a number for fewer than two images.
    """
    if len(counts) < 2:
        return math.nan, math.nan
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(counts), (DRAWS, len(counts)), generator=generator)
    times = torch.zeros(DRAWS, len(counts), dtype=counts.dtype)
    times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=counts.dtype))
    sums = torch.einsum("dn,nij->dij", times, counts)
    values = torch.tensor([statistic(each) for each in sums], dtype=torch.float64)
    values = values[~values.isnan()]
    if not len(values):
        return math.nan, math.nan
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def boundary_f1(found: Mask, right: Mask, classes: int, tolerance: float = TOLERANCE) -> Float[Tensor, "b k"]:
    """F1 of the classes' outlines in each image: do they run where they should? (Csurka et al. 2013, section 3.)

    A pixel of a class's outline, one that has a pixel of another class above, below, left or right of it, is right if
    an outline of that class in the other mask passes within `tolerance` times the image's diagonal. Precision is the
    share of right ones in what was found, recall that of what should have been. Not a number where neither mask has an
    outline of the class; 0 where one has and the other has not. Ignored pixels belong to no class.

    Args:
        found: Class indices.
        right: Class indices.
        classes: How many.
        tolerance: As a share of the diagonal; rounded up to whole pixels, at least 1.
    """
    radius = max(1, math.ceil(tolerance * math.hypot(*right.shape[1:])))
    place = torch.arange(-radius, radius + 1, device=right.device)
    disc = ((place[:, None] ** 2 + place[None] ** 2) <= radius**2).float()[None, None]
    valid = (right != IGNORED).float()[:, None]
    scores = []
    for index in range(classes):
        outlines = []
        for mask in (found, right):
            own = (mask == index).float()[:, None] * valid
            outlines.append(own * _differs(own, valid))
        near = [F.conv2d(outline, disc, padding=radius) > 0 for outline in outlines]
        hits = [(outlines[i] * near[1 - i]).flatten(1).sum(1) for i in (0, 1)]
        totals = [outline.flatten(1).sum(1) for outline in outlines]
        # F1 = 2PR / (P + R), with 0 for a share of nothing unless both are of nothing.
        shares = [hit / total.clamp(min=1) for hit, total in zip(hits, totals, strict=True)]
        score = 2 * shares[0] * shares[1] / (shares[0] + shares[1]).clamp(min=1e-12)
        scores.append(score.masked_fill(totals[0] + totals[1] == 0, math.nan))
    return torch.stack(scores, 1).cpu().double()


def _differs(own: Float[Tensor, "b 1 h w"], valid: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """1 where a neighbour that counts differs; neither the image's border nor an ignored area makes an outline."""

    def beside(x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        moved = (padded[:, :, :-2, 1:-1], padded[:, :, 2:, 1:-1], padded[:, :, 1:-1, :-2], padded[:, :, 1:-1, 2:])
        return torch.stack(moved)

    return ((beside(own) != own).float() * beside(valid)).amax(0)
