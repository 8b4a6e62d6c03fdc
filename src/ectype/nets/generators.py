"""Networks that generate an image from a vector, for models without an encoder."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import Choice, DataInfo
from ectype.nets.blocks import Activation, ResidualBlock, activation, he_init
from ectype.nets.mlp import mlp
from ectype.nets.resampling import Upsampling, halved_size, upsampling_layers

__all__ = ["ConvGeneratorConfig", "GeneratorConfig", "MLPGeneratorConfig"]


class GeneratorConfig(Choice):
    """Base class of the configurations of a generator's network."""

    family: ClassVar[str] = "generator"

    def build(self, in_features: int, info: DataInfo) -> nn.Module:
        """Build the network.

        Args:
            in_features: Length f of the input vectors.
            info: Describes the images.

        Returns:
            A module that maps vectors [b, f] to unbounded images [b, c, h, w]; the model maps them to [0, 1].
        """
        raise TypeError(f"{type(self).__name__} must define build(in_features, info)")


class MLPGeneratorConfig(GeneratorConfig):
    """Fully connected layers from the vector to all pixels at once."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1, le=16_384)], ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: Activation = "relu"

    def build(self, in_features: int, info: DataInfo) -> nn.Module:
        layers = mlp([in_features, *self.hidden, info.num_elements], self.activation)
        return nn.Sequential(*layers, nn.Unflatten(1, info.shape))


class ConvGeneratorConfig(GeneratorConfig):
    """A linear layer to a small map, then levels that double its size up to that of the image; no normalization.

    For any size from 8 to 512 pixels.
    """

    kind: Literal["conv"] = "conv"
    width: int = Field(default=64, ge=4, le=16_384, multiple_of=4)
    """Channels at full size; each level below has twice as many."""
    max_width: int = Field(default=256, ge=4, le=16_384, multiple_of=4)
    """Upper limit of the channels of a level."""
    depth: int = Field(default=1, ge=0, le=100)
    """Residual blocks per level below full size."""
    bottom: int = Field(default=8, ge=1, le=16_384)
    """No side of the map that the linear layer returns is longer than this."""
    up: Upsampling = "nearest"
    """How the size is doubled. Only transposed convolution produces a checkerboard at the start."""

    def build(self, in_features: int, info: DataInfo) -> nn.Module:
        sizes = [info.size]
        while max(sizes[-1]) > self.bottom:
            sizes.append(halved_size(sizes[-1]))
        widths = [min(self.width * 2**level, self.max_width) for level in range(len(sizes))]
        layers: list[nn.Module] = [_LinearToMap(in_features, (widths[-1], *sizes[-1]))]
        for level in reversed(range(1, len(sizes))):
            layers += [ResidualBlock(widths[level], "leaky_relu", normalized=False) for _ in range(self.depth)]
            upsample = upsampling_layers(
                self.up,
                widths[level],
                widths[level - 1],
                sizes[level - 1],
                pre_layers=[activation("leaky_relu")],
            )
            layers += he_init(nn.Sequential(*upsample))
        layers += [activation("leaky_relu"), nn.Conv2d(widths[0], info.channels, 3, padding=1)]
        return nn.Sequential(*layers)


class _LinearToMap(nn.Module):
    """A linear layer from a vector to a map."""

    def __init__(self, in_features: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.linear = he_init(nn.Linear(in_features, shape[0] * shape[1] * shape[2]))

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        return self.linear(z).view(-1, *self.shape)
