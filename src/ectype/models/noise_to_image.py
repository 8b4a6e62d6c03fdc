"""The base class of models that generate images from noise."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.core.errors import ModelError
from ectype.models.base import Model

__all__ = ["NoiseToImageModel", "truncated_normal"]

Image = Float[Tensor, "b c h w"]


class NoiseToImageModel(Model):
    """Base class of models that generate images from noise, with class labels if they are conditional.

    Attributes:
        conditional: Whether the model is conditioned on class labels.
    """

    conditional: bool

    @abstractmethod
    def sample_latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *latent"]:
        """Draw `n` latents; see `LatentSampler`."""

    @abstractmethod
    def render(self, latent: Float[Tensor, " n *latent"], *, label: Int[Tensor, " n"] | None = None) -> Image:
        """Return the images of latents; see `LatentSampler`."""

    def sample_labels(self, n: int, *, generator: torch.Generator | None = None) -> Int[Tensor, " n"]:
        """Draw `n` class indices with the class frequencies of the training images."""
        frequencies = torch.tensor(self.info.frequencies or [1.0] * len(self.info.classes))
        return torch.multinomial(frequencies, n, replacement=True, generator=generator)

    def sample(self, n: int, *, label: Tensor | None = None, generator: torch.Generator | None = None) -> Image:
        """Generate images.

        Args:
            n: Number of images.
            label: Class indices [n]. A conditional model draws them from the training frequencies by default.
            generator: Random generator, for reproducible samples.

        Returns:
            `n` images in [0, 1].
        """
        latent = self.sample_latents(n, generator=generator)
        if label is None and self.conditional:
            label = self.sample_labels(n, generator=generator)
        return self.render(latent, label=label)


def truncated_normal(
    shape: tuple[int, ...], truncation: float | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw from a standard normal distribution, truncated to ±`truncation` if given (Brock et al. 2019).

    The inverse of the distribution function gives exact draws without rejection.

    Args:
        shape: Shape of the result.
        truncation: Largest absolute value; None for no limit.
        generator: Random generator.

    Raises:
        ModelError: `truncation` is not above 0.
    """
    if truncation is None:
        return torch.randn(shape, generator=generator)
    if not 0 < truncation < math.inf:
        raise ModelError(f"truncation={truncation:g} must be a number above 0; 0.5 to 1 is usual.")
    tail = torch.special.ndtr(torch.tensor(-truncation, dtype=torch.float64))
    quantile = torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.special.ndtri(tail + quantile * (1 - 2 * tail)).float().clamp(-truncation, truncation)
