"""What an encoder–decoder pair is: a shape for the code, and two networks around it."""

from __future__ import annotations

import math
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from ectype.sections import Choice, DataInfo

__all__ = ["CoderConfig", "Scaled"]


@runtime_checkable
class Scaled(Protocol):
    """A decoder that scales and shifts what its last layer gives."""

    def unscaled(self, wanted: Float[Tensor, "kc h w"]) -> Float[Tensor, "kc h w"]:
        """What the last layer has to give for this to come out."""
        ...


class CoderConfig(Choice):
    """An encoder and its decoder.

    `heads` is how many numbers are wanted for each number of a code (a Gaussian posterior wants a mean and a log
    variance) or of an image (a discretised logistic wants a mean and a log scale).
    """

    family: ClassVar[str] = "net"

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        """(d,) for a vector, (c, h, w) for a map."""
        raise TypeError(f"{type(self).__name__} must define code_shape(info)")

    def encoder(self, info: DataInfo, heads: int) -> nn.Module:
        """Images [b, c, h, w] in [0, 1] to [b, heads · d] or [b, heads · c', h', w'], unbounded."""
        raise TypeError(f"{type(self).__name__} must define encoder(info, heads)")

    def decoder(self, info: DataInfo, heads: int) -> nn.Module:
        """Codes to [b, heads · c, h, w], unbounded: the likelihood of the model gives them their meaning."""
        raise TypeError(f"{type(self).__name__} must define decoder(info, heads)")

    def code_numbers(self, info: DataInfo) -> int:
        """How many numbers a code has."""
        return math.prod(self.code_shape(info))
