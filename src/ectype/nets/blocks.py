"""Building blocks of convolutional networks."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Activation", "Down", "Plain", "Residual", "Up", "activation", "halved", "he", "norm"]

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


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """The size behind a `Down`: odd sides round up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def he(module: M) -> M:
    """Weights drawn so that leaky_relu keeps a signal's size through any number of layers (He et al. 2015).

    For networks without normalisation, where PyTorch's own start would let it fade.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=0.2, nonlinearity="leaky_relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


class Plain(nn.Module):
    """Two 3×3 convolutions beside the identity without any normalisation (zero-initialised last layer)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        first = he(nn.Conv2d(channels, channels, 3, padding=1))
        self.body = nn.Sequential(activation("leaky_relu"), first, activation("leaky_relu"), last)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.body(x)


class Residual(nn.Module):
    """Two 3×3 convolutions beside the identity, which is all there is at the start (zero-initialised last layer)."""

    def __init__(self, channels: int, act: Activation) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.body = nn.Sequential(
            norm(channels),
            activation(act),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            norm(channels),
            activation(act),
            last,
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.body(x)


class Down(nn.Conv2d):
    """Half the height and width (odd sides round up) by a 3×3 convolution of stride 2."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, stride=2, padding=1)


class Up(nn.Module):
    """To a given size: 1×1 to the outgoing channels, nearest neighbour, 3×3.

    A constant comes out as a constant away from the border: no checkerboard, which transposed convolution and pixel
    shuffling draw at the start and must unlearn (Odena et al. 2016, "Deconvolution and checkerboard artifacts").
    """

    def __init__(self, before: int, after: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.reduce = nn.Conv2d(before, after, 1)
        self.smooth = nn.Conv2d(after, after, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self.smooth(F.interpolate(self.reduce(x), size=self.size, mode="nearest"))
