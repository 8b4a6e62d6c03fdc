"""U-Nets: down by pooling, up again, and skips between the levels of a size (Ronneberger et al. 2015)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ectype.errors import ModelError
from ectype.nets.backbones import Backbone, TrainedEncoder
from ectype.nets.blocks import Activation, activation, he, norm
from ectype.nets.mapper import Mapper, MapperConfig
from ectype.nets.resampling import Down, Upsampling, upsampling
from ectype.sections import DataInfo, Section

__all__ = ["BackboneUNetConfig", "Skip", "UNetConfig"]

Skip = Literal["concat", "sum", "none"]
Norm = Literal["batch", "group", "none"]


class UNetFields(Section):
    """What a U-Net is built of, but for its levels on the way down."""

    width: int = Field(default=32, ge=1)
    """Channels of the first level, `num_filters`; each level below has twice as many."""
    max_width: int = Field(default=512, ge=1)
    norm: Norm = "batch"
    """group: for batches of few images, or those that are split. none: nothing makes images of little contrast as loud
    as others, as suits restoring; the rate must then be lower, and gradients clipped."""
    activation: Activation = "leaky_relu"
    up: Upsampling = "transposed"
    """nearest and shuffle draw no checkerboard at the start."""
    skip: Skip = "concat"

    def widths(self, levels: int) -> list[int]:
        """Channels of so many levels and of the bottom."""
        return [min(self.width * 2**level, self.max_width) for level in range(levels + 1)]

    def block(self, before: int, after: int) -> nn.Module:
        """Two convolutions, each normalised."""
        plain = self.norm == "none"
        first = nn.Conv2d(before, after, 3, padding=1, bias=plain)
        second = nn.Conv2d(after, after, 3, padding=1, bias=plain)
        if plain:
            # Nothing stands between a block's end and what follows but the next convolution, unless it bends.
            return he(nn.Sequential(first, activation(self.activation), second, activation(self.activation)))
        normalised = nn.BatchNorm2d if self.norm == "batch" else norm
        return nn.Sequential(first, normalised(after), activation(self.activation), second, normalised(after))


class UNetConfig(UNetFields, MapperConfig):
    """The documented U-Net: convolution, norm, LeakyReLU(0.2), convolution, norm; max-pool; transposed convolutions.

    Four levels above the bottom, each half as large and twice as wide as the last.
    """

    kind: Literal["unet"] = "unet"
    levels: int = Field(default=4, ge=1, le=7)
    """Halvings."""
    fold: int = Field(default=1, ge=1, le=8)
    """Squares of so many pixels a side become one place of the first level, all their numbers its channels, and are
    taken apart after the last (FFDNet, Zhang et al. 2018): nothing works at the full size, where most time goes."""

    def build(self, info: DataInfo, channels: int, *, deep: bool) -> Mapper:
        return UNet(self, info, channels, deep=deep)


class BackboneUNetConfig(TrainedEncoder, UNetFields, MapperConfig):
    """A U-Net whose way down is a network of torchvision or timm, trained by others if wanted.

    At full size, where such networks have no map, and at sizes that they skip, a few convolutions of our own stand in.
    """

    kind: Literal["backbone-unet"] = "backbone-unet"
    norm: Norm = "group"
    up: Upsampling = "nearest"

    def build(self, info: DataInfo, channels: int, *, deep: bool) -> Mapper:
        return BackboneUNet(self, info, channels, deep=deep)


class Decoder(nn.Module):
    """Up from the bottom, level by level, each joined by what was seen at its size on the way down.

    Args:
        config: Blocks, upsampling and skips.
        widths: Channels of the maps on the way down, the largest map first, the bottom last.
        channels: Wanted for each pixel.
        deep: Whether the lower levels have outputs too.
    """

    def __init__(self, config: UNetFields, widths: list[int], channels: int, *, deep: bool) -> None:
        super().__init__()
        self.skip = config.skip
        ups, blocks = [], []
        for above, below in pairwise(widths):
            # A size that no map has: each is twice that below.
            up = nn.Sequential(*upsampling(config.up, below, above, (0, 0), kernel=3))
            ups.append(he(up) if config.norm == "none" else up)
            blocks.append(config.block(2 * above if self.skip == "concat" else above, above))
        self.ups, self.blocks = nn.ModuleList(ups), nn.ModuleList(blocks)
        heads = widths[: len(widths) - 1] if deep else widths[:1]
        self.heads = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in heads)

    def forward(self, maps: list[Tensor], deep: bool) -> list[Tensor]:
        """Outputs, the largest first."""
        x, found = maps[-1], []
        for level in reversed(range(len(self.ups))):
            x = self.ups[level](x)
            if self.skip == "concat":
                x = torch.cat([maps[level], x], dim=1)
            elif self.skip == "sum":
                x = x + maps[level]
            x = self.blocks[level](x)
            if level == 0 or deep:
                found.append(self.heads[level](x))
        return found[::-1]


class UNet(Mapper):
    """See `UNetConfig`."""

    def __init__(self, config: UNetConfig, info: DataInfo, channels: int, *, deep: bool) -> None:
        super().__init__()
        self.fold = config.fold
        self.multiple = config.fold * 2**config.levels
        if config.levels > 1 and max(info.size) < self.multiple:
            most = max(1, (max(info.size) // config.fold).bit_length() - 1)
            raise ModelError(
                f"levels={config.levels} halves images of {info.size[1]}×{info.size[0]} to nothing: at most {most}."
            )
        widths = config.widths(config.levels)
        taken = [info.channels * config.fold**2, *widths]
        self.down = nn.ModuleList(config.block(before, after) for before, after in pairwise(taken))
        self.pool = nn.MaxPool2d(2)
        self.decoder = Decoder(config, widths, channels * config.fold**2, deep=deep)

    def body(self, image: Float[Tensor, "b c h w"], *, deep: bool = False) -> list[Tensor]:
        maps: list[Tensor] = []
        x = image if self.fold == 1 else pixel_unshuffle(image, self.fold)
        for block in self.down:
            x = block(self.pool(x) if maps else x)
            maps.append(x)
        found = self.decoder(maps, deep)
        return found if self.fold == 1 else [pixel_shuffle(level, self.fold) for level in found]

    @property
    def heads(self) -> nn.ModuleList:
        return self.decoder.heads


class BackboneUNet(Mapper):
    """See `BackboneUNetConfig`."""

    def __init__(self, config: BackboneUNetConfig, info: DataInfo, channels: int, *, deep: bool) -> None:
        super().__init__()
        self.backbone = Backbone(config, info)
        self.multiple = self.backbone.geometry.stride
        levels = self.multiple.bit_length() - 1
        widths = config.widths(levels)
        self.stem = config.block(info.channels, widths[0])
        with torch.no_grad():
            known = self.backbone.pyramid(torch.zeros(1, info.channels, *(2 * self.multiple,) * 2))
        # Where the network has no map, the level above is halved.
        self.project = nn.ModuleList(
            nn.Conv2d(known[level].shape[1], widths[level], 1)
            if level in known
            else Down(widths[level - 1], widths[level])
            for level in range(1, levels + 1)
        )
        self.decoder = Decoder(config, widths, channels, deep=deep)

    def body(self, image: Float[Tensor, "b c h w"], *, deep: bool = False) -> list[Tensor]:
        known = self.backbone.pyramid(image)
        maps = [self.stem(image)]
        for level, project in enumerate(self.project, 1):
            maps.append(project(known.get(level, maps[-1])))
        return self.decoder(maps, deep)

    @property
    def heads(self) -> nn.ModuleList:
        return self.decoder.heads
