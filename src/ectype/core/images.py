"""Conversion of images in [0, 1] to bytes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["to_uint8"]


def to_uint8(image: Float[Tensor, "b c h w"]) -> Tensor:
    """Convert images in [0, 1] to uint8 on the CPU, with rounding. Values outside of [0, 1] are clamped."""
    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
