"""Two small convolutional autoencoders as the study notes behind `ae-conv` and `ae-conv-deep` draw them, mended.

Both are drawn for 1×28×28 and take any size: each decoder layer returns the size that its encoder layer was given.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from ectype.errors import ModelError
from ectype.nets.coder import CoderConfig
from ectype.nets.resampling import halved
from ectype.sections import DataInfo

__all__ = ["DeepConvConfig", "SmallConvConfig"]


def _back(before: int, after: int, small: tuple[int, int], large: tuple[int, int], padding: int = 1) -> nn.Module:
    """The 3×3 transposed convolution of stride 2 that undoes the sizes of a convolution of that padding."""
    extra = [big - ((little - 1) * 2 - 2 * padding + 3) for little, big in zip(small, large, strict=True)]
    return nn.ConvTranspose2d(before, after, 3, stride=2, padding=padding, output_padding=(extra[0], extra[1]))


class SmallConvConfig(CoderConfig):
    """Conv 8-16-32 (3×3, stride 2, padding 1, 1, 0; BatchNorm after the second), 128 units, a vector.

    At 1×28×28 with four latent numbers the encoder has 43,428 parameters.
    """

    kind: Literal["small-conv"] = "small-conv"
    latent_dim: int = Field(default=4, ge=1)

    def _sizes(self, info: DataInfo) -> list[tuple[int, int]]:
        first, second = halved(info.size), halved(halved(info.size))
        third = ((second[0] - 3) // 2 + 1, (second[1] - 3) // 2 + 1)
        if min(third) < 1:
            raise ModelError(f"size={list(info.size)}: the net small-conv takes images of at least 9×9 pixels.")
        return [info.size, first, second, third]

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        return (self.latent_dim,)

    def encoder(self, info: DataInfo, heads: int) -> nn.Module:
        height, width = self._sizes(info)[-1]
        return nn.Sequential(
            nn.Conv2d(info.channels, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=0),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * height * width, 128),
            nn.ReLU(),
            nn.Linear(128, heads * self.latent_dim),
        )

    def decoder(self, info: DataInfo, heads: int) -> nn.Module:
        image, first, second, third = self._sizes(info)
        return nn.Sequential(
            nn.Linear(self.latent_dim, 128),
            nn.ReLU(),
            nn.Linear(128, 32 * third[0] * third[1]),
            nn.ReLU(),
            nn.Unflatten(1, (32, *third)),
            _back(32, 16, third, second, padding=0),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            _back(16, 8, second, first),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            _back(8, heads * info.channels, first, image),
        )


class DeepConvConfig(CoderConfig):
    """Conv(3×3)-ReLU-BatchNorm 16-32-64, pool, 128, pool, 256: a map of 256 channels at a quarter of the size.

    At 1×28×28 the code has 12,544 numbers, sixteen times the image's: it extracts features and compresses nothing.
    """

    kind: Literal["deep-conv"] = "deep-conv"
    width: int = Field(default=16, ge=1)
    """Channels of the first layer; the others are 2, 4, 8 and 16 times as wide."""

    def _quarter(self, info: DataInfo) -> tuple[int, int]:
        return halved(halved(info.size))

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        return (16 * self.width, *self._quarter(info))

    def encoder(self, info: DataInfo, heads: int) -> nn.Module:
        def layer(before: int, after: int) -> list[nn.Module]:
            return [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(after)]

        def pool() -> nn.Module:
            return nn.MaxPool2d(2, ceil_mode=True)

        w = self.width
        # A posterior's mean and log variance must be free to be negative and of any scale.
        last = layer(8 * w, 16 * w) if heads == 1 else [nn.Conv2d(8 * w, heads * 16 * w, 3, padding=1)]
        return nn.Sequential(
            *layer(info.channels, w),
            *layer(w, 2 * w),
            *layer(2 * w, 4 * w),
            pool(),
            *layer(4 * w, 8 * w),
            pool(),
            *last,
        )

    def decoder(self, info: DataInfo, heads: int) -> nn.Module:
        w, half = self.width, halved(info.size)
        return nn.Sequential(
            _back(16 * w, 8 * w, self._quarter(info), half),
            nn.ReLU(),
            nn.BatchNorm2d(8 * w),
            nn.ConvTranspose2d(8 * w, 4 * w, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(4 * w),
            nn.ConvTranspose2d(4 * w, w, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(w),
            _back(w, heads * info.channels, half, info.size),
        )
