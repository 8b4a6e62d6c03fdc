"""Codes with noise on them, so that a decoder learns to do with codes that are not quite those of an image."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ectype.errors import ModelError
from ectype.models.bottlenecks import Bottleneck, BottleneckConfig, Coded, Noise

__all__ = ["Noisy", "NoisyConfig"]


class Noisy(Bottleneck):
    """The features of each place, or of a vector, at mean 0 and deviation 1; in training noise is added.

    z + σ ε with ε ~ N(0, I) and σ ~ |N(0, τ²)| drawn for each image (Zheng et al. 2025, "Diffusion transformers with
    representation autoencoders", section 4.3): what a generator of codes makes is never quite a code, and a decoder
    that has only seen those of images has gaps between them. Without the normalisation an encoder that is trained
    would rise above any noise.
    """

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.tau = tau

    def forward(self, features: Float[Tensor, " b *features"], noise: Noise) -> Coded:
        code = self.code(features)
        if not self.training or self.tau == 0:
            return Coded(code, {})
        # One draw for both: two of the same use would begin with the same numbers.
        drawn = noise(len(code), 1 + math.prod(code.shape[1:]))
        sigma = self.tau * drawn[:, :1].abs()
        return Coded(code + (sigma * drawn[:, 1:]).view_as(code), {})

    def code(self, features: Float[Tensor, " b *features"]) -> Float[Tensor, " b *code"]:
        last = features.float().movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:]).movedim(-1, 1).contiguous()


class NoisyConfig(BottleneckConfig):
    """Normalised features, noise on them in training."""

    kind: Literal["noisy"] = "noisy"
    tau: float = Field(default=0.8, ge=0)
    """Of the noise's deviation σ ~ |N(0, τ²)|, where a number of the code has deviation 1; 0 for no noise."""

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        if shape[0] < 2:
            raise ModelError(
                f"bottleneck=noisy brings the numbers of each place to mean 0 and deviation 1, and a code of "
                f"{'×'.join(map(str, shape))} has one there: set latent_dim to at least 2."
            )
        return Noisy(self.tau)
