"""The convolutional encoder and decoder for images of any size from 8 to 512 pixels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from ectype.errors import ModelError
from ectype.nets.blocks import Activation, Attention, Residual, activation, norm
from ectype.nets.coder import CoderConfig
from ectype.nets.resampling import Down, Patch, Squeeze, Upsampling, beside, halved, upsampling
from ectype.nets.squares import WithCode, WithSquares
from ectype.sections import DataInfo

__all__ = ["ConvConfig"]


class ConvConfig(CoderConfig):
    """Levels of residual blocks, each at half the size and twice the width of the last; GroupNorm unless switched off.

    The first level already stands at half the image's size: full resolution costs most and, at the widths that a
    processor affords, adds least. A decoder of maps takes maps of other sizes too, and returns an image as much larger.
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
    """Residual blocks per level. With none, normalisation and activation stand between the levels' convolutions."""
    encoder_depth: int | None = Field(default=None, ge=0)
    """The encoder's; None takes the decoder's."""
    bottom: int = Field(default=8, ge=1)
    """Levels are added until no side is longer than this."""
    kernel: Literal[3, 5] = 3
    """Side of the convolutions between levels; a transposed one is 1 wider."""
    patch: Literal[1, 2, 4] = 1
    """Pixels on a side that become channels before the first convolution, and channels that become pixels after the
    last. The first level then stands at the image's size divided by this. 1: it is reached by a stride instead."""
    up: Upsampling = "nearest"
    """How the decoder doubles a size. residual_shuffle beside `shortcut` starts near plain down- and upsampling where
    the code is a map and nothing else moves the start (likelihood.output=linear start_at_mean=false)."""
    shortcut: bool | Literal["pca"] = False
    """true: averages of pixels beside each of the encoder's convolutions between levels, and beside the last if the
    code is a map (DC-AE, Chen et al. 2024). pca: where the code is a map, the networks stand around the best linear
    code of squares of pixels, fitted on training images at the start, and learn what it lacks
    (likelihood.output=linear)."""
    attention: int = Field(default=0, ge=0)
    """Levels with no side longer than this end in self-attention; 0 for none. Its time grows with the fourth power."""
    activation: Activation = "silu"
    norm: Literal["group", "none"] = "group"
    """none: nothing makes images of little contrast as loud as others; what matters is then how large an error is, as
    where smooth images are to be exact (EDSR, Lim et al. 2017)."""

    def sizes(self, info: DataInfo) -> list[tuple[int, int]]:
        """Image size, then that of each level."""
        sizes = [info.size, halved(halved(info.size)) if self.patch == 4 else halved(info.size)]
        if self.latent is None:
            while max(sizes[-1]) > self.bottom:
                sizes.append(halved(sizes[-1]))
            return sizes
        while max(sizes[-1]) > 1 and sizes[-1] != self.latent[1:]:
            sizes.append(halved(sizes[-1]))
        if sizes[-1] != self.latent[1:]:
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
        if self.shortcut == "pca" and (
            self.latent is None or self.latent[0] >= info.channels * self._square(info) ** 2
        ):
            raise ModelError(
                "shortcut=pca stands around a map of fewer numbers than the image has: set latent=[channels, height, "
                f"width], such as latent=[4, {-(-info.size[0] // 8)}, {-(-info.size[1] // 8)}]."
            )
        return self.latent or (self.latent_dim,)

    def encoder(self, info: DataInfo, heads: int) -> nn.Module:
        widths, sizes = self.widths(info), self.sizes(info)
        depth = self.depth if self.encoder_depth is None else self.encoder_depth
        layers: list[nn.Module] = []
        for level, after in enumerate(widths):
            before = widths[level - 1] if level > 0 else info.channels
            first = self._first(before) if level > 0 and depth == 0 else []
            patched = level == 0 and self.patch > 1
            first += [Patch(before, after, self.patch, self.kernel) if patched else Down(before, after, self.kernel)]
            factor = self.patch if patched else 2
            layers += [beside(first, Squeeze(after, factor))] if self.shortcut is True else first
            layers += self._level(after, sizes[level + 1], depth)
        last = self._first(widths[-1])
        if self.latent is None:
            numbers = widths[-1] * sizes[-1][0] * sizes[-1][1]
            return nn.Sequential(*layers, *last, nn.Flatten(), nn.Linear(numbers, heads * self.latent_dim))
        channels = self.latent[0]
        last += [nn.Conv2d(widths[-1], heads * channels, 1)]
        if self.shortcut == "pca":
            return WithSquares([*layers, *last], info.channels, channels, self._square(info))
        # The first head is the code itself or its mean; what else there is starts near 0.
        return nn.Sequential(
            *layers, *([beside(last, Squeeze(heads * channels, 1, carried=channels))] if self.shortcut else last)
        )

    def decoder(self, info: DataInfo, heads: int) -> nn.Module:
        widths, sizes = self.widths(info), self.sizes(info)
        layers: list[nn.Module] = []
        if self.latent is None:
            shape = (widths[-1], *sizes[-1])
            layers += [nn.Linear(self.latent_dim, shape[0] * shape[1] * shape[2]), nn.Unflatten(1, shape)]
        else:
            first = nn.Conv2d(self.latent[0], widths[-1], 3, padding=1)
            layers += [beside([first], Squeeze(widths[-1], 1)) if self.up == "residual_shuffle" else first]
        for level in reversed(range(len(widths))):
            width = widths[level]
            layers += self._level(width, sizes[level + 1], self.depth)
            if level > 0:
                between = self._first(width) if self.depth == 0 else []
                layers += upsampling(self.up, width, widths[level - 1], sizes[level], first=between, kernel=self.kernel)
        unpatched = self.patch > 1 and self.up in ("nearest", "transposed")
        unpatched |= self.shortcut == "pca" and self.up == "residual_shuffle"  # there is a shortcut already
        layers += upsampling(
            "shuffle" if unpatched else self.up,
            widths[0],
            heads * info.channels,
            sizes[0],
            first=self._first(widths[0]),
            kernel=self.kernel,
            factor=max(2, self.patch),
            carried=info.channels,
        )
        if self.shortcut == "pca" and self.latent is not None:
            return WithCode(layers, self.latent[0], info.channels, self._square(info))
        return nn.Sequential(*layers)

    def _square(self, info: DataInfo) -> int:
        """Pixels of a side that a place of the code stands for."""
        return max(2, self.patch) * 2 ** (len(self.sizes(info)) - 2)

    def _first(self, channels: int) -> list[nn.Module]:
        return [*([norm(channels)] if self.norm == "group" else []), activation(self.activation)]

    def _level(self, width: int, size: tuple[int, int], depth: int) -> list[nn.Module]:
        blocks: list[nn.Module] = [
            Residual(width, self.activation, normalised=self.norm == "group") for _ in range(depth)
        ]
        return [*blocks, Attention(width)] if max(size) <= self.attention else blocks
