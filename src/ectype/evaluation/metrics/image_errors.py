"""Differences between an image and its target."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.losses.ssim import ssim

__all__ = ["MAX_PSNR_DB", "ImageErrors", "image_errors", "num_baseline_images", "psnr"]

Image = Float[Tensor, "b c h w"]

MAX_PSNR_DB = 100.0
"""PSNR that an exact copy, whose PSNR is infinite, counts with: a mean over images must stay finite."""
MAX_BASELINE_ELEMENTS = 64_000_000
"""Elements of training images that are held in memory for baselines: 256 MB in float32."""
MAX_BASELINE_IMAGES = 20_000


class ImageErrors(NamedTuple):
    """Three measures for each pair of images."""

    mse: Float[Tensor, " b"]
    """Mean squared error over pixels and channels, of images in [0, 1]."""
    psnr: Float[Tensor, " b"]
    """Peak signal-to-noise ratio in dB, see `psnr`."""
    ssim: Float[Tensor, " b"]
    """Structural similarity with scikit-image's conventions, see `ectype.losses.ssim`."""


def psnr(mse: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Compute the peak signal-to-noise ratio, −10 log₁₀ MSE in dB, of images whose largest possible value is 1.

    The PSNR of a set is the mean over images, not the PSNR of the mean MSE. Exact copies count as `MAX_PSNR_DB`.

    >>> psnr(torch.tensor([0.01, 0.0])).tolist()
    [20.0, 100.0]
    """
    return (-10 * torch.log10(mse)).clamp(max=MAX_PSNR_DB)


def image_errors(image: Image, target: Image) -> ImageErrors:
    """Compare each image with its target.

    Args:
        image: Images in [0, 1].
        target: Images of the same shape.

    Returns:
        One value of each measure per image, on the CPU.

    >>> errors = image_errors(torch.zeros(2, 1, 16, 16), torch.full((2, 1, 16, 16), 0.1))
    >>> [round(value, 4) for value in errors.mse.tolist()], [round(value, 2) for value in errors.psnr.tolist()]
    ([0.01, 0.01], [20.0, 20.0])
    """
    mse = ((image - target) ** 2).flatten(1).mean(1)
    return ImageErrors(mse.cpu(), psnr(mse).cpu(), ssim(image, target).cpu())


def num_baseline_images(available: int, elements: int) -> int:
    """Return how many training images baselines are fitted on, so that memory stays bounded.

    Args:
        available: Number of training images.
        elements: Elements of an image, channels × height × width.
    """
    return min(available, MAX_BASELINE_IMAGES, max(2, MAX_BASELINE_ELEMENTS // elements))
