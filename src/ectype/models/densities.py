"""Densities on codes: what to draw from so that a plain autoencoder's decoder knows the code.

A density is a module whose buffers are all there is to it, so it is stored and loaded as any weights are. A learned one
needs only the same two methods.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.errors import ModelError, did_you_mean
from ectype.models.base import truncated_normal

__all__ = ["DENSITIES", "Density", "DensityName", "GaussianDensity", "Mixture", "StandardNormal", "fit_density"]

DensityName = Literal["normal", "gaussian", "gmm"]
DENSITIES: tuple[DensityName, ...] = ("normal", "gaussian", "gmm")

FULL_UP_TO = 256
"""Largest code, in numbers, whose covariance is kept whole; a mixture has one for each part."""
RANK = 64
"""Directions kept of a larger code's covariance, beside a variance for each number."""


class Density(nn.Module):
    """A distribution of codes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def sample(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *code"]:
        """`n` codes, drawn on the CPU so that a seed means the same on every device.

        Args:
            n: How many.
            truncation: The noise behind them is drawn again beyond ± this; None for none.
            generator: Of the draws.
        """
        raise TypeError(f"{type(self).__name__} must define sample(n)")

    def check(self) -> None:
        """Raise `ModelError` where numbers that were read can be of no density."""


class StandardNormal(Density):
    """N(0, I): the prior of a variational autoencoder, and of no other."""

    def sample(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *code"]:
        return truncated_normal((n, *self.shape), truncation, generator)


class Mixture(Density):
    """Gaussians of covariance F Fᵀ + diag(d): F is square and d zero for a full one, F thin for one of low rank."""

    weights: Tensor
    means: Tensor
    factors: Tensor
    diagonals: Tensor

    def __init__(self, shape: tuple[int, ...], parts: int, rank: int) -> None:
        super().__init__(shape)
        d = math.prod(shape)
        self.register_buffer("weights", torch.ones(parts) / parts)
        self.register_buffer("means", torch.zeros(parts, d))
        self.register_buffer("factors", torch.zeros(parts, d, rank))
        self.register_buffer("diagonals", torch.zeros(parts, d))

    def check(self) -> None:
        """Raise `ModelError` where a weight or a variance is negative, or a number not finite."""
        if not all(buffer.isfinite().all() for buffer in self.buffers()):
            raise ModelError("its numbers are not all finite.")
        if (self.weights < 0).any() or (self.diagonals < 0).any() or self.weights.sum() <= 0:
            raise ModelError("it has negative weights or variances.")

    def sample(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *code"]:
        part = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        narrow = truncated_normal((n, self.factors.shape[2]), truncation, generator)
        wide = truncated_normal((n, self.means.shape[1]), truncation, generator)
        code = self.means[part] + self.diagonals[part].sqrt() * wide
        for k in part.unique():
            code[part == k] += narrow[part == k] @ self.factors[k].T
        return code.view(n, *self.shape)


class GaussianDensity(Mixture):
    """A mixture of one."""

    def __init__(self, shape: tuple[int, ...], rank: int) -> None:
        super().__init__(shape, 1, rank)


def empty_density(name: str, shape: tuple[int, ...], state: dict[str, Tensor]) -> Density:
    """The module that a stored density's tensors belong to.

    Raises:
        ModelError: An unknown name, or tensors of another shape of code.
    """
    if name == "normal":
        return StandardNormal(shape)
    if name not in DENSITIES:
        raise ModelError(f"no density '{name}'; {did_you_mean(name, DENSITIES)}")
    parts, d, rank = state["factors"].shape
    if d != math.prod(shape):
        raise ModelError(f"the stored density '{name}' is of {d} numbers, the model's codes have {math.prod(shape)}.")
    density = GaussianDensity(shape, rank) if name == "gaussian" else Mixture(shape, parts, rank)
    density.load_state_dict(state)
    return density


def fit_density(name: str, codes: Float[Tensor, " n *code"], *, parts: int = 10, seed: int = 0) -> Density:
    """Fit a density on codes.

    Args:
        name: `normal` (nothing is fitted), `gaussian`, or `gmm`.
        codes: At least two.
        parts: Gaussians of a mixture, fewer where there are not fifty codes for each.
        seed: Of the mixture's start.

    Raises:
        ModelError: An unknown name, or too few codes.
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
        density: Mixture = GaussianDensity(shape, factor.shape[1])
        means, weights, factors, diagonals = flat.mean(0)[None], np.ones(1), factor[None], diagonal[None]
    else:
        means, weights, factors, diagonals = _fit_mixture(flat, max(1, min(parts, len(flat) // 50)), seed)
        density = Mixture(shape, len(weights), factors.shape[2])
    assert factors.shape[1] == d
    state = {"weights": weights, "means": means, "factors": factors, "diagonals": diagonals}
    density.load_state_dict({key: torch.tensor(np.asarray(value), dtype=torch.float32) for key, value in state.items()})
    return density


def _fit_mixture(flat: np.ndarray, parts: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit by EM where covariances are whole, by k-means and one covariance per cluster where they are of low rank."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.mixture import GaussianMixture

    d = flat.shape[1]
    if d <= FULL_UP_TO and len(flat) > 2 * d:
        scale = float(flat.var(0).mean())
        fitted = GaussianMixture(parts, reg_covar=1e-4 * scale + 1e-12, random_state=seed, max_iter=100).fit(flat)
        factors = np.linalg.cholesky(np.asarray(fitted.covariances_))
        return np.asarray(fitted.means_), np.asarray(fitted.weights_), factors, np.zeros((parts, d))
    share = np.eye(parts)[MiniBatchKMeans(parts, random_state=seed, n_init="auto").fit_predict(flat)]
    share = share[:, share.sum(0) > 1]
    weights = share.mean(0) / share.mean()  # of clusters that have at least two members
    weights = weights / weights.sum()
    means = (share.T @ flat) / share.sum(0)[:, None]
    pairs = [_covariance(flat, column / column.sum()) for column in share.T]
    rank = max(factor.shape[1] for factor, _ in pairs)
    factors = np.stack([np.pad(factor, ((0, 0), (0, rank - factor.shape[1]))) for factor, _ in pairs])
    return means, weights, factors, np.stack([diagonal for _, diagonal in pairs])


def _covariance(flat: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F and d of F Fᵀ + diag(d) for weighted codes, by the leading directions where the whole is too large."""
    from sklearn.utils.extmath import randomized_svd

    chosen = weight > 0
    centred = (flat[chosen] - weight @ flat) * np.sqrt(weight[chosen])[:, None]
    d = flat.shape[1]
    if d <= FULL_UP_TO:
        values, vectors = np.linalg.eigh(centred.T @ centred)
        return vectors * np.sqrt(values.clip(0)), np.zeros(d)
    _, singular, directions = randomized_svd(centred, min(RANK, *centred.shape), random_state=0)
    factor = (directions * singular[:, None]).T
    return factor, ((centred**2).sum(0) - (factor**2).sum(1)).clip(0)
