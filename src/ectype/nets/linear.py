"""The best that linear coding can do: what networks begin with, or are compared with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Linear", "fit_pca"]

Image = Float[Tensor, "b c h w"]


class Linear(NamedTuple):
    """A mean image and orthonormal directions: what linear coding can do."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "k d"]
    deviations: Float[Tensor, " k"]
    """Standard deviation of the images along each."""
    fitted_on: int
    """Training images."""
    solver: str
    """How it was computed, in words."""

    def first(self, components: int) -> Linear:
        """The same with fewer directions."""
        return self._replace(directions=self.directions[:components], deviations=self.deviations[:components])

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
    mean, deviations = (np.asarray(found, np.float32) for found in (pca.mean_, pca.explained_variance_**0.5))
    return Linear(torch.from_numpy(mean), directions, torch.from_numpy(deviations), n, solver)
