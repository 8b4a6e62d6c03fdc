"""Networks of critics, which score images as real or fake."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import Choice
from ectype.nets.blocks import Activation, ResidualBlock, activation, he_init
from ectype.nets.mlp import mlp

__all__ = ["ConvCriticConfig", "CriticConfig", "CriticFeatures", "MLPCriticConfig", "append_planes"]


class CriticFeatures(nn.Module):
    """Base class of a critic's features of an image, or of each of its patches; a linear layer turns them into scores.

    Attributes:
        num_features: Features per image or patch.
        returns_scores: Whether the single feature is the score itself, so that no linear layer follows.
    """

    num_features: int
    returns_scores: bool = False

    def forward(self, image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b *p f"]:
        """Compute the features.

        Args:
            image: Images [b, c, h, w] in [−1, 1].
            extra: Further inputs for each image [b, e], such as an encoded label.

        Returns:
            Features [b, f] of images, or [b, p, f] of p patches.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(image, extra)")


class CriticConfig(Choice):
    """Base class of the configurations of a critic's network."""

    family: ClassVar[str] = "critic"

    def build(self, channels: int, size: tuple[int, int], extra: int) -> CriticFeatures:
        """Build the network.

        Args:
            channels: Channels of the images.
            size: Height and width of the images.
            extra: Number of further inputs for each image.
        """
        raise TypeError(f"{type(self).__name__} must define build(channels, size, extra)")


def append_planes(image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b c2 h w"]:
    """Append each further input to the image as a constant channel."""
    if extra is None:
        return image
    return torch.cat([image, extra[:, :, None, None].expand(-1, -1, *image.shape[2:])], dim=1)


class MLPCriticConfig(CriticConfig):
    """Fully connected hidden layers on the flattened image."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1, le=16_384)], ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: Activation = "leaky_relu"

    def build(self, channels: int, size: tuple[int, int], extra: int) -> CriticFeatures:
        return _MLPCritic([channels * size[0] * size[1] + extra, *self.hidden], self.activation)


class _MLPCritic(CriticFeatures):
    def __init__(self, widths: list[int], act: Activation) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.body = nn.Sequential(*mlp(widths, act), *([activation(act)] if len(widths) > 1 else []))

    def forward(self, image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b f"]:
        pixels = image.flatten(1)
        return self.body(pixels if extra is None else torch.cat([pixels, extra], dim=1))


class ConvCriticConfig(CriticConfig):
    """Levels of 4×4 convolutions that halve the size.

    There is no normalization, because gradient penalties conflict with statistics across a batch.
    """

    kind: Literal["conv"] = "conv"
    width: int = Field(default=32, ge=4, le=16_384, multiple_of=4)
    """Channels at half the image's size; each further level has twice as many."""
    max_width: int = Field(default=256, ge=4, le=16_384, multiple_of=4)
    """Upper limit of the channels of a level."""
    depth: int = Field(default=0, ge=0, le=100)
    """Residual blocks per level."""
    bottom: int = Field(default=4, ge=1, le=16_384)
    """Levels are added until no side is longer than this."""

    def build(self, channels: int, size: tuple[int, int], extra: int) -> CriticFeatures:
        return _ConvCritic(self, channels, size, extra)


class _ConvCritic(CriticFeatures):
    def __init__(self, config: ConvCriticConfig, channels: int, size: tuple[int, int], extra: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, width = channels + extra, config.width
        while max(size) > config.bottom and min(size) > 1:
            layers += [he_init(nn.Conv2d(before, width, 4, stride=2, padding=1)), activation("leaky_relu")]
            layers += [ResidualBlock(width, "leaky_relu", normalized=False) for _ in range(config.depth)]
            size = (size[0] // 2, size[1] // 2)
            before, width = width, min(2 * width, config.max_width)
        self.body = nn.Sequential(*layers)
        self.num_features = before * size[0] * size[1]

    def forward(self, image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b f"]:
        return self.body(append_planes(image, extra)).flatten(1)
