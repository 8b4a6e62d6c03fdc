"""A U-Net of residual blocks on folded pixels, for good translations after minutes of training on a CPU."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from ectype.nets.blocks import Activation, ResidualBlock
from ectype.nets.resampling import Upsampling
from ectype.nets.unet import UNetConfig

__all__ = ["ResidualUNetConfig"]


class ResidualUNetConfig(UNetConfig):
    """A `UNetConfig` with other defaults and other blocks: a 1×1 convolution, then a residual block that starts as
    the identity.

    Nothing is computed at full resolution: blocks of 4×4 pixels become channels first, and two further levels see most
    of an image of 64 pixels. Normalization is over groups of channels, so that a batch can be split.

    Example:
        >>> import torch
        >>> from ectype.config.schema import DataInfo
        >>> net = ResidualUNetConfig(width=8).build(DataInfo(channels=3, size=(64, 64)), channels=3, deep=False)
        >>> net(torch.rand(1, 3, 50, 70)).shape
        torch.Size([1, 3, 50, 70])
    """

    kind: Literal["residual-unet"] = "residual-unet"
    width: int = Field(default=96, ge=1, le=16_384)
    """Channels of the first level; each level below has twice as many."""
    max_width: int = Field(default=256, ge=1, le=16_384)
    """Upper limit of the channels of a level."""
    norm: Literal["group", "none"] = "group"
    activation: Activation = "silu"
    up: Upsampling = "nearest"
    levels: int = Field(default=2, ge=1, le=7)
    """Number of halvings after the folding."""
    fold: int = Field(default=4, ge=1, le=8)
    """Side of the blocks of pixels that become channels before the first level, and pixels again after the last one."""

    def block(self, in_channels: int, out_channels: int) -> nn.Module:
        """Build a 1×1 convolution and a residual block of two 3×3 convolutions."""
        residual = ResidualBlock(out_channels, self.activation, normalized=self.norm != "none")
        return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), residual)
