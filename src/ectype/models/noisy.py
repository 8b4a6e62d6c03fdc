"""A bottleneck that adds noise to codes in training, so that the decoder tolerates inexact codes."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ectype.core.errors import ModelError
from ectype.models.bottlenecks import Bottleneck, BottleneckConfig, BottleneckOutput, NoiseSource

__all__ = ["Noisy", "NoisyConfig"]


class Noisy(Bottleneck):
    """Features normalized to mean 0 and standard deviation 1 over the channels; in training noise is added.

    The code is z + σ ε with ε ~ N(0, I), and σ ~ |N(0, τ²)| drawn for each image (Zheng et al. 2025, "Diffusion
    transformers with representation autoencoders", section 4.3). A generative model of codes never matches the codes of
    real images exactly; a decoder that was trained on exact codes only generalizes badly between them. Without the
    normalization a trainable encoder could make its features so large that the noise has no effect.

    Args:
        tau: τ; 0 for no noise.
    """

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.tau = tau

    def forward(self, features: Float[Tensor, " b *features"], noise: NoiseSource) -> BottleneckOutput:
        code = self.code(features)
        if not self.training or self.tau == 0:
            return BottleneckOutput(code, {})
        # A single draw for σ and ε: two draws with the same name would begin with the same values.
        drawn = noise(len(code), 1 + math.prod(code.shape[1:]))
        sigma = self.tau * drawn[:, :1].abs()
        return BottleneckOutput(code + (sigma * drawn[:, 1:]).view_as(code), {})

    def code(self, features: Float[Tensor, " b *features"]) -> Float[Tensor, " b *code"]:
        channels_last = features.float().movedim(1, -1)
        return F.layer_norm(channels_last, channels_last.shape[-1:]).movedim(-1, 1).contiguous()


class NoisyConfig(BottleneckConfig):
    """Normalized features with noise in training."""

    kind: Literal["noisy"] = "noisy"
    tau: float = Field(default=0.8, ge=0, le=1000)
    """τ of the noise's standard deviation σ ~ |N(0, τ²)|; codes have a standard deviation of 1. 0 for no noise."""

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        if shape[0] < 2:
            raise ModelError(
                f"bottleneck=noisy normalizes over the channels, and a code of shape {'×'.join(map(str, shape))} has "
                "only one: set latent_dim to at least 2."
            )
        return Noisy(self.tau)
