"""The interface of an encoder and decoder: the shape of the code, and the two networks."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from ectype.config.schema import Choice, DataInfo

__all__ = ["CoderConfig", "ScalesOutput"]


@runtime_checkable
class ScalesOutput(Protocol):
    """A decoder that scales and shifts the output of its last layer."""

    def invert_output_scaling(self, output: Float[Tensor, "kc h w"]) -> Float[Tensor, "kc h w"]:
        """Return what the last layer must produce so that the decoder returns `output`."""
        ...


class CoderConfig(Choice):
    """Base class of the configurations of an encoder and its decoder.

    A subclass defines `code_shape`, `encoder` and `decoder`. Their argument `params_per_element` is the number of
    values that the network must return for each element of a code (a Gaussian posterior needs a mean and a log
    variance) or of an image (a discretized logistic needs a mean and a log scale).
    """

    family: ClassVar[str] = "net"

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        """Return the shape of a code: (d,) for a vector, (c, h, w) for a map."""
        raise TypeError(f"{type(self).__name__} must define code_shape(info)")

    def encoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        """Build the encoder.

        Args:
            info: Describes the images.
            params_per_element: p, values per element of the code.

        Returns:
            A module that maps images [b, c, h, w] in [0, 1] to unbounded [b, p · d] or [b, p · c', h', w'].
        """
        raise TypeError(f"{type(self).__name__} must define encoder(info, params_per_element)")

    def decoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        """Build the decoder.

        Args:
            info: Describes the images.
            params_per_element: p, values per element of the image.

        Returns:
            A module that maps codes to unbounded [b, p · c, h, w], which the model's likelihood interprets.
        """
        raise TypeError(f"{type(self).__name__} must define decoder(info, params_per_element)")
