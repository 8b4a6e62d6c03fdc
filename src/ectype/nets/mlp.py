"""Fully connected encoder and decoder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from ectype.config.schema import DataInfo
from ectype.nets.blocks import Activation, activation
from ectype.nets.coder import CoderConfig

__all__ = ["MLPConfig", "mlp"]


def mlp(widths: Sequence[int], act: Activation) -> nn.Sequential:
    """Build linear layers with the given widths; activations only between them, not after the last one.

    Example:
        >>> mlp([4, 8, 2], "relu")
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): ReLU()
          (2): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    layers: list[nn.Module] = []
    for in_features, out_features in itertools.pairwise(widths):
        layers += [nn.Linear(in_features, out_features), activation(act)]
    return nn.Sequential(*layers[:-1])


class MLPConfig(CoderConfig):
    """Fully connected layers from the flattened image to a vector, and back."""

    kind: Literal["mlp"] = "mlp"
    latent_dim: int = Field(default=16, ge=1, le=1_000_000)
    """Length of the code."""
    hidden: tuple[Annotated[int, Field(ge=1, le=16_384)], ...] = (512,)
    """Widths of the encoder's hidden layers; empty for a linear encoder."""
    decoder_hidden: tuple[Annotated[int, Field(ge=1, le=16_384)], ...] | None = None
    """Widths of the decoder's hidden layers; None for those of the encoder in reverse order."""
    activation: Activation = "relu"

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        return (self.latent_dim,)

    def encoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        widths = [info.num_elements, *self.hidden, params_per_element * self.latent_dim]
        return nn.Sequential(nn.Flatten(), *mlp(widths, self.activation))

    def decoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        hidden = tuple(reversed(self.hidden)) if self.decoder_hidden is None else self.decoder_hidden
        layers = mlp([self.latent_dim, *hidden, params_per_element * info.num_elements], self.activation)
        return nn.Sequential(*layers, nn.Unflatten(1, (params_per_element * info.channels, *info.size)))
