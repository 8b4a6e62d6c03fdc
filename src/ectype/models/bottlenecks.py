"""What stands between encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.sections import Choice

__all__ = ["Bottleneck", "BottleneckConfig", "Coded", "Gaussian", "Identity", "Posterior"]

Noise = Callable[..., Tensor]
"""Called with a shape, returns standard normal numbers."""


class Posterior(NamedTuple):
    """A diagonal Gaussian for each image's code, q(z|x)."""

    mean: Float[Tensor, " b *code"]
    sigma: Float[Tensor, " b *code"]
    log_variance: Float[Tensor, " b *code"]

    def draw(self, noise: Float[Tensor, "*k b *code"]) -> Float[Tensor, "*k b *code"]:
        """A code for each piece of noise; leading dimensions are further draws."""
        return self.mean + self.sigma * noise

    def kl(self) -> Float[Tensor, " b *code"]:
        """KL(q(z|x) ‖ N(0, I)) per number of the code, in nats (Kingma and Welling 2014, appendix B)."""
        return 0.5 * (self.mean**2 + self.sigma**2 - self.log_variance - 1)


class Coded(NamedTuple):
    """A code as the decoder gets it in training, and what it cost."""

    code: Float[Tensor, " b *code"]
    penalties: dict[str, Float[Tensor, " b *code"]]
    """Named costs per number of the code, to be summed over it: nats per image where they are a KL."""
    notes: Mapping[str, Tensor] = {}
    """Means over the images: single numbers to be logged, and what `Bottleneck.observe` wants to know of a batch."""


class Bottleneck(nn.Module):
    """Turns the encoder's numbers into a code."""

    heads: ClassVar[int] = 1
    """Numbers that the encoder gives for each number of the code."""
    costs: ClassVar[tuple[str, ...]] = ()
    """Names of its penalties."""
    weights: ClassVar[Mapping[str, float]] = {}
    """What a penalty weighs where an objective does not say."""

    def forward(self, features: Float[Tensor, " b *features"], noise: Noise) -> Coded:
        raise TypeError(f"{type(self).__name__} must define forward(features, noise)")

    def code(self, features: Float[Tensor, " b *features"]) -> Float[Tensor, " b *code"]:
        """The code that stands for an image when nothing is drawn."""
        raise TypeError(f"{type(self).__name__} must define code(features)")

    def observe(self, notes: Mapping[str, Tensor]) -> None:
        """Change buffers after a move, from notes averaged over the global batch."""


class Identity(Bottleneck):
    """The encoder's numbers are the code."""

    def forward(self, features: Float[Tensor, " b *features"], noise: Noise) -> Coded:
        return Coded(features, {})

    def code(self, features: Float[Tensor, " b *features"]) -> Float[Tensor, " b *code"]:
        return features


class Gaussian(Bottleneck):
    """A diagonal Gaussian posterior; its mean stands for the image."""

    heads = 2
    costs = ("KL",)

    def posterior(self, features: Float[Tensor, " b *features"]) -> Posterior:
        mean, log_variance = features.chunk(2, dim=1)
        # Far outside what training visits, it keeps one odd image from making the batch infinite; as in diffusers.
        log_variance = F.hardtanh(log_variance.float(), -30, 20)
        return Posterior(mean.float(), torch.exp(0.5 * log_variance), log_variance)

    def forward(self, features: Float[Tensor, " b *features"], noise: Noise) -> Coded:
        posterior = self.posterior(features)
        return Coded(posterior.draw(noise(*posterior.mean.shape)), {"KL": posterior.kl()})

    def code(self, features: Float[Tensor, " b *features"]) -> Float[Tensor, " b *code"]:
        return features.chunk(2, dim=1)[0]


class BottleneckConfig(Choice):
    """What the code is."""

    family: ClassVar[str] = "bottleneck"
    discrete: ClassVar[bool] = False
    """Whether there are finitely many codes: what is built is then a `Quantizer`."""

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        """The bottleneck for codes of that shape: (d,) or (d, h, w)."""
        raise TypeError(f"{type(self).__name__} must define build(shape)")


class IdentityConfig(BottleneckConfig):
    """A plain code."""

    kind: Literal["identity"] = "identity"

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        return Identity()


class GaussianBottleneckConfig(BottleneckConfig):
    """A code drawn from a Gaussian posterior, as in a variational autoencoder."""

    kind: Literal["gaussian"] = "gaussian"

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        return Gaussian()
