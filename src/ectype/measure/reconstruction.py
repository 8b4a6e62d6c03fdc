"""How close an image is to another."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.losses.ssim import ssim

__all__ = ["LARGEST_PSNR", "Closeness", "baseline_images", "closeness", "interval", "psnr"]

Image = Float[Tensor, "b c h w"]

LARGEST_PSNR = 100.0
"""dB that an exact copy, whose PSNR is infinite, is counted with: a mean over images must stay finite."""
BASELINE_NUMBERS = 64_000_000
"""Numbers of training images that are held in memory for baselines: 256 MB in float32."""
BASELINE_IMAGES = 20_000


class Closeness(NamedTuple):
    """Three measures for each pair of images."""

    mse: Float[Tensor, " b"]
    """Mean squared error over pixels and channels, of images in [0, 1]."""
    psnr: Float[Tensor, " b"]
    """Peak signal-to-noise ratio in dB, see `psnr`."""
    ssim: Float[Tensor, " b"]
    """Structural similarity with scikit-image's conventions, see `ectype.losses.ssim`."""


def psnr(mse: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """−10 log₁₀ MSE in dB, the peak signal-to-noise ratio where the largest possible value is 1.

    Of each image; a set's PSNR is the mean of them, not that of its mean MSE. Exact copies count as `LARGEST_PSNR`.
    """
    return (-10 * torch.log10(mse)).clamp(max=LARGEST_PSNR)


def closeness(image: Image, target: Image) -> Closeness:
    """Each image against its target, on the CPU."""
    mse = ((image - target) ** 2).flatten(1).mean(1)
    return Closeness(mse.cpu(), psnr(mse).cpu(), ssim(image, target).cpu())


def baseline_images(available: int, numbers: int) -> int:
    """How many training images baselines are fitted on, so that memory stays bounded.

    Args:
        available: Training images.
        numbers: In an image.
    """
    return min(available, BASELINE_IMAGES, max(2, BASELINE_NUMBERS // numbers))


def interval(values: Float[Tensor, " n"]) -> tuple[float, float]:
    """The 95% interval of a mean over images by the normal approximation: mean ± 1.96 standard errors.

    It says how far another draw of test images would move the mean, nothing of other seeds or training images. Not a
    number for fewer than two.
    """
    if len(values) < 2:
        return math.nan, math.nan
    values = values.double()
    centre, error = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(len(values))
    return centre - error, centre + error
