"""Directions through the codes of a model, along which its images can be explored, and maps of the codes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.nets.pca import fit_pca

__all__ = ["CodeSpace", "code_space", "noise_space"]

MAX_PRINCIPAL = 10
"""Principal directions."""
NUM_RANDOM = 2
"""Random directions through the noise of a model without an encoder."""
MAX_FIT_ELEMENTS = 20_000_000
"""Elements of codes that principal components are fitted to."""


class CodeSpace(NamedTuple):
    """Directions through codes of d elements.

    Example:
        >>> codes = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        >>> space = code_space(codes)
        >>> space.coordinates(codes).shape, [name for name, _, _ in space.maps]
        (torch.Size([50, 9]), ['Principal components', 'Most active dimensions'])
    """

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "k d"]
    """Each of length 1; those of one map are orthogonal."""
    deviations: Float[Tensor, " k"]
    """Standard deviations of the codes along the directions."""
    names: list[str]
    maps: list[tuple[str, int, int]]
    """Name, and the two directions that are the axes of a map."""

    def coordinates(self, codes: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return where codes are along the directions, from the mean."""
        return (codes - self.mean) @ self.directions.T


def code_space(codes: Float[Tensor, "n d"]) -> CodeSpace:
    """Return the principal components of codes, and the two dimensions that vary most.

    Args:
        codes: Codes of images, at least one.
    """
    n, d = codes.shape
    mean = codes.mean(0)
    principal, names, maps = torch.zeros(0, d), [], []
    count = min(MAX_PRINCIPAL, n - 1, d - 1)
    if count >= 2 and float(codes.var()) > 0:
        fitted = fit_pca(codes[: max(count + 1, MAX_FIT_ELEMENTS // d)], count)
        total = float(codes.var(0).sum())
        principal = fitted.components
        names = [f"PC {i + 1}, {float(std) ** 2 / total:.0%}" for i, std in enumerate(fitted.stds)]
        maps = [("Principal components", 0, 1)]
    spread = codes.var(0) if n > 1 else torch.ones(d)
    active = spread.topk(min(2, d)).indices
    axes = torch.eye(d)[active] if d <= 4096 else torch.nn.functional.one_hot(active, d).float()
    names += [f"dimension {int(i)}" for i in active]
    if len(active) == 2:
        maps.append(("Most active dimensions", len(principal), len(principal) + 1))
    return _measured(codes, mean, torch.cat([principal, axes]), names, maps)


def noise_space(noise: Float[Tensor, "n d"], images: Float[Tensor, "n p"]) -> CodeSpace:
    """Return the directions of a model's noise along which its samples change most, and random ones.

    A model without an encoder has noise that is equally wide everywhere, so that its own principal components say
    nothing. The principal components of the samples are regressed on the noise instead, as GANSpace does (Härkönen et
    al. 2020), and made orthogonal.

    Args:
        noise: Noise that samples were drawn from.
        images: These samples, flattened.
    """
    n, d = noise.shape
    mean = noise.mean(0)
    found, names, maps = torch.zeros(0, d), [], []
    count = min(MAX_PRINCIPAL, n - 1, d, images.shape[1] - 1)
    if count >= 2 and float(images.var()) > 0:
        fitted = fit_pca(images, count)
        scores = (images - fitted.mean) @ fitted.components.T / fitted.stds.clamp(min=1e-9)
        found = torch.linalg.qr((noise - mean).T @ scores / n).Q.T.contiguous()
        names = [f"direction {i + 1}" for i in range(len(found))]
        maps = [("Directions in which samples change most", 0, 1)]
    drawn = torch.randn(d, min(NUM_RANDOM, d), generator=torch.Generator().manual_seed(0))
    chance = torch.linalg.qr(drawn).Q.T.contiguous()
    names += [f"random {i + 1}" for i in range(len(chance))]
    if len(chance) == 2:
        maps.append(("Two random directions", len(found), len(found) + 1))
    return _measured(noise, mean, torch.cat([found, chance]), names, maps)


def _measured(
    codes: Tensor, mean: Tensor, directions: Tensor, names: list[str], maps: list[tuple[str, int, int]]
) -> CodeSpace:
    space = CodeSpace(mean, directions, torch.ones(len(directions)), names, maps)
    if len(codes) < 2:
        return space
    deviations = space.coordinates(codes).std(0)
    return space._replace(deviations=deviations.clamp(min=1e-6 * (1 + math.sqrt(float(mean.square().mean())))))
