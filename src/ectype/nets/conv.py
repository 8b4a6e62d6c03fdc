"""Convolutional encoder and decoder for images of any size from 8 to 512 pixels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from ectype.config.schema import DataInfo, Side
from ectype.core.errors import ModelError
from ectype.nets.blocks import Activation, ResidualBlock, SelfAttention2d, activation, group_norm
from ectype.nets.coder import CoderConfig
from ectype.nets.pca_residual import (
    ImagePCADecoder,
    ImagePCAEncoder,
    PatchPCADecoder,
    PatchPCAEncoder,
)
from ectype.nets.resampling import (
    DownConv,
    ShortcutDown,
    UnshuffleConv,
    Upsampling,
    halved_size,
    upsampling_layers,
    with_shortcut,
)

__all__ = ["ConvConfig"]


class ConvConfig(CoderConfig):
    """Levels of residual blocks, each with half the size and twice the width of the previous one, and GroupNorm.

    The first level has half the size of the image: blocks at full resolution cost most and, at widths that are
    affordable on a CPU, help least. If the code is a map, the decoder also accepts maps of other sizes and returns
    images that are larger by the same factor.

    Example:
        >>> import torch
        >>> config, info = ConvConfig(latent=(4, 8, 8), width=8), DataInfo(channels=3, size=(64, 64))
        >>> config.code_shape(info)
        (4, 8, 8)
        >>> encoder, decoder = config.encoder(info, 1), config.decoder(info, 1)
        >>> code = encoder(torch.rand(2, 3, 64, 64))
        >>> code.shape, decoder(code).shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 3, 64, 64]))
    """

    kind: Literal["conv"] = "conv"
    latent_dim: int | None = Field(default=64, ge=1, le=1_000_000)
    """Length of the code if it is a vector. None: the code is a map, by default of an eighth of the image's size."""
    latent_channels: int = Field(default=4, ge=1, le=16_384)
    """Channels of the code if it is a map and `latent` is not set."""
    latent: tuple[Side, Side, Side] | None = None
    """Channels, height and width of the code if it is a map; the last level then has this size."""
    width: int = Field(default=32, ge=4, le=16_384, multiple_of=4)
    """Channels of the first level."""
    max_width: int = Field(default=256, ge=4, le=16_384, multiple_of=4)
    """Upper limit of the channels of a level."""
    depth: int = Field(default=1, ge=0, le=100)
    """Residual blocks per level. 0: only normalization and activation between the convolutions of the levels."""
    encoder_depth: int | None = Field(default=None, ge=0, le=100)
    """Residual blocks per level of the encoder; None for the same as in the decoder."""
    bottom: int = Field(default=8, ge=1, le=16_384)
    """Levels are added until no side is longer than this."""
    kernel: Literal[3, 5] = 3
    """Kernel size of the convolutions between levels; that of a transposed convolution is 1 larger."""
    patch: Literal[1, 2, 4] = 1
    """Side of the blocks of pixels that become channels before the first convolution, and of those that channels become
    after the last one. The first level then has the image's size divided by this. 1: a strided convolution instead."""
    down: Literal["conv", "unshuffle"] = "conv"
    """How the encoder halves the size: a strided convolution, or blocks of pixels become channels before a 1×1
    convolution."""
    up: Upsampling = "nearest"
    """How the decoder doubles the size. residual_shuffle together with `shortcut` starts close to plain down- and
    upsampling if the code is a map and nothing else changes the start: likelihood.output=linear start_at_mean=false."""
    shortcut: bool | Literal["pca"] = False
    """true: a shortcut that averages pixels around each of the encoder's convolutions between levels, and around the
    last one if the code is a map (DC-AE, Chen et al. 2024). pca: the networks learn the residual of the best linear
    code, of whole images if the code is a vector and of image patches if it is a map, which is fitted on training
    images at the start."""
    attention: int = Field(default=0, ge=0, le=16_384)
    """Levels with no side longer than this end in self-attention; 0 for none. Its cost grows with the fourth power."""
    activation: Activation = "silu"
    norm: Literal["group", "none"] = "group"
    """none: activations keep the contrast of the image. This suits exact reconstruction of smooth images, where the
    absolute size of an error matters (EDSR, Lim et al. 2017)."""

    def sizes(self, info: DataInfo) -> list[tuple[int, int]]:
        """Return the size of the image, then that of each level.

        Raises:
            ModelError: If no level has the size of `latent`.
        """
        latent = self._map_shape(info)
        half = halved_size(info.size)
        sizes = [info.size, halved_size(half) if self._patch(info) == 4 else half]
        if latent is None:
            while max(sizes[-1]) > self.bottom:
                sizes.append(halved_size(sizes[-1]))
            return sizes
        while max(sizes[-1]) > 1 and sizes[-1] != latent[1:]:
            sizes.append(halved_size(sizes[-1]))
        if sizes[-1] != latent[1:]:
            reachable = dict.fromkeys([half, *sizes[1:]])
            available = ", ".join(f"{h}×{w}" for h, w in reachable)
            raise ModelError(
                f"latent={list(latent)}: a map of {latent[1]}×{latent[2]} is not among the halvings of "
                f"a {info.size[0]}×{info.size[1]} image; choose from {available}."
            )
        return sizes

    def widths(self, info: DataInfo) -> list[int]:
        """Return the channels of each level."""
        return [min(self.width * 2**level, self.max_width) for level in range(len(self.sizes(info)) - 1)]

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        latent = self._map_shape(info)
        if self.shortcut == "pca" and latent is not None and latent[0] >= info.channels * self._patch_side(info) ** 2:
            raise ModelError(
                "shortcut=pca needs a code that is a map with fewer elements than the image: set latent=[channels, "
                f"height, width], such as latent=[4, {-(-info.size[0] // 8)}, {-(-info.size[1] // 8)}]."
            )
        return latent or (self._vector_length,)

    def _patch(self, info: DataInfo) -> int:
        """Return `patch`, or 2 instead of 4 if the code is a map with half the size of the image."""
        latent = self._map_shape(info)
        return 2 if self.patch == 4 and latent is not None and latent[1:] == halved_size(info.size) else self.patch

    def _map_shape(self, info: DataInfo) -> tuple[int, int, int] | None:
        """Return the shape of the code if it is a map."""
        if self.latent is None and self.latent_dim is None:
            height, width = info.size
            for _ in range(3):
                height, width = halved_size((height, width))
            return self.latent_channels, height, width
        return self.latent

    @property
    def _vector_length(self) -> int:
        """Length of the code if it is a vector."""
        assert self.latent_dim is not None
        return self.latent_dim

    def encoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        widths, sizes = self.widths(info), self.sizes(info)
        depth = self.depth if self.encoder_depth is None else self.encoder_depth
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            before = widths[level - 1] if level > 0 else info.channels
            down = self._norm_and_activation(before) if level > 0 and depth == 0 else []
            patched = level == 0 and self._patch(info) > 1
            if patched:
                down += [UnshuffleConv(before, width, self._patch(info), self.kernel)]
            elif self.down == "unshuffle":
                down += [UnshuffleConv(before, width, 2, kernel=1)]
            else:
                down += [DownConv(before, width, self.kernel)]
            factor = self._patch(info) if patched else 2
            layers += [with_shortcut(down, ShortcutDown(width, factor))] if self.shortcut is True else down
            layers += self._level_blocks(width, sizes[level + 1], depth)
        last = self._norm_and_activation(widths[-1])
        latent = self._map_shape(info)
        if latent is None:
            features = widths[-1] * sizes[-1][0] * sizes[-1][1]
            last += [nn.Flatten(), nn.Linear(features, params_per_element * self._vector_length)]
            if self.shortcut == "pca":
                return ImagePCAEncoder([*layers, *last], info, self._vector_length)
            return nn.Sequential(*layers, *last)
        channels = latent[0]
        outputs = params_per_element * channels
        last += [nn.Conv2d(widths[-1], outputs, 1)]
        if self.shortcut == "pca":
            return PatchPCAEncoder([*layers, *last], info.channels, channels, self._patch_side(info))
        # The first channels are the code or its mean, and only they get the shortcut; the others start near 0.
        with_last = [with_shortcut(last, ShortcutDown(outputs, 1, filled=channels))] if self.shortcut else last
        return nn.Sequential(*layers, *with_last)

    def decoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        widths, sizes = self.widths(info), self.sizes(info)
        layers: list[nn.Module] = []
        latent = self._map_shape(info)
        if latent is None:
            shape = (widths[-1], *sizes[-1])
            layers += [nn.Linear(self._vector_length, shape[0] * shape[1] * shape[2]), nn.Unflatten(1, shape)]
        else:
            first = nn.Conv2d(latent[0], widths[-1], 3, padding=1)
            layers += [with_shortcut([first], ShortcutDown(widths[-1], 1)) if self.up == "residual_shuffle" else first]
        for level in reversed(range(len(widths))):
            width = widths[level]
            layers += self._level_blocks(width, sizes[level + 1], self.depth)
            if level > 0:
                layers += upsampling_layers(
                    self.up,
                    width,
                    widths[level - 1],
                    sizes[level],
                    pre_layers=self._norm_and_activation(width) if self.depth == 0 else [],
                    kernel=1 if self.up == "shuffle" and self.down == "unshuffle" else self.kernel,
                )
        plain_shuffle = self._patch(info) > 1 and self.up in ("nearest", "transposed")
        # The linear code is a shortcut around the complete decoder already.
        plain_shuffle |= self.shortcut == "pca" and self.up == "residual_shuffle"
        layers += upsampling_layers(
            "shuffle" if plain_shuffle else self.up,
            widths[0],
            params_per_element * info.channels,
            sizes[0],
            pre_layers=self._norm_and_activation(widths[0]),
            kernel=self.kernel,
            factor=max(2, self._patch(info)),
            filled=info.channels,
        )
        if self.shortcut == "pca" and latent is None:
            return ImagePCADecoder(layers, self._vector_length, info)
        if self.shortcut == "pca" and latent is not None:
            return PatchPCADecoder(layers, latent[0], info.channels, self._patch_side(info))
        return nn.Sequential(*layers)

    def _patch_side(self, info: DataInfo) -> int:
        """Return the side in pixels of the image patch that one position of the code represents."""
        return max(2, self._patch(info)) * 2 ** (len(self.sizes(info)) - 2)

    def _norm_and_activation(self, channels: int) -> list[nn.Module]:
        return [*([group_norm(channels)] if self.norm == "group" else []), activation(self.activation)]

    def _level_blocks(self, width: int, size: tuple[int, int], depth: int) -> list[nn.Module]:
        blocks: list[nn.Module] = [
            ResidualBlock(width, self.activation, normalized=self.norm == "group") for _ in range(depth)
        ]
        return [*blocks, SelfAttention2d(width)] if max(size) <= self.attention else blocks
