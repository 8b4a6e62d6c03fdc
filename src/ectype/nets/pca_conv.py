"""Convolutional networks around PCA, for good images after minutes of training on a CPU."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import DataInfo
from ectype.nets.conv import ConvConfig
from ectype.nets.generators import GeneratorConfig
from ectype.nets.pca_residual import ImagePCADecoder
from ectype.nets.resampling import Upsampling

__all__ = ["PCAConvConfig", "PCAConvGeneratorConfig", "PCAGenerator"]


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


class PCAConvGeneratorConfig(GeneratorConfig):
    """The decoder of `PCAConvConfig` as a generator: its first samples have the mean and covariance of the images."""

    kind: Literal["pca_conv"] = "pca_conv"
    width: int = Field(default=48, ge=4, le=16_384, multiple_of=4)
    """Channels of the first level."""
    max_width: int = Field(default=192, ge=4, le=16_384, multiple_of=4)
    """Upper limit of the channels of a level."""
    depth: int = Field(default=1, ge=0, le=100)
    """Residual blocks per level."""

    def build(self, in_features: int, info: DataInfo) -> PCAGenerator:
        net = PCAConvConfig(latent_dim=in_features, width=self.width, max_width=self.max_width, depth=self.depth)
        decoder = net.decoder(info, 1)
        assert isinstance(decoder, ImagePCADecoder)
        return PCAGenerator(decoder)


class PCAGenerator(nn.Module):
    """A decoder that starts as PCA, for images in [−1, 1].

    Args:
        decoder: The decoder, for images in [0, 1].
    """

    def __init__(self, decoder: ImagePCADecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def init_from_images(self, images: Float[Tensor, "n c h w"], length: int) -> None:
        """See `ImagePCADecoder.init_from_images`."""
        self.decoder.init_from_images(images, length)

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        return 2 * self.decoder(z) - 1
