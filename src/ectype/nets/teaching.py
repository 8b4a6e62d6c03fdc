"""Two small convolutional autoencoders for teaching, the networks of the presets `ae-conv` and `ae-conv-deep`.

They were designed for images of 1×28×28 and accept any size: each decoder layer restores the size of the input of the
corresponding encoder layer.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.nets.coder import CoderConfig
from ectype.nets.resampling import halved_size

__all__ = ["DeepConvConfig", "SmallConvConfig"]


def _inverse_conv(
    in_channels: int, out_channels: int, small: tuple[int, int], large: tuple[int, int], padding: int = 1
) -> nn.Module:
    """Build a 3×3 transposed convolution of stride 2 that maps the size `small` to `large`.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        small: Output size of a 3×3 convolution of stride 2 with this padding.
        large: Its input size.
        padding: Its padding.
    """
    height, width = (big - ((little - 1) * 2 - 2 * padding + 3) for little, big in zip(small, large, strict=True))
    return nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=padding, output_padding=(height, width))


class SmallConvConfig(CoderConfig):
    """Three 3×3 convolutions of stride 2 with 8, 16 and 32 channels, 128 hidden units, and a vector as the code.

    The paddings are 1, 1 and 0, and the second convolution is followed by BatchNorm. For images of 1×28×28 and four
    latent dimensions the encoder has 43,428 parameters.
    """

    kind: Literal["small-conv"] = "small-conv"
    latent_dim: int = Field(default=4, ge=1, le=1_000_000)
    """Length of the code."""

    def _sizes(self, info: DataInfo) -> list[tuple[int, int]]:
        first, second = halved_size(info.size), halved_size(halved_size(info.size))
        third = ((second[0] - 3) // 2 + 1, (second[1] - 3) // 2 + 1)
        if min(third) < 1:
            raise ModelError(f"size={list(info.size)}: net=small-conv needs images of at least 9×9 pixels.")
        return [info.size, first, second, third]

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        return (self.latent_dim,)

    def encoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
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
            nn.Linear(128, params_per_element * self.latent_dim),
        )

    def decoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        image, first, second, third = self._sizes(info)
        return nn.Sequential(
            nn.Linear(self.latent_dim, 128),
            nn.ReLU(),
            nn.Linear(128, 32 * third[0] * third[1]),
            nn.ReLU(),
            nn.Unflatten(1, (32, *third)),
            _inverse_conv(32, 16, third, second, padding=0),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            _inverse_conv(16, 8, second, first),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            _inverse_conv(8, params_per_element * info.channels, first, image),
        )


class DeepConvConfig(CoderConfig):
    """3×3 convolutions with ReLU and BatchNorm, and a map of 256 channels at a quarter of the size as the code.

    The convolutions have 16, 32 and 64 channels, then after pooling 128, and after pooling again 256. For images of
    1×28×28 the code has 12,544 elements, sixteen times those of the image: it extracts features without compression.
    """

    kind: Literal["deep-conv"] = "deep-conv"
    width: int = Field(default=16, ge=1, le=16_384)
    """Channels of the first layer; the others have 2, 4, 8 and 16 times as many."""

    def _quarter(self, info: DataInfo) -> tuple[int, int]:
        return halved_size(halved_size(info.size))

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        return (16 * self.width, *self._quarter(info))

    def encoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        def layer(in_channels: int, out_channels: int) -> list[nn.Module]:
            return [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(out_channels)]

        def pool() -> nn.Module:
            return nn.MaxPool2d(2, ceil_mode=True)

        w = self.width
        # The mean and log variance of a posterior must not be restricted by an activation or a normalization.
        outputs = params_per_element * 16 * w
        last = layer(8 * w, outputs) if params_per_element == 1 else [nn.Conv2d(8 * w, outputs, 3, padding=1)]
        return nn.Sequential(
            *layer(info.channels, w),
            *layer(w, 2 * w),
            *layer(2 * w, 4 * w),
            pool(),
            *layer(4 * w, 8 * w),
            pool(),
            *last,
        )

    def decoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        w, half = self.width, halved_size(info.size)
        return nn.Sequential(
            _inverse_conv(16 * w, 8 * w, self._quarter(info), half),
            nn.ReLU(),
            nn.BatchNorm2d(8 * w),
            nn.ConvTranspose2d(8 * w, 4 * w, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(4 * w),
            nn.ConvTranspose2d(4 * w, w, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(w),
            _inverse_conv(w, params_per_element * info.channels, half, info.size),
        )
