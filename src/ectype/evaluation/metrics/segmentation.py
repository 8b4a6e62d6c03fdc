"""Agreement of segmentation masks: confusion matrices, and the metrics that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.masks import IGNORE_INDEX
from ectype.evaluation.metrics.intervals import Interval

__all__ = [
    "bootstrap_interval",
    "boundary_f1",
    "confusion_matrices",
    "dice",
    "iou",
    "mean_over_classes",
    "pixel_accuracy",
]

Mask = Int[Tensor, "b h w"]
Counts = Float[Tensor, "k k"]
BOUNDARY_TOLERANCE = 0.0075
"""Fraction of the image's diagonal that a boundary may be off (Csurka et al. 2013; DAVIS, Perazzi et al. 2016, takes
0.008)."""
BOOTSTRAP_SAMPLES = 1000


def confusion_matrices(predicted: Mask, target: Mask, classes: int) -> Float[Tensor, "b k k"]:
    """Count the pixels of each image by their target class (row) and predicted class (column).

    Pixels whose target is `IGNORE_INDEX` do not count.

    >>> confusion_matrices(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]), 2).tolist()
    [[[1.0, 1.0], [0.0, 0.0]]]
    """
    counted = target != IGNORE_INDEX
    image = torch.arange(len(target), device=target.device)[:, None, None].expand_as(target)[counted]
    index = (image * classes + target[counted].long()) * classes + predicted[counted].long()
    counts = torch.bincount(index, minlength=len(target) * classes**2)
    return counts.view(len(target), classes, classes).cpu().double()


def iou(counts: Counts) -> Float[Tensor, " k"]:
    """Compute the intersection over union of each class, TP / (TP + FP + FN), over all counted pixels.

    NaN for a class that is neither in the target nor predicted; `mean_over_classes` leaves it out.

    >>> iou(torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist()
    [0.5, 0.6666666865348816]
    """
    both = counts.diagonal()
    return both / (counts.sum(0) + counts.sum(1) - both)


def dice(counts: Counts) -> Float[Tensor, " k"]:
    """Compute the Dice coefficient of each class, 2 TP / (2 TP + FP + FN); NaN as in `iou`.

    >>> dice(torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist()
    [0.6666666865348816, 0.800000011920929]
    """
    return 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))


def pixel_accuracy(counts: Counts) -> float:
    """Compute the fraction of pixels whose class is right.

    >>> pixel_accuracy(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    0.75
    """
    return float(counts.diagonal().sum() / counts.sum())


def mean_over_classes(values: Float[Tensor, " k"]) -> float:
    """Average over the classes that have a value; NaN where none has."""
    return float(values[~values.isnan()].mean())


def bootstrap_interval(statistic: Callable[[Counts], float], counts: Float[Tensor, "n k k"], seed: int = 0) -> Interval:
    """Return the 95% interval of a statistic of summed counts, by drawing images with replacement.

    Args:
        statistic: Function of the confusion matrix over all images.
        counts: Confusion matrix of each image.
        seed: Seed of the draws.

    Returns:
        Both ends, NaN for fewer than two images.
    """
    if len(counts) < 2:
        return Interval(math.nan, math.nan)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(counts), (BOOTSTRAP_SAMPLES, len(counts)), generator=generator)
    times = torch.zeros(BOOTSTRAP_SAMPLES, len(counts), dtype=counts.dtype)
    times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=counts.dtype))
    sums = torch.einsum("dn,nij->dij", times, counts)
    values = torch.tensor([statistic(each) for each in sums], dtype=torch.float64)
    values = values[~values.isnan()]
    if not len(values):
        return Interval(math.nan, math.nan)
    return Interval(*torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist())


def boundary_f1(
    predicted: Mask, target: Mask, classes: int, tolerance: float = BOUNDARY_TOLERANCE
) -> Float[Tensor, "b k"]:
    """Compute the boundary F1 of each class in each image (Csurka et al. 2013, section 3).

    A boundary pixel of a class has a pixel of another class above, below, left or right of it. It is matched if a
    boundary of that class in the other mask passes within `tolerance` times the image's diagonal. Precision is the
    fraction of matched pixels in the predicted boundary, recall that in the target boundary. Pixels that are ignored
    belong to no class.

    Args:
        predicted: Class indices.
        target: Class indices, `IGNORE_INDEX` where a pixel does not count.
        classes: Number of classes.
        tolerance: Fraction of the diagonal; rounded up to whole pixels, at least 1.

    Returns:
        F1 in [0, 1]; NaN where neither mask has a boundary of the class, 0 where only one has.
    """
    radius = max(1, math.ceil(tolerance * math.hypot(*target.shape[1:])))
    offset = torch.arange(-radius, radius + 1, device=target.device)
    disc = ((offset[:, None] ** 2 + offset[None] ** 2) <= radius**2).float()[None, None]
    valid = (target != IGNORE_INDEX).float()[:, None]
    scores = []
    for index in range(classes):
        boundaries = []
        for mask in (predicted, target):
            own = (mask == index).float()[:, None] * valid
            boundaries.append(own * _has_different_neighbor(own, valid))
        near = [F.conv2d(boundary, disc, padding=radius) > 0 for boundary in boundaries]
        hits = [(boundaries[i] * near[1 - i]).flatten(1).sum(1) for i in (0, 1)]
        totals = [boundary.flatten(1).sum(1) for boundary in boundaries]
        # F1 = 2PR / (P + R); a fraction of an empty boundary is 0, unless both boundaries are empty.
        fractions = [hit / total.clamp(min=1) for hit, total in zip(hits, totals, strict=True)]
        score = 2 * fractions[0] * fractions[1] / (fractions[0] + fractions[1]).clamp(min=1e-12)
        scores.append(score.masked_fill(totals[0] + totals[1] == 0, math.nan))
    return torch.stack(scores, 1).cpu().double()


def _has_different_neighbor(own: Float[Tensor, "b 1 h w"], valid: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Return 1 where a valid neighbor differs; neither the image's border nor an ignored area makes a boundary."""

    def neighbors(x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        shifted = (padded[:, :, :-2, 1:-1], padded[:, :, 2:, 1:-1], padded[:, :, 1:-1, :-2], padded[:, :, 1:-1, 2:])
        return torch.stack(shifted)

    return ((neighbors(own) != own).float() * neighbors(valid)).amax(0)
