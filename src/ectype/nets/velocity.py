"""Networks that tell where a point that is partly noise should move: of the size of an image or a code, told a time."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ectype.nets.blocks import Attention, norm
from ectype.nets.resampling import Down, halved
from ectype.sections import Choice, DataInfo

__all__ = ["MLPVelocityConfig", "UNetVelocityConfig", "VelocityConfig"]

FREQUENCIES = 64
"""Cosines, and as many sines, that a time is told by."""
FASTEST = 1000.0
"""Radians that the fastest of them turns by from time 0 to 1."""


class VelocityConfig(Choice):
    """A network of points, times and labels."""

    family: ClassVar[str] = "velocity"

    def build(self, info: DataInfo, classes: int) -> nn.Module:
        """A module called with points [b, c, h, w], times [b] in [0, 1] and labels [b] or None, giving [b, c, h, w].

        Args:
            info: Of the points.
            classes: That labels may name; label `classes` stands for none. 0 for a network that is told none.
        """
        raise TypeError(f"{type(self).__name__} must define build(info, classes)")


class MLPVelocityConfig(VelocityConfig):
    """Residual blocks of linear layers, each scaled, shifted and gated by the time (Li et al. 2024): for vectors."""

    kind: Literal["mlp"] = "mlp"
    width: int = Field(default=512, ge=4)
    depth: int = Field(default=4, ge=1)
    """Residual blocks."""

    def build(self, info: DataInfo, classes: int) -> nn.Module:
        return _MLP(self, info, classes)


class UNetVelocityConfig(VelocityConfig):
    """A U-Net whose residual blocks are scaled and shifted by the time (Dhariwal and Nichol 2021): for maps."""

    kind: Literal["unet"] = "unet"
    width: int = Field(default=64, ge=4, multiple_of=4)
    """Channels at full size; each halving doubles them."""
    max_width: int = Field(default=256, ge=4, multiple_of=4)
    depth: int = Field(default=1, ge=1)
    """Residual blocks per level, on either way."""
    bottom: int = Field(default=8, ge=1)
    """Levels are added until no side is longer than this."""
    attention: int = Field(default=8, ge=0)
    """The lowest level has self-attention if no side of it is longer than this."""

    def build(self, info: DataInfo, classes: int) -> nn.Module:
        return _UNet(self, info, classes)


class _Told(nn.Module):
    """A time, and a label where there are some, as one vector."""

    frequencies: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        turns = torch.exp(-math.log(FASTEST) * torch.arange(FREQUENCIES) / (FREQUENCIES - 1))
        self.register_buffer("frequencies", FASTEST * turns, persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = classes
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None) -> Float[Tensor, "b d"]:
        angle = time[:, None].float() * self.frequencies
        told = self.time(torch.cat([angle.cos(), angle.sin()], dim=1))
        if self.label is not None:
            told = told + self.label(torch.full_like(time, self.classes, dtype=torch.int64) if label is None else label)
        return F.silu(told)


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """A layer that says nothing at the start."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class _Mixed(nn.Module):
    """Two linear layers beside the identity, which is all there is at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.body = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.told = _zero(nn.Linear(width, 3 * width))

    def forward(self, x: Float[Tensor, "b d"], told: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        scale, shift, gate = self.told(told).chunk(3, dim=1)
        return x + gate * self.body(self.norm(x) * (1 + scale) + shift)


class _MLP(nn.Module):
    def __init__(self, config: MLPVelocityConfig, info: DataInfo, classes: int) -> None:
        super().__init__()
        self.told = _Told(config.width, classes)
        self.first = nn.Linear(info.numbers, config.width)
        self.blocks = nn.ModuleList(_Mixed(config.width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.last = _zero(nn.Linear(config.width, info.numbers))

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b c h w"]:
        told = self.told(time, label)
        hidden = self.first(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, told)
        return self.last(F.silu(self.norm(hidden))).view_as(x)


class _Block(nn.Module):
    """Two convolutions beside the identity, the second on what the time has scaled and shifted."""

    def __init__(self, before: int, after: int, told: int) -> None:
        super().__init__()
        self.first = nn.Sequential(norm(before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.norm = norm(after)
        self.told = nn.Linear(told, 2 * after)
        self.second = _zero(nn.Conv2d(after, after, 3, padding=1))
        self.beside = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"], told: Float[Tensor, "b t"]) -> Float[Tensor, "b d h w"]:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm(self.first(x)) * (1 + scale) + shift
        return self.beside(x) + self.second(F.silu(hidden))


class _Blocks(nn.ModuleList):
    """Some, one after the other."""

    def forward(self, x: Float[Tensor, "b c h w"], told: Float[Tensor, "b t"]) -> Float[Tensor, "b d h w"]:
        for block in self:
            x = block(x, told)
        return x


class _UNet(nn.Module):
    def __init__(self, config: UNetVelocityConfig, info: DataInfo, classes: int) -> None:
        super().__init__()
        sizes = [info.size]
        while max(sizes[-1]) > config.bottom:
            sizes.append(halved(sizes[-1]))
        widths = [min(config.width * 2**level, config.max_width) for level in range(len(sizes))]
        wide = 4 * config.width

        def blocks(before: int, after: int) -> _Blocks:
            return _Blocks(_Block(before if i == 0 else after, after, wide) for i in range(config.depth))

        self.told = _Told(wide, classes)
        self.first = nn.Conv2d(info.channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(blocks(width, width) for width in widths)
        self.shrink = nn.ModuleList(Down(before, after) for before, after in itertools.pairwise(widths))
        low = widths[-1]
        self.attention = Attention(low) if max(sizes[-1]) <= config.attention else nn.Identity()
        self.middle = _Block(low, low, wide)
        self.up = nn.ModuleList(blocks(2 * width, width) for width in widths)
        self.grow = nn.ModuleList(
            nn.Conv2d(after, before, 3, padding=1) for before, after in itertools.pairwise(widths)
        )
        self.last = nn.Sequential(norm(widths[0]), nn.SiLU(), _zero(nn.Conv2d(widths[0], info.channels, 3, padding=1)))

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b c h w"]:
        told = self.told(time, label)
        x, kept = self.first(x), []
        for level, blocks in enumerate(self.down):
            x = self.shrink[level - 1](x) if level > 0 else x
            x = blocks(x, told)
            kept.append(x)
        x = self.middle(self.attention(x), told)
        for level in reversed(range(len(kept))):
            x = self.up[level](torch.cat([x, kept[level]], dim=1), told)
            if level > 0:
                x = self.grow[level - 1](F.interpolate(x, kept[level - 1].shape[2:], mode="nearest"))
        return self.last(x)
