"""The convolutional encoder and decoder for images of any size from 8 to 512 pixels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from ectype.errors import ModelError
from ectype.nets.blocks import Activation, Down, Residual, Up, activation, halved, norm
from ectype.nets.coder import CoderConfig
from ectype.sections import DataInfo

__all__ = ["ConvConfig"]


class ConvConfig(CoderConfig):
    """Levels of residual blocks, each at half the size and twice the width of the last; GroupNorm throughout.

    The first level already stands at half the image's size: full resolution costs most and, at the widths that a
    processor affords, adds least.
    """

    kind: Literal["conv"] = "conv"
    latent_dim: int = Field(default=64, ge=1)
    """Length of the code where it is a vector."""
    latent: tuple[int, int, int] | None = None
    """Channels, height and width of the code where it is a map; the levels then end at that size."""
    width: int = Field(default=32, ge=4, multiple_of=4)
    """Channels of the first level."""
    max_width: int = Field(default=256, ge=4, multiple_of=4)
    depth: int = Field(default=1, ge=0)
    """Residual blocks per level."""
    bottom: int = Field(default=8, ge=1)
    """Levels are added until no side is longer than this."""
    activation: Activation = "silu"

    def sizes(self, info: DataInfo) -> list[tuple[int, int]]:
        """Image size, then that of each level."""
        sizes = [info.size]
        if self.latent is None:
            while max(sizes[-1]) > self.bottom or len(sizes) == 1:
                sizes.append(halved(sizes[-1]))
            return sizes
        while max(sizes[-1]) > 1 and sizes[-1] != self.latent[1:]:
            sizes.append(halved(sizes[-1]))
        if sizes[-1] != self.latent[1:] or len(sizes) == 1:
            found = ", ".join(f"{h}×{w}" for h, w in sizes[1:])
            raise ModelError(
                f"latent={list(self.latent)}: a map of {self.latent[1]}×{self.latent[2]} is not among the halvings of "
                f"a {info.size[0]}×{info.size[1]} image; choose from {found}."
            )
        return sizes

    def widths(self, info: DataInfo) -> list[int]:
        """Channels of each level."""
        return [min(self.width * 2**level, self.max_width) for level in range(len(self.sizes(info)) - 1)]

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        return self.latent or (self.latent_dim,)

    def encoder(self, info: DataInfo, heads: int) -> nn.Module:
        widths, bottom = self.widths(info), self.sizes(info)[-1]
        layers: list[nn.Module] = []
        for before, after in zip([info.channels, *widths], widths, strict=False):
            layers += [Down(before, after), *(Residual(after, self.activation) for _ in range(self.depth))]
        layers += [norm(widths[-1]), activation(self.activation)]
        if self.latent is None:
            layers += [nn.Flatten(), nn.Linear(widths[-1] * bottom[0] * bottom[1], heads * self.latent_dim)]
        else:
            layers += [nn.Conv2d(widths[-1], heads * self.latent[0], 1)]
        return nn.Sequential(*layers)

    def decoder(self, info: DataInfo, heads: int) -> nn.Module:
        widths, sizes = self.widths(info), self.sizes(info)
        layers: list[nn.Module] = []
        if self.latent is None:
            shape = (widths[-1], *sizes[-1])
            layers += [nn.Linear(self.latent_dim, shape[0] * shape[1] * shape[2]), nn.Unflatten(1, shape)]
        else:
            layers += [nn.Conv2d(self.latent[0], widths[-1], 3, padding=1)]
        for level in reversed(range(len(widths))):
            layers += [Residual(widths[level], self.activation) for _ in range(self.depth)]
            if level > 0:
                layers += [Up(widths[level], widths[level - 1], sizes[level])]
        layers += [norm(widths[0]), activation(self.activation), Up(widths[0], heads * info.channels, sizes[0])]
        return nn.Sequential(*layers)
