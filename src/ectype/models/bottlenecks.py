"""Bottlenecks: the layer between encoder and decoder that turns the encoder's features into a code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.config.schema import Choice

__all__ = ["Bottleneck", "BottleneckConfig", "BottleneckOutput", "Gaussian", "Identity", "Posterior"]

NoiseSource = Callable[..., Tensor]
"""Called with a shape, returns standard normal noise of that shape."""


class Posterior(NamedTuple):
    """The posterior q(z|x) of each image's code, a diagonal Gaussian.

    Example:
        >>> zeros = torch.zeros(1, 3)
        >>> Posterior(mean=zeros, sigma=zeros + 1, log_variance=zeros).kl().sum().item()
        0.0
    """

    mean: Float[Tensor, " b *code"]
    sigma: Float[Tensor, " b *code"]
    log_variance: Float[Tensor, " b *code"]

    def sample(self, noise: Float[Tensor, "*k b *code"]) -> Float[Tensor, "*k b *code"]:
        """Return a code for each noise tensor; leading dimensions of the noise are further draws."""
        return self.mean + self.sigma * noise

    def kl(self) -> Float[Tensor, " b *code"]:
        """Return KL(q(z|x) ‖ N(0, I)) of each code dimension in nats (Kingma and Welling 2014, appendix B)."""
        return 0.5 * (self.mean**2 + self.sigma**2 - self.log_variance - 1)


class BottleneckOutput(NamedTuple):
    """The code that the decoder gets in training, and the penalties on it."""

    code: Float[Tensor, " b *code"]
    penalties: dict[str, Float[Tensor, " b *code"]]
    """Penalties by name for each code dimension, to be summed over the code; a KL is in nats."""
    notes: Mapping[str, Tensor] = {}
    """Means over the images: scalars are logged, and `Bottleneck.update_buffers` uses what it needs."""


class Bottleneck(nn.Module):
    """Base class of bottlenecks."""

    params_per_element: ClassVar[int] = 1
    """Features that the encoder returns for each code dimension."""
    costs: ClassVar[tuple[str, ...]] = ()
    """Names of the penalties."""
    weights: ClassVar[Mapping[str, float]] = {}
    """Default weight of each penalty, unless an objective sets another."""
    whitened: ClassVar[bool] = True
    """Whether a code that starts as PCA has variance 1 per dimension, instead of the variances of the components."""

    def forward(self, features: Float[Tensor, " b *features"], noise: NoiseSource) -> BottleneckOutput:
        """Return the code of a training pass, with noise where the bottleneck is stochastic."""
        raise TypeError(f"{type(self).__name__} must define forward(features, noise)")

    def code(self, features: Float[Tensor, " b *features"]) -> Float[Tensor, " b *code"]:
        """Return the deterministic code of each image."""
        raise TypeError(f"{type(self).__name__} must define code(features)")

    def continuous_code(self, features: Float[Tensor, " b *features"]) -> Float[Tensor, " b *code"]:
        """Return the code that a density on codes is fitted to, of a quantizer that before it is quantized."""
        return self.code(features)

    def update_buffers(self, notes: Mapping[str, Tensor]) -> None:
        """Update buffers after a training step, from notes averaged over the global batch."""


class Identity(Bottleneck):
    """Use the encoder's features as the code."""

    def forward(self, features: Float[Tensor, " b *features"], noise: NoiseSource) -> BottleneckOutput:
        return BottleneckOutput(features, {})

    def code(self, features: Float[Tensor, " b *features"]) -> Float[Tensor, " b *code"]:
        return features


class Gaussian(Bottleneck):
    """A diagonal Gaussian posterior; its mean is the deterministic code."""

    params_per_element = 2
    costs = ("KL",)

    def posterior(self, features: Float[Tensor, " b *features"]) -> Posterior:
        """Return the posterior whose mean and log variance are the two halves of the features."""
        mean, log_variance = features.chunk(2, dim=1)
        # The limits, as in diffusers, are never reached in normal training; they keep the loss of an outlier finite.
        log_variance = F.hardtanh(log_variance.float(), -30, 20)
        return Posterior(mean.float(), torch.exp(0.5 * log_variance), log_variance)

    def forward(self, features: Float[Tensor, " b *features"], noise: NoiseSource) -> BottleneckOutput:
        posterior = self.posterior(features)
        return BottleneckOutput(posterior.sample(noise(*posterior.mean.shape)), {"KL": posterior.kl()})

    def code(self, features: Float[Tensor, " b *features"]) -> Float[Tensor, " b *code"]:
        return features.chunk(2, dim=1)[0]


class BottleneckConfig(Choice):
    """Kind of code."""

    family: ClassVar[str] = "bottleneck"
    discrete: ClassVar[bool] = False
    """Whether the set of codes is finite; `build` then returns a `Quantizer`."""

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        """Build the bottleneck for codes of shape (d,) or (d, h, w)."""
        raise TypeError(f"{type(self).__name__} must define build(shape)")


class IdentityConfig(BottleneckConfig):
    """A plain deterministic code."""

    kind: Literal["identity"] = "identity"

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        return Identity()


class GaussianBottleneckConfig(BottleneckConfig):
    """A code drawn from a Gaussian posterior, as in a variational autoencoder."""

    kind: Literal["gaussian"] = "gaussian"

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        return Gaussian()
