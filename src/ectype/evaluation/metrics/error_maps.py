"""How badly an image is reconstructed: over all pixels, and where it is worst."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["BLUR_SIGMA_PX", "ErrorMaps", "error_maps"]

BLUR_SIGMA_PX = 2.0
"""Standard deviation of the Gaussian that smooths error maps: one wrong pixel is noise, several are a defect."""


class ErrorMaps(NamedTuple):
    """Reconstruction errors of images."""

    mean: Float[Tensor, " b"]
    """Mean squared error over all pixels."""
    peak: Float[Tensor, " b"]
    """Maximum of the smoothed error map."""
    map: Float[Tensor, "b h w"]
    """The smoothed squared error, a mean over channels."""


def error_maps(image: Float[Tensor, "b c h w"], output: Float[Tensor, "b c h w"]) -> ErrorMaps:
    """Compare images with their reconstructions.

    Args:
        image: Images in [0, 1].
        output: Their reconstructions, which are clamped to [0, 1].

    >>> found = error_maps(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8))
    >>> found.mean.tolist(), round(float(found.peak), 4)
    ([1.0], 1.0)
    """
    squared = (image - output.clamp(0, 1)).square().mean(1, keepdim=True)
    radius = int(3 * BLUR_SIGMA_PX)
    offset = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-(offset**2) / (2 * BLUR_SIGMA_PX**2))
    kernel = kernel / kernel.sum()
    rows = F.conv2d(F.pad(squared, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
    smooth = F.conv2d(F.pad(rows, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))[:, 0]
    return ErrorMaps(squared.flatten(1).mean(1), smooth.flatten(1).amax(1), smooth)
