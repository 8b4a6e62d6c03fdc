"""Convolutional encoder and decoder around PCA, for good reconstructions after minutes of training on a CPU."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ectype.nets.conv import ConvConfig
from ectype.nets.resampling import Upsampling

__all__ = ["PCAConvConfig"]


class PCAConvConfig(ConvConfig):
    """A `ConvConfig` with other defaults: networks that start as PCA, and that learn its residual.

    Nothing is computed at the full resolution: blocks of 4×4 pixels become channels first, and all further changes of
    size move pixels into channels and back. The code is a map, unless `latent_dim` is set: maps generalize better to
    new images, vectors are easier to look at.

    Example:
        >>> from ectype.config.schema import DataInfo
        >>> PCAConvConfig().code_shape(DataInfo(channels=3, size=(64, 64)))
        (4, 8, 8)
        >>> PCAConvConfig(latent_dim=32).code_shape(DataInfo(channels=3, size=(64, 64)))
        (32,)
    """

    kind: Literal["pca_conv"] = "pca_conv"
    latent_dim: int | None = Field(default=None, ge=1, le=1_000_000)
    width: int = Field(default=48, ge=4, le=16_384, multiple_of=4)
    max_width: int = Field(default=192, ge=4, le=16_384, multiple_of=4)
    bottom: int = Field(default=4, ge=1, le=16_384)
    patch: Literal[1, 2, 4] = 4
    down: Literal["conv", "unshuffle"] = "unshuffle"
    up: Upsampling = "shuffle"
    shortcut: bool | Literal["pca"] = "pca"
    norm: Literal["group", "none"] = "none"
