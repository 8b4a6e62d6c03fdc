"""Losses of masks: scores [b, k, h, w] against class indices [b, h, w]; one value per image.

Pixels of the index `IGNORED` count for nothing, in any of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.masks import IGNORED

__all__ = ["cross_entropy", "dice", "focal"]

Scores = Float[Tensor, "b k h w"]
Mask = Int[Tensor, "b h w"]
Weights = Float[Tensor, " k"]
Values = Float[Tensor, " b"]


def cross_entropy(scores: Scores, mask: Mask, weights: Weights | None = None, smoothing: float = 0.0) -> Values:
    """−log p of the right class, in nats, averaged over the pixels that count.

    With weights it is Σ w·loss / Σ w over an image's pixels, as PyTorch averages.

    Args:
        scores: Unbounded.
        mask: Class indices.
        weights: Of the classes.
        smoothing: Share of the right answer that is spread over all classes (Szegedy et al. 2016).
    """
    each = F.cross_entropy(
        scores, mask, weight=weights, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
    )
    return each.flatten(1).sum(1) / _weight(mask, weights, scores)


def focal(scores: Scores, mask: Mask, weights: Weights | None = None, gamma: float = 2.0) -> Values:
    """(1 − p)^γ · −log p of the right class (Lin et al. 2017, eq. 4), averaged like `cross_entropy`."""
    each = F.cross_entropy(scores, mask, ignore_index=IGNORED, reduction="none")
    share = torch.ones_like(each) if weights is None else weights[mask.where(mask != IGNORED, 0)]
    # Pixels that count for nothing have a loss of 0 already. A power below 1 has no slope at 0.
    missed = (-torch.expm1(-each)).clamp(min=1e-6)
    return (share * missed**gamma * each).flatten(1).sum(1) / _weight(mask, weights, scores)


def dice(scores: Scores, mask: Mask, weights: Weights | None = None, smooth: float = 1.0) -> Values:
    """1 − the soft Dice coefficient, (2 Σ p·t + s) / (Σ p + Σ t + s), a mean over classes (Milletari et al. 2016).

    Of each image by itself, so that how a batch is split changes nothing. A class that an image has none of is asked
    for little mass.

    Args:
        scores: Unbounded.
        mask: Class indices.
        weights: Of the classes in the mean.
        smooth: s, in pixels.
    """
    counts = (mask != IGNORED)[:, None]
    right = F.one_hot(mask.where(mask != IGNORED, 0), scores.shape[1]).movedim(-1, 1) * counts
    chance = scores.softmax(1) * counts
    both, either = (chance * right).flatten(2).sum(2), (chance + right).flatten(2).sum(2)
    missed = 1 - (2 * both + smooth) / (either + smooth)
    if weights is None:
        return missed.mean(1)
    return (missed * weights).sum(1) / weights.sum()


def _weight(mask: Mask, weights: Weights | None, scores: Scores) -> Values:
    """What the losses of an image's pixels are divided by: never 0."""
    counts = (mask != IGNORED).to(scores.dtype)
    if weights is not None:
        counts = counts * weights[mask.where(mask != IGNORED, 0)]
    return counts.flatten(1).sum(1).clamp(min=torch.finfo(scores.dtype).tiny)
