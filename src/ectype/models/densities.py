"""Densities on codes, from which a plain autoencoder draws codes to generate images.

The state of a density is its tensors, so it is saved and loaded like any other weights. A learned one is
`ectype.models.flow_density.FlowDensity`.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.core.errors import ModelError, did_you_mean
from ectype.models.noise_to_image import truncated_normal

__all__ = ["DENSITIES", "Density", "DensityName", "GaussianDensity", "GaussianMixture", "StandardNormal", "fit_density"]

DensityName = Literal["normal", "gaussian", "gmm"]
DENSITIES: tuple[DensityName, ...] = ("normal", "gaussian", "gmm")

MAX_FULL_COVARIANCE_DIM = 256
"""Codes of at most this many dimensions get full covariances, larger ones low-rank covariances."""
LOW_RANK = 64
"""Principal directions of a low-rank covariance, to which a variance of each dimension is added."""
MIN_CODES_PER_COMPONENT = 50
"""A mixture gets fewer components where there are fewer codes for each than this."""


class Density(nn.Module):
    """Base class of distributions of codes.

    Args:
        shape: Shape of one code.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def sample(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *code"]:
        """Draw `n` codes on the CPU, so that a seed gives the same codes on every device.

        Args:
            n: Number of codes.
            truncation: Largest absolute value of the normal noise behind the codes; None for no limit.
            generator: Random generator.
        """
        raise TypeError(f"{type(self).__name__} must define sample(n)")

    def check(self) -> None:
        """Check the loaded buffers.

        Raises:
            ModelError: They do not describe a density.
        """

    def description(self) -> dict[str, str]:
        """Return what must be known besides the tensors to build the density again."""
        return {}


class StandardNormal(Density):
    """N(0, I), the prior of a variational autoencoder."""

    def sample(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *code"]:
        return truncated_normal((n, *self.shape), truncation, generator)


class GaussianMixture(Density):
    """A mixture of Gaussians with covariances F Fᵀ + diag(d).

    For full covariances F is square and d is zero; for low-rank ones F has `rank` columns.

    Args:
        shape: Shape of one code.
        components: Number of Gaussians.
        rank: Columns of F.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    diagonals: Tensor

    def __init__(self, shape: tuple[int, ...], components: int, rank: int) -> None:
        super().__init__(shape)
        d = math.prod(shape)
        # Not `ones / components`: arithmetic on the device `meta` imports PyTorch's compiler, which takes seconds.
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, d))
        self.register_buffer("factors", torch.zeros(components, d, rank))
        self.register_buffer("diagonals", torch.zeros(components, d))

    def check(self) -> None:
        """Check the loaded buffers.

        Raises:
            ModelError: A value is not finite, or a weight or variance is negative.
        """
        if not all(buffer.isfinite().all() for buffer in self.buffers()):
            raise ModelError("not all of its values are finite.")
        if (self.weights < 0).any() or (self.diagonals < 0).any() or self.weights.sum() <= 0:
            raise ModelError("it has negative weights or variances.")

    def sample(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *code"]:
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        low_rank_noise = truncated_normal((n, self.factors.shape[2]), truncation, generator)
        diagonal_noise = truncated_normal((n, self.means.shape[1]), truncation, generator)
        code = self.means[component] + self.diagonals[component].sqrt() * diagonal_noise
        for k in component.unique():
            code[component == k] += low_rank_noise[component == k] @ self.factors[k].T
        return code.view(n, *self.shape)


class GaussianDensity(GaussianMixture):
    """A single Gaussian.

    Args:
        shape: Shape of one code.
        rank: Columns of F.
    """

    def __init__(self, shape: tuple[int, ...], rank: int) -> None:
        super().__init__(shape, 1, rank)


def empty_density(name: str, shape: tuple[int, ...], state: dict[str, Tensor]) -> Density:
    """Build the density that a stored state belongs to, and load it.

    Args:
        name: A name of `DENSITIES`.
        shape: Shape of the model's codes.
        state: The stored buffers; their shapes decide on the number of components and the rank.

    Raises:
        ModelError: The name is unknown, or the state is for codes of another size.
    """
    if name == "normal":
        return StandardNormal(shape)
    if name not in DENSITIES:
        raise ModelError(f"no density '{name}'; {did_you_mean(name, DENSITIES)}")
    components, d, rank = state["factors"].shape
    if d != math.prod(shape):
        raise ModelError(
            f"the stored density '{name}' is for codes of {d} dimensions, and those of the model have "
            f"{math.prod(shape)}."
        )
    density = GaussianDensity(shape, rank) if name == "gaussian" else GaussianMixture(shape, components, rank)
    density.load_state_dict(state)
    return density


def fit_density(name: str, codes: Float[Tensor, " n *code"], *, components: int = 10, seed: int = 0) -> Density:
    """Fit a density to codes.

    Args:
        name: `normal` (nothing is fitted), `gaussian`, or `gmm`.
        codes: At least two codes.
        components: Gaussians of a mixture; fewer if there are less than 50 codes for each.
        seed: Seed of the mixture's initialization.

    Raises:
        ModelError: The name is unknown, or there are too few codes.

    Example:
        >>> density = fit_density("gaussian", torch.randn(100, 3))
        >>> density.sample(5).shape
        torch.Size([5, 3])
    """
    shape = tuple(codes.shape[1:])
    if name not in DENSITIES:
        raise ModelError(f"no density '{name}'; {did_you_mean(name, DENSITIES)}")
    if name == "normal":
        return StandardNormal(shape)
    if len(codes) < 2:
        raise ModelError(f"a density '{name}' needs at least two codes, and there are {len(codes)}.")
    flat = codes.flatten(1).double().cpu().numpy()
    d = flat.shape[1]
    if name == "gaussian":
        factor, diagonal = _covariance(flat, np.ones(len(flat)) / len(flat))
        density: GaussianMixture = GaussianDensity(shape, factor.shape[1])
        means, weights, factors, diagonals = (flat.mean(0)[None], np.ones(1), factor[None], diagonal[None])
    else:
        components = max(1, min(components, len(flat) // MIN_CODES_PER_COMPONENT))
        means, weights, factors, diagonals = _fit_mixture(flat, components, seed)
        density = GaussianMixture(shape, len(weights), factors.shape[2])
    assert factors.shape[1] == d
    state = {"weights": weights, "means": means, "factors": factors, "diagonals": diagonals}
    density.load_state_dict({key: torch.tensor(np.asarray(value), dtype=torch.float32) for key, value in state.items()})
    return density


def _fit_mixture(flat: np.ndarray, components: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit a mixture by EM if covariances are full, else by k-means with one low-rank covariance per cluster.

    Returns:
        Means, weights, factors and diagonals.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.mixture import GaussianMixture as SklearnMixture

    d = flat.shape[1]
    if d <= MAX_FULL_COVARIANCE_DIM and len(flat) > 2 * d:
        scale = float(flat.var(0).mean())
        fitted = SklearnMixture(components, reg_covar=1e-4 * scale + 1e-12, random_state=seed, max_iter=100).fit(flat)
        factors = np.linalg.cholesky(np.asarray(fitted.covariances_))
        return (np.asarray(fitted.means_), np.asarray(fitted.weights_), factors, np.zeros((components, d)))
    clusters = MiniBatchKMeans(components, random_state=seed, n_init="auto").fit_predict(flat)
    membership = np.eye(components)[clusters]
    membership = membership[:, membership.sum(0) > 1]  # a covariance needs at least two codes
    weights = membership.mean(0) / membership.mean()
    weights = weights / weights.sum()
    means = (membership.T @ flat) / membership.sum(0)[:, None]
    pairs = [_covariance(flat, column / column.sum()) for column in membership.T]
    rank = max(factor.shape[1] for factor, _ in pairs)
    factors = np.stack([np.pad(factor, ((0, 0), (0, rank - factor.shape[1]))) for factor, _ in pairs])
    return means, weights, factors, np.stack([diagonal for _, diagonal in pairs])


def _covariance(flat: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return F and d of the covariance F Fᵀ + diag(d) of weighted codes; of low rank where the code is too large."""
    from sklearn.utils.extmath import randomized_svd

    chosen = weight > 0
    centered = (flat[chosen] - weight @ flat) * np.sqrt(weight[chosen])[:, None]
    d = flat.shape[1]
    if d <= MAX_FULL_COVARIANCE_DIM:
        values, vectors = np.linalg.eigh(centered.T @ centered)
        return vectors * np.sqrt(values.clip(0)), np.zeros(d)
    _, singular, directions = randomized_svd(centered, min(LOW_RANK, *centered.shape), random_state=0)
    factor = (directions * singular[:, None]).T
    return factor, ((centered**2).sum(0) - (factor**2).sum(1)).clip(0)
