"""Networks that make an image of a vector, for models that have no encoder."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.nets.blocks import Activation, Residual, activation, he
from ectype.nets.mlp import mlp
from ectype.nets.resampling import Upsampling, halved, upsampling
from ectype.sections import Choice, DataInfo

__all__ = ["ConvGeneratorConfig", "GeneratorConfig", "MLPGeneratorConfig"]


class GeneratorConfig(Choice):
    """A generator's network."""

    family: ClassVar[str] = "generator"

    def build(self, numbers: int, info: DataInfo) -> nn.Module:
        """Vectors [b, numbers] to [b, c, h, w], unbounded: the model brings them to [0, 1]."""
        raise TypeError(f"{type(self).__name__} must define build(numbers, info)")


class MLPGeneratorConfig(GeneratorConfig):
    """Hidden layers, then all pixels at once."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256, 256)
    activation: Activation = "relu"

    def build(self, numbers: int, info: DataInfo) -> nn.Module:
        layers = mlp([numbers, *self.hidden, info.numbers], self.activation)
        return nn.Sequential(*layers, nn.Unflatten(1, info.shape))


class ConvGeneratorConfig(GeneratorConfig):
    """A dense layer to a small map, then levels that double its size up to the image's; no normalisation.

    Any size from 8 to 512 px.
    """

    kind: Literal["conv"] = "conv"
    width: int = Field(default=64, ge=4, multiple_of=4)
    """Channels at full size; each halving doubles them."""
    max_width: int = Field(default=256, ge=4, multiple_of=4)
    depth: int = Field(default=1, ge=0)
    """Residual blocks per level below full size."""
    bottom: int = Field(default=8, ge=1)
    """The map that the dense layer makes has no side longer than this."""
    up: Upsampling = "nearest"
    """How a size is doubled. Only transposed convolution starts with a checkerboard."""

    def build(self, numbers: int, info: DataInfo) -> nn.Module:
        sizes = [info.size]
        while max(sizes[-1]) > self.bottom:
            sizes.append(halved(sizes[-1]))
        widths = [min(self.width * 2**level, self.max_width) for level in range(len(sizes))]
        first = (widths[-1], *sizes[-1])
        layers: list[nn.Module] = [_Dense(numbers, first)]
        for level in reversed(range(len(sizes))):
            if level > 0:
                layers += [Residual(widths[level], "leaky_relu", normalised=False) for _ in range(self.depth)]
                first = [activation("leaky_relu")]
                doubled = upsampling(self.up, widths[level], widths[level - 1], sizes[level - 1], first=first)
                layers += he(nn.Sequential(*doubled))
        layers += [activation("leaky_relu"), nn.Conv2d(widths[0], info.channels, 3, padding=1)]
        return nn.Sequential(*layers)


class _Dense(nn.Module):
    """A vector to a map."""

    def __init__(self, numbers: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.linear = he(nn.Linear(numbers, shape[0] * shape[1] * shape[2]))

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        return self.linear(z).view(-1, *self.shape)
