"""U-Nets: pooling on the way down, upsampling on the way up, and skip connections (Ronneberger et al. 2015)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ectype.config.schema import DataInfo, Section
from ectype.core.errors import ModelError
from ectype.nets.backbones import Backbone, TrainedEncoder
from ectype.nets.blocks import Activation, activation, group_norm, he_init
from ectype.nets.dense_predictor import DensePredictor, DensePredictorConfig
from ectype.nets.resampling import DownConv, Upsampling, upsampling_layers

__all__ = ["BackboneUNet", "BackboneUNetConfig", "Skip", "UNet", "UNetConfig"]

Skip = Literal["concat", "sum", "none"]
Norm = Literal["batch", "group", "none"]


class UNetFields(Section):
    """The keys that both kinds of U-Net have in common."""

    width: int = Field(default=32, ge=1, le=16_384)
    """Channels of the first level; each level below has twice as many."""
    max_width: int = Field(default=512, ge=1, le=16_384)
    """Upper limit of the channels of a level."""
    norm: Norm = "batch"
    """group: for batches of few images, or batches that are split. none: activations keep the contrast of the image,
    which suits restoration; it needs a lower learning rate and gradient clipping."""
    activation: Activation = "leaky_relu"
    up: Upsampling = "transposed"
    """How the size is doubled. nearest and shuffle produce no checkerboard at the start."""
    skip: Skip = "concat"
    """How a level is combined with the map of the same size from the way down."""

    def widths(self, levels: int) -> list[int]:
        """Return the channels of each level and of the bottom."""
        return [min(self.width * 2**level, self.max_width) for level in range(levels + 1)]

    def block(self, in_channels: int, out_channels: int) -> nn.Module:
        """Build two 3×3 convolutions, each followed by a normalization."""
        plain = self.norm == "none"
        first = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=plain)
        second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=plain)
        if plain:
            # Without a second activation, the block's last convolution and the next one would form one linear map.
            return he_init(nn.Sequential(first, activation(self.activation), second, activation(self.activation)))
        norm = nn.BatchNorm2d if self.norm == "batch" else group_norm
        return nn.Sequential(first, norm(out_channels), activation(self.activation), second, norm(out_channels))


class UNetConfig(UNetFields, DensePredictorConfig):
    """A U-Net with max pooling; a block is convolution, norm, LeakyReLU(0.2), convolution, norm.

    By default there are four levels above the bottom, each with half the size and twice the width of the previous one.
    """

    kind: Literal["unet"] = "unet"
    levels: int = Field(default=4, ge=1, le=7)
    """Number of halvings."""
    fold: int = Field(default=1, ge=1, le=8)
    """Side of the blocks of pixels that become channels before the first level, and pixels again after the last one
    (FFDNet, Zhang et al. 2018): no layer works at full size, where most time would be spent."""

    def build(self, info: DataInfo, channels: int, *, deep: bool) -> DensePredictor:
        return UNet(self, info, channels, deep=deep)


class BackboneUNetConfig(TrainedEncoder, UNetFields, DensePredictorConfig):
    """A U-Net whose way down is a network of torchvision or timm, optionally pretrained.

    Such networks have no map at full size, and some skip other sizes; there, a few convolutions are used instead.
    """

    kind: Literal["backbone-unet"] = "backbone-unet"
    norm: Norm = "group"
    up: Upsampling = "nearest"

    def build(self, info: DataInfo, channels: int, *, deep: bool) -> DensePredictor:
        return BackboneUNet(self, info, channels, deep=deep)


class UNetDecoder(nn.Module):
    """The way up of a U-Net, combined at each level with the map of the same size from the way down.

    Args:
        config: Defines blocks, upsampling and skip connections.
        widths: Channels of the maps on the way down, the largest map first, the bottom last.
        channels: Output values per pixel.
        deep: Whether the lower levels have outputs too.
    """

    def __init__(self, config: UNetFields, widths: list[int], channels: int, *, deep: bool) -> None:
        super().__init__()
        self.skip = config.skip
        ups, blocks = [], []
        for above, below in pairwise(widths):
            # No map has the size (0, 0), so that the layers always double the size of their input.
            up = nn.Sequential(*upsampling_layers(config.up, below, above, (0, 0), kernel=3))
            ups.append(he_init(up) if config.norm == "none" else up)
            blocks.append(config.block(2 * above if self.skip == "concat" else above, above))
        self.ups, self.blocks = nn.ModuleList(ups), nn.ModuleList(blocks)
        heads = widths[: len(widths) - 1] if deep else widths[:1]
        self.heads = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in heads)

    def forward(self, maps: list[Tensor], deep: bool) -> list[Tensor]:
        """Return the outputs for the maps of the way down, the largest first."""
        x, outputs = maps[-1], []
        for level in reversed(range(len(self.ups))):
            x = self.ups[level](x)
            if self.skip == "concat":
                x = torch.cat([maps[level], x], dim=1)
            elif self.skip == "sum":
                x = x + maps[level]
            x = self.blocks[level](x)
            if level == 0 or deep:
                outputs.append(self.heads[level](x))
        return outputs[::-1]


class UNet(DensePredictor):
    """The network of a `UNetConfig`.

    Example:
        >>> net = UNetConfig(width=4, levels=2).build(DataInfo(channels=3, size=(32, 48)), channels=2, deep=False)
        >>> net(torch.rand(1, 3, 32, 48)).shape
        torch.Size([1, 2, 32, 48])
    """

    def __init__(self, config: UNetConfig, info: DataInfo, channels: int, *, deep: bool) -> None:
        super().__init__()
        self.fold = config.fold
        self.multiple = config.fold * 2**config.levels
        if config.levels > 1 and max(info.size) < self.multiple:
            max_levels = max(1, (max(info.size) // config.fold).bit_length() - 1)
            raise ModelError(
                f"levels={config.levels} is too many for images of {info.size[1]}×{info.size[0]} pixels: set levels to "
                f"at most {max_levels}."
            )
        widths = config.widths(config.levels)
        channels_in = [info.channels * config.fold**2, *widths]
        self.down = nn.ModuleList(config.block(before, after) for before, after in pairwise(channels_in))
        self.pool = nn.MaxPool2d(2)
        self.decoder = UNetDecoder(config, widths, channels * config.fold**2, deep=deep)

    def body(self, image: Float[Tensor, "b c h w"], *, deep: bool = False) -> list[Tensor]:
        maps: list[Tensor] = []
        x = image if self.fold == 1 else pixel_unshuffle(image, self.fold)
        for block in self.down:
            x = block(self.pool(x) if maps else x)
            maps.append(x)
        outputs = self.decoder(maps, deep)
        return outputs if self.fold == 1 else [pixel_shuffle(output, self.fold) for output in outputs]

    @property
    def heads(self) -> nn.ModuleList:
        return self.decoder.heads


class BackboneUNet(DensePredictor):
    """The network of a `BackboneUNetConfig`."""

    def __init__(self, config: BackboneUNetConfig, info: DataInfo, channels: int, *, deep: bool) -> None:
        super().__init__()
        self.backbone = Backbone(config, info)
        if (fixed := self.backbone.geometry.fixed_size) is not None:
            raise ModelError(
                f"encoder={config.network} accepts images of {fixed[0]}×{fixed[1]} pixels only, and net=backbone-unet "
                "needs one that accepts any size: choose another encoder, such as resnet18."
            )
        self.multiple = self.backbone.geometry.stride
        levels = self.multiple.bit_length() - 1
        widths = config.widths(levels)
        self.stem = config.block(info.channels, widths[0])
        with torch.no_grad():
            maps = self.backbone.pyramid(torch.zeros(1, info.channels, *(2 * self.multiple,) * 2))
        # Where the backbone has no map, the level above is halved.
        self.project = nn.ModuleList(
            nn.Conv2d(maps[level].shape[1], widths[level], 1)
            if level in maps
            else DownConv(widths[level - 1], widths[level])
            for level in range(1, levels + 1)
        )
        self.decoder = UNetDecoder(config, widths, channels, deep=deep)

    def body(self, image: Float[Tensor, "b c h w"], *, deep: bool = False) -> list[Tensor]:
        backbone_maps = self.backbone.pyramid(image)
        maps = [self.stem(image)]
        for level, project in enumerate(self.project, 1):
            maps.append(project(backbone_maps.get(level, maps[-1])))
        return self.decoder(maps, deep)

    @property
    def heads(self) -> nn.ModuleList:
        return self.decoder.heads
