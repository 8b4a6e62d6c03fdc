"""Principal component analysis of images: an initialization for networks, and a baseline for their reconstructions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PCA", "fit_pca"]

Image = Float[Tensor, "b c h w"]


class PCA(NamedTuple):
    """A fitted principal component analysis of flattened images with d elements.

    Example:
        >>> images = torch.tensor([0.2, 0.4, 0.6])[:, None] * torch.tensor([1.0, 0.5, 0.25, 0.0])
        >>> pca = fit_pca(images, 1)
        >>> image = images.view(3, 1, 2, 2)
        >>> pca.encode(image).shape
        torch.Size([3, 1])
        >>> torch.allclose(pca.reconstruct(image), image, atol=1e-6)
        True
    """

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "k d"]
    """Orthonormal directions, by decreasing variance."""
    stds: Float[Tensor, " k"]
    """Standard deviation of the images along each component."""
    solver: str
    """How the components were computed, as text."""

    def truncate(self, n_components: int) -> PCA:
        """Return the PCA with the first components only."""
        return self._replace(components=self.components[:n_components], stds=self.stds[:n_components])

    def encode(self, image: Image) -> Float[Tensor, "b k"]:
        """Return the coordinates of images along the components, on the CPU."""
        return (image.flatten(1).cpu() - self.mean) @ self.components.T

    def reconstruct(self, image: Image) -> Image:
        """Project images onto the components and back, clamped to [0, 1] like the outputs of a model."""
        flat = self.encode(image) @ self.components + self.mean
        return flat.view(image.shape).clamp(0, 1).to(image.device)


def fit_pca(images: Float[Tensor, "n d"], n_components: int) -> PCA:
    """Fit the principal components of images with scikit-learn.

    The solution is exact if n or d is small enough for a decomposition. Otherwise it is randomized with seven power
    iterations, whose reconstruction error is within a fraction of a percent of the minimum (Halko et al. 2011).

    Args:
        images: Flattened images in [0, 1], on the CPU.
        n_components: Number of components, less than n and less than d.

    Raises:
        ValueError: If there are as many components as images or elements, or more: such a subspace contains every
            training image.
    """
    from sklearn.decomposition import PCA as SklearnPCA

    n, d = images.shape
    if not 1 <= n_components < min(n, d):
        raise ValueError(
            f"{n_components} components cannot be fitted on {n:,} images of {d:,} elements: the number of components "
            "must be at least 1 and smaller than both."
        )
    if d <= 2048:
        pca, solver = SklearnPCA(n_components, svd_solver="covariance_eigh"), "exact"
    elif n <= 1024:
        pca, solver = SklearnPCA(n_components, svd_solver="full"), "exact"
    else:
        pca = SklearnPCA(n_components, svd_solver="randomized", iterated_power=7, random_state=0)  # pyright: ignore  (annotated as its default)
        solver = "randomized SVD, 7 power iterations"
    pca.fit(images.numpy())
    components = torch.from_numpy(np.ascontiguousarray(pca.components_, dtype=np.float32))
    mean, stds = (np.asarray(values, np.float32) for values in (pca.mean_, pca.explained_variance_**0.5))
    return PCA(torch.from_numpy(mean), components, torch.from_numpy(stds), solver)
