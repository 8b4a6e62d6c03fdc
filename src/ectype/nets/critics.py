"""Networks that judge images: real or made."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.nets.blocks import Activation, Residual, activation, he
from ectype.nets.mlp import mlp
from ectype.sections import Choice

__all__ = ["ConvCriticConfig", "CriticConfig", "CriticFeatures", "MLPCriticConfig"]


class CriticFeatures(nn.Module):
    """What a critic sees in an image, or in each patch of it; a linear layer above it gives the score.

    Attributes:
        numbers: Features per image or patch.
    """

    numbers: int

    def forward(self, image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b *p f"]:
        """Images in [−1, 1], joined at the input by what else is known of them."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(image, extra)")


class CriticConfig(Choice):
    """A critic's network."""

    family: ClassVar[str] = "critic"

    def build(self, channels: int, size: tuple[int, int], extra: int) -> CriticFeatures:
        """For images of that shape and so many other numbers joined at the input."""
        raise TypeError(f"{type(self).__name__} must define build(channels, size, extra)")


class MLPCriticConfig(CriticConfig):
    """All pixels in a row, hidden layers."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256, 256)
    activation: Activation = "leaky_relu"

    def build(self, channels: int, size: tuple[int, int], extra: int) -> CriticFeatures:
        return _MLP([channels * size[0] * size[1] + extra, *self.hidden], self.activation)


class _MLP(CriticFeatures):
    def __init__(self, widths: list[int], act: Activation) -> None:
        super().__init__()
        self.numbers = widths[-1]
        self.body = nn.Sequential(*mlp(widths, act), *([activation(act)] if len(widths) > 1 else []))

    def forward(self, image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b f"]:
        pixels = image.flatten(1)
        return self.body(pixels if extra is None else torch.cat([pixels, extra], dim=1))


class ConvCriticConfig(CriticConfig):
    """Levels that halve the size by 4×4 convolutions; no normalisation, whose statistics a penalty would fight."""

    kind: Literal["conv"] = "conv"
    width: int = Field(default=32, ge=4, multiple_of=4)
    """Channels at half the image's size; each halving doubles them."""
    max_width: int = Field(default=256, ge=4, multiple_of=4)
    depth: int = Field(default=0, ge=0)
    """Residual blocks per level."""
    bottom: int = Field(default=4, ge=1)
    """Levels are added until no side is longer than this."""

    def build(self, channels: int, size: tuple[int, int], extra: int) -> CriticFeatures:
        return _Conv(self, channels, size, extra)


class _Conv(CriticFeatures):
    def __init__(self, config: ConvCriticConfig, channels: int, size: tuple[int, int], extra: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, after = channels + extra, config.width
        while max(size) > config.bottom and min(size) > 1:
            layers += [he(nn.Conv2d(before, after, 4, stride=2, padding=1)), activation("leaky_relu")]
            layers += [Residual(after, "leaky_relu", normalised=False) for _ in range(config.depth)]
            size = (size[0] // 2, size[1] // 2)
            before, after = after, min(2 * after, config.max_width)
        self.body = nn.Sequential(*layers)
        self.numbers = before * size[0] * size[1]

    def forward(self, image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b f"]:
        if extra is not None:
            planes = extra[:, :, None, None].expand(-1, -1, *image.shape[2:])
            image = torch.cat([image, planes], dim=1)
        return self.body(image).flatten(1)
