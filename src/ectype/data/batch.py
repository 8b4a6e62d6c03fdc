"""The batch of images that a training step receives."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Batch"]


class Batch(NamedTuple):
    """Images with their labels and targets."""

    image: Float[Tensor, "b c h w"]
    """Values in [0, 1], as in every public image tensor."""
    label: Int[Tensor, " b"] | None = None
    """Class indices."""
    target: Tensor | None = None
    """[b, …] masks or paired images."""
    code: Float[Tensor, "b s ..."] | None = None
    """Codes that were computed in advance: then `image` is empty. See `LatentSpaceModel.encode_posterior`."""
