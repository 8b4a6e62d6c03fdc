"""Fully connected encoder and decoder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from ectype.nets.blocks import Activation, activation
from ectype.nets.coder import CoderConfig
from ectype.sections import DataInfo

__all__ = ["MLPConfig", "mlp"]


def mlp(widths: Sequence[int], act: Activation) -> nn.Sequential:
    """Linear layers through those widths, an activation between two and none after the last."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation(act)]
    return nn.Sequential(*layers[:-1])


class MLPConfig(CoderConfig):
    """Pixels in a row, hidden layers, a vector, and back."""

    kind: Literal["mlp"] = "mlp"
    latent_dim: int = Field(default=16, ge=1)
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (512,)
    """Widths of the encoder's hidden layers; none makes it linear."""
    decoder_hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Widths of the decoder's; None mirrors the encoder."""
    activation: Activation = "relu"

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        return (self.latent_dim,)

    def encoder(self, info: DataInfo, heads: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), *mlp([info.numbers, *self.hidden, heads * self.latent_dim], self.activation))

    def decoder(self, info: DataInfo, heads: int) -> nn.Module:
        hidden = tuple(reversed(self.hidden)) if self.decoder_hidden is None else self.decoder_hidden
        layers = mlp([self.latent_dim, *hidden, heads * info.numbers], self.activation)
        return nn.Sequential(*layers, nn.Unflatten(1, (heads * info.channels, *info.size)))
