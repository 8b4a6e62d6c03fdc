"""Building blocks of convolutional networks."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.nets.resampling import ShuffleConv

__all__ = ["Activation", "ResidualBlock", "SelfAttention2d", "activation", "group_norm", "he_init"]

M = TypeVar("M", bound=nn.Module)

Activation = Literal["relu", "leaky_relu", "silu", "gelu", "tanh", "none"]


def activation(name: Activation) -> nn.Module:
    """Return an activation by name; leaky_relu has a negative slope of 0.2, as in the GAN literature."""
    return {
        "relu": nn.ReLU,
        "leaky_relu": lambda: nn.LeakyReLU(0.2),
        "silu": nn.SiLU,
        "gelu": nn.GELU,
        "tanh": nn.Tanh,
        "none": nn.Identity,
    }[name]()


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group normalization with up to 8 groups.

    Its statistics are computed for each image separately, so splitting a batch does not change the result.
    """
    return nn.GroupNorm(math.gcd(channels, 8), channels)


def he_init(module: M) -> M:
    """Initialize weights in place so that leaky_relu preserves the variance of activations (He et al. 2015).

    For networks without normalization, in which activations would vanish under PyTorch's default initialization.
    Biases are set to 0.

    Args:
        module: Convolutions and linear layers, or a module that contains them.

    Returns:
        The same module.
    """
    for part in module.modules():
        if isinstance(part, nn.ConvTranspose2d):
            # PyTorch computes the fan-in of a transposed convolution from the wrong dimension of its weight.
            fan_in = part.weight[:, 0].numel() / math.prod(part.stride)
            nn.init.normal_(part.weight, std=nn.init.calculate_gain("leaky_relu", 0.2) / math.sqrt(fan_in))
        elif isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=0.2, nonlinearity="leaky_relu")
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, ShuffleConv):
            part.tie_subpixels()
    return module


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with an identity shortcut; a fresh block is the identity (zero-initialized last layer).

    Args:
        channels: Input and output channels.
        act: Activation.
        normalized: Whether a group normalization precedes each activation.

    Example:
        >>> import torch
        >>> block, x = ResidualBlock(8, "silu"), torch.ones(1, 8, 5, 5)
        >>> torch.equal(block(x), x)
        True
    """

    def __init__(self, channels: int, act: Activation, *, normalized: bool = True) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        first = nn.Conv2d(channels, channels, 3, padding=1, bias=not normalized)
        norms = [group_norm(channels) for _ in range(2)] if normalized else []
        self.body = nn.Sequential(
            *norms[:1], activation(act), first if normalized else he_init(first), *norms[1:], activation(act), last
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.body(x)


class SelfAttention2d(nn.Module):
    """Self-attention between all positions of a map with an identity shortcut; a fresh block is the identity.

    Heads have 64 channels each. The cost grows with the square of the number of positions, so it is for small maps.

    Args:
        channels: Input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // 64))
        self.norm = group_norm(channels)
        # "ask" computes queries, keys and values, "answer" is the output projection; saved weights use these names.
        self.ask = nn.Conv2d(channels, 3 * channels, 1)
        self.answer = nn.Conv2d(channels, channels, 1)
        for parameter in self.answer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        qkv = self.ask(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        query, key, value = qkv.unbind(1)
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.answer(attended.transpose(-1, -2).flatten(1, 2).view_as(x))
