"""Building blocks of convolutional networks."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.nets.resampling import Shuffle

__all__ = ["Activation", "Attention", "Residual", "activation", "he", "norm"]

M = TypeVar("M", bound=nn.Module)

Activation = Literal["relu", "leaky_relu", "silu", "gelu", "tanh", "none"]


def activation(name: Activation) -> nn.Module:
    """An activation by name; leaky_relu has the slope 0.2 of the GAN literature."""
    return {
        "relu": nn.ReLU,
        "leaky_relu": lambda: nn.LeakyReLU(0.2),
        "silu": nn.SiLU,
        "gelu": nn.GELU,
        "tanh": nn.Tanh,
        "none": nn.Identity,
    }[name]()


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation: no statistic crosses images, so batches may be split."""
    return nn.GroupNorm(math.gcd(channels, 8), channels)


def he(module: M) -> M:
    """Weights drawn so that leaky_relu keeps a signal's size through any number of layers (He et al. 2015).

    For networks without normalisation, where PyTorch's own start would let it fade.
    """
    for part in module.modules():
        if isinstance(part, nn.ConvTranspose2d):
            # PyTorch counts what a number goes to, not what it comes from.
            come = part.weight[:, 0].numel() / math.prod(part.stride)
            nn.init.normal_(part.weight, std=nn.init.calculate_gain("leaky_relu", 0.2) / math.sqrt(come))
        elif isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=0.2, nonlinearity="leaky_relu")
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, Shuffle):
            part.tie()
    return module


class Residual(nn.Module):
    """Two 3×3 convolutions beside the identity, which is all there is at the start (zero-initialised last layer).

    Args:
        channels: In and out.
        act: Activation.
        normalised: Whether a group normalisation stands before each activation.
    """

    def __init__(self, channels: int, act: Activation, *, normalised: bool = True) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        first = nn.Conv2d(channels, channels, 3, padding=1, bias=not normalised)
        norms = [norm(channels) for _ in range(2)] if normalised else []
        self.body = nn.Sequential(
            *norms[:1],
            activation(act),
            first if normalised else he(first),
            *norms[1:],
            activation(act),
            last,
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.body(x)


class Attention(nn.Module):
    """Self-attention between all places of a map beside the identity, which is all there is at the start.

    Heads of 64 channels; time grows with the square of the number of places, so it is for small maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // 64))
        self.norm = norm(channels)
        self.ask = nn.Conv2d(channels, 3 * channels, 1)
        self.answer = nn.Conv2d(channels, channels, 1)
        for parameter in self.answer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        asked = self.ask(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        query, key, value = asked.unbind(1)
        found = F.scaled_dot_product_attention(query, key, value)
        return x + self.answer(found.transpose(-1, -2).flatten(1, 2).view_as(x))
