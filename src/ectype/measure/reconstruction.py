"""How close an image is to another, and what could be had without a network."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ectype.losses.ssim import ssim

__all__ = ["LARGEST_PSNR", "Closeness", "Linear", "baseline_images", "closeness", "fit_pca", "interval", "psnr"]

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


class Linear(NamedTuple):
    """A mean image and orthonormal directions: what linear coding can do."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "k d"]
    fitted_on: int
    """Training images."""
    solver: str
    """How it was computed, in words."""

    def code(self, image: Image) -> Float[Tensor, "b k"]:
        """Coordinates along the directions."""
        return (image.flatten(1).cpu() - self.mean) @ self.directions.T

    def reconstruct(self, image: Image) -> Image:
        """Images through their coordinates and back, clamped to [0, 1] as a model's are."""
        flat = self.code(image) @ self.directions + self.mean
        return flat.view(image.shape).clamp(0, 1).to(image.device)


def fit_pca(images: Float[Tensor, "n d"], components: int) -> Linear:
    """Principal components of images, by scikit-learn.

    Exact where one side is small enough to decompose; otherwise randomised with seven power iterations, whose
    reconstruction is within a fraction of a per cent of the best (Halko et al. 2011).

    Args:
        images: Flattened, in [0, 1], on the CPU.
        components: Fewer than both n and d.

    Raises:
        ValueError: As many components as images or numbers, or more: such a subspace holds any training image.
    """
    from sklearn.decomposition import PCA

    n, d = images.shape
    if not 1 <= components < min(n, d):
        raise ValueError(
            f"{components} components cannot be fitted on {n:,} images of {d:,} numbers: fewer than both are needed."
        )
    if d <= 2048:
        pca, solver = PCA(components, svd_solver="covariance_eigh"), "exact"
    elif n <= 1024:
        pca, solver = PCA(components, svd_solver="full"), "exact"
    else:
        pca = PCA(components, svd_solver="randomized", iterated_power=7, random_state=0)  # pyright: ignore  (annotated as its default)
        solver = "randomised SVD, 7 power iterations"
    pca.fit(images.numpy())
    directions = torch.from_numpy(np.ascontiguousarray(pca.components_, dtype=np.float32))
    return Linear(torch.from_numpy(np.asarray(pca.mean_, dtype=np.float32)), directions, n, solver)


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
