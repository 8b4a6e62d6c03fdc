"""Velocity networks of flow matching: which direction a noisy image or code moves in, given the time.

Attribute names of modules, such as `told` for a conditioning layer, are part of saved weights.
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import Choice, DataInfo
from ectype.nets.blocks import SelfAttention2d, group_norm
from ectype.nets.resampling import DownConv, halved_size

__all__ = ["MLPVelocityConfig", "UNetVelocityConfig", "VelocityConfig"]

NUM_FREQUENCIES = 64
"""Number of cosines, and of sines, that a time is encoded with."""
MAX_ANGULAR_FREQUENCY = 1000.0
"""Angle in radians that the fastest of them passes through from time 0 to 1."""


class VelocityConfig(Choice):
    """Base class of the configurations of a velocity network."""

    family: ClassVar[str] = "velocity"

    def build(self, info: DataInfo, classes: int) -> nn.Module:
        """Build the network.

        Args:
            info: Describes the points, which are images or codes.
            classes: Number of classes. Label `classes` means "no label". 0 for a network without labels.

        Returns:
            A module that is called with points [b, c, h, w], times [b] in [0, 1] and labels [b] or None, and returns
            velocities [b, c, h, w].
        """
        raise TypeError(f"{type(self).__name__} must define build(info, classes)")


class MLPVelocityConfig(VelocityConfig):
    """Residual blocks of linear layers, each scaled, shifted and gated by the time (Li et al. 2024): for vectors."""

    kind: Literal["mlp"] = "mlp"
    width: int = Field(default=512, ge=4, le=16_384)
    """Features of the hidden layers."""
    depth: int = Field(default=4, ge=1, le=100)
    """Number of residual blocks."""

    def build(self, info: DataInfo, classes: int) -> nn.Module:
        return _MLPVelocity(self, info, classes)


class UNetVelocityConfig(VelocityConfig):
    """A U-Net whose residual blocks are scaled and shifted by the time (Dhariwal and Nichol 2021): for maps."""

    kind: Literal["unet"] = "unet"
    width: int = Field(default=64, ge=4, le=16_384, multiple_of=4)
    """Channels at full size; each level below has twice as many."""
    max_width: int = Field(default=256, ge=4, le=16_384, multiple_of=4)
    """Upper limit of the channels of a level."""
    depth: int = Field(default=1, ge=1, le=100)
    """Residual blocks per level, on the way down and on the way up."""
    bottom: int = Field(default=8, ge=1, le=16_384)
    """Levels are added until no side is longer than this."""
    attention: int = Field(default=8, ge=0, le=16_384)
    """The lowest level has self-attention if no side of it is longer than this."""

    def build(self, info: DataInfo, classes: int) -> nn.Module:
        return _UNetVelocity(self, info, classes)


class _Conditioning(nn.Module):
    """Encodes a time, and a label if there are classes, as one vector."""

    frequencies: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        places = torch.arange(NUM_FREQUENCIES, device="cpu")  # few numbers, computed also where all else is on `meta`
        decay = torch.exp(-math.log(MAX_ANGULAR_FREQUENCY) * places / (NUM_FREQUENCIES - 1))
        self.register_buffer("frequencies", MAX_ANGULAR_FREQUENCY * decay, persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = classes
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None) -> Float[Tensor, "b d"]:
        angle = time[:, None].float() * self.frequencies
        conditioning = self.time(torch.cat([angle.cos(), angle.sin()], dim=1))
        if self.label is not None:
            index = torch.full_like(time, self.classes, dtype=torch.int64) if label is None else label
            conditioning = conditioning + self.label(index)
        return F.silu(conditioning)


def _zero_init(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Set the parameters of a layer to 0, so that its output is 0 at first."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class _ModulatedMLP(nn.Module):
    """Two linear layers with an identity shortcut; a fresh block is the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.body = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.told = _zero_init(nn.Linear(width, 3 * width))

    def forward(self, x: Float[Tensor, "b d"], conditioning: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        scale, shift, gate = self.told(conditioning).chunk(3, dim=1)
        return x + gate * self.body(self.norm(x) * (1 + scale) + shift)


class _MLPVelocity(nn.Module):
    def __init__(self, config: MLPVelocityConfig, info: DataInfo, classes: int) -> None:
        super().__init__()
        self.told = _Conditioning(config.width, classes)
        self.first = nn.Linear(info.num_elements, config.width)
        self.blocks = nn.ModuleList(_ModulatedMLP(config.width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.last = _zero_init(nn.Linear(config.width, info.num_elements))

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b c h w"]:
        conditioning = self.told(time, label)
        hidden = self.first(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, conditioning)
        return self.last(F.silu(self.norm(hidden))).view_as(x)


class _ModulatedConv(nn.Module):
    """Two convolutions with a shortcut; the input of the second one is scaled and shifted by the conditioning."""

    def __init__(self, in_channels: int, out_channels: int, conditioning_features: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            group_norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.norm = group_norm(out_channels)
        self.told = nn.Linear(conditioning_features, 2 * out_channels)
        self.second = _zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        # The shortcut.
        self.beside = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"], conditioning: Float[Tensor, "b t"]) -> Float[Tensor, "b d h w"]:
        scale, shift = self.told(conditioning)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm(self.first(x)) * (1 + scale) + shift
        return self.beside(x) + self.second(F.silu(hidden))


class _ModulatedSequence(nn.ModuleList):
    """Blocks that are applied one after the other with the same conditioning."""

    def forward(self, x: Float[Tensor, "b c h w"], conditioning: Float[Tensor, "b t"]) -> Float[Tensor, "b d h w"]:
        for block in self:
            x = block(x, conditioning)
        return x


class _UNetVelocity(nn.Module):
    def __init__(self, config: UNetVelocityConfig, info: DataInfo, classes: int) -> None:
        super().__init__()
        sizes = [info.size]
        while max(sizes[-1]) > config.bottom:
            sizes.append(halved_size(sizes[-1]))
        widths = [min(config.width * 2**level, config.max_width) for level in range(len(sizes))]
        features = 4 * config.width

        def blocks(before: int, after: int) -> _ModulatedSequence:
            return _ModulatedSequence(
                _ModulatedConv(before if i == 0 else after, after, features) for i in range(config.depth)
            )

        self.told = _Conditioning(features, classes)
        self.first = nn.Conv2d(info.channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(blocks(width, width) for width in widths)
        self.shrink = nn.ModuleList(DownConv(before, after) for before, after in itertools.pairwise(widths))
        low = widths[-1]
        self.attention = SelfAttention2d(low) if max(sizes[-1]) <= config.attention else nn.Identity()
        self.middle = _ModulatedConv(low, low, features)
        self.up = nn.ModuleList(blocks(2 * width, width) for width in widths)
        self.grow = nn.ModuleList(
            nn.Conv2d(after, before, 3, padding=1) for before, after in itertools.pairwise(widths)
        )
        last = _zero_init(nn.Conv2d(widths[0], info.channels, 3, padding=1))
        self.last = nn.Sequential(group_norm(widths[0]), nn.SiLU(), last)

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b c h w"]:
        conditioning = self.told(time, label)
        x, skips = self.first(x), []
        for level, blocks in enumerate(self.down):
            x = self.shrink[level - 1](x) if level > 0 else x
            x = blocks(x, conditioning)
            skips.append(x)
        x = self.middle(self.attention(x), conditioning)
        for level in reversed(range(len(skips))):
            x = self.up[level](torch.cat([x, skips[level]], dim=1), conditioning)
            if level > 0:
                x = self.grow[level - 1](F.interpolate(x, skips[level - 1].shape[2:], mode="nearest"))
        return self.last(x)
