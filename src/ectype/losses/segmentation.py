"""Segmentation losses of logits [b, k, h, w] and class indices [b, h, w]; one value per image.

Pixels with the index `IGNORE_INDEX` are ignored by all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.masks import IGNORE_INDEX

__all__ = ["cross_entropy", "dice", "focal"]

Logits = Float[Tensor, "b k h w"]
Mask = Int[Tensor, "b h w"]
Weights = Float[Tensor, " k"]
Values = Float[Tensor, " b"]


def cross_entropy(logits: Logits, mask: Mask, weights: Weights | None = None, smoothing: float = 0.0) -> Values:
    """Compute −log p of the correct class, in nats, averaged over the pixels that are not ignored.

    With weights it is Σ w·loss / Σ w over the pixels of an image, as in PyTorch.

    Args:
        logits: Unnormalized scores of the k classes [b, k, h, w].
        mask: Class indices [b, h, w].
        weights: Weight of each class [k].
        smoothing: Fraction of the target probability that is spread over all classes (Szegedy et al. 2016).

    Returns:
        One value per image [b]; 0 for an image whose pixels are all ignored.
    """
    losses = F.cross_entropy(
        logits, mask, weight=weights, ignore_index=IGNORE_INDEX, reduction="none", label_smoothing=smoothing
    )
    return losses.flatten(1).sum(1) / _total_weight(mask, weights, logits)


def focal(logits: Logits, mask: Mask, weights: Weights | None = None, gamma: float = 2.0) -> Values:
    """Compute (1 − p)^γ · −log p of the correct class (Lin et al. 2017, eq. 4), averaged like `cross_entropy`.

    Args:
        logits: Unnormalized scores of the k classes [b, k, h, w].
        mask: Class indices [b, h, w].
        weights: Weight of each class [k].
        gamma: γ, at least 0; larger values give less weight to pixels that are already classified well.

    Returns:
        One value per image [b].
    """
    losses = F.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX, reduction="none")
    pixel_weights = torch.ones_like(losses) if weights is None else weights[mask.where(mask != IGNORE_INDEX, 0)]
    # Ignored pixels have a loss of 0 already. The clamp is there because the gradient of a power below 1 is infinite
    # at 0.
    missing = (-torch.expm1(-losses)).clamp(min=1e-6)
    return (pixel_weights * missing**gamma * losses).flatten(1).sum(1) / _total_weight(mask, weights, logits)


def dice(logits: Logits, mask: Mask, weights: Weights | None = None, smooth: float = 1.0) -> Values:
    """Compute 1 − the soft Dice coefficient (2 Σ p·t + s) / (Σ p + Σ t + s), averaged over classes.

    From Milletari et al. 2016. The coefficient is computed for each image separately, so that splitting a batch changes
    nothing. For a class that is absent from an image, the loss only asks for a small total probability.

    Args:
        logits: Unnormalized scores of the k classes [b, k, h, w].
        mask: Class indices [b, h, w].
        weights: Weight of each class [k] in the mean over classes.
        smooth: s, in pixels.

    Returns:
        One value per image [b], in [0, 1].

    Example:
        >>> mask = torch.tensor([[[0, 1], [1, 0]]])
        >>> logits = 100.0 * F.one_hot(mask, 2).movedim(-1, 1)
        >>> dice(logits, mask), dice(-logits, mask)
        (tensor([0.]), tensor([0.8000]))
    """
    valid = (mask != IGNORE_INDEX)[:, None]
    target = F.one_hot(mask.where(mask != IGNORE_INDEX, 0), logits.shape[1]).movedim(-1, 1) * valid
    probability = logits.softmax(1) * valid
    intersection = (probability * target).flatten(2).sum(2)
    total = (probability + target).flatten(2).sum(2)
    losses = 1 - (2 * intersection + smooth) / (total + smooth)
    if weights is None:
        return losses.mean(1)
    return (losses * weights).sum(1) / weights.sum()


def _total_weight(mask: Mask, weights: Weights | None, logits: Logits) -> Values:
    """Return the sum of the weights of each image's pixels, clamped so that it is never 0."""
    pixel_weights = (mask != IGNORE_INDEX).to(logits.dtype)
    if weights is not None:
        pixel_weights = pixel_weights * weights[mask.where(mask != IGNORE_INDEX, 0)]
    return pixel_weights.flatten(1).sum(1).clamp(min=torch.finfo(logits.dtype).tiny)
