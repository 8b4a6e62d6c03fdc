"""Conversion of images in [0, 1] to bytes."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["as_pixels", "to_uint8"]


def to_uint8(image: Float[Tensor, "b c h w"]) -> Tensor:
    """Convert images in [0, 1] to uint8 on the CPU, with rounding. Values outside of [0, 1] are clamped."""
    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def as_pixels(image: Float[Tensor, "b c h w"]) -> np.ndarray:
    """Convert images in [0, 1] to uint8 [b, h, w, 1 or 3] for display; further channels are left out."""
    shown = image[:, :3] if image.shape[1] >= 3 else image[:, :1]
    return np.ascontiguousarray(to_uint8(shown).permute(0, 2, 3, 1).numpy())
