"""What a model can do: callers ask for these, never for a family's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.sections import DataInfo

__all__ = ["DrawsPosterior", "Encodes", "Model", "Reconstructs", "Samples", "Scores", "StartsFromData", "evaluating"]

M = TypeVar("M", bound=nn.Module)


class Model(nn.Module):
    """What is trained and shipped: a module that knows which images it is for."""

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        self.info = info


Image = Float[Tensor, "b c h w"]


@runtime_checkable
class Reconstructs(Protocol):
    """Returns an image for an image."""

    def reconstruct(self, image: Image) -> Image:
        """Images in [0, 1] to images in [0, 1] of the same size."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Has a code for every image and an image for every code."""

    code_shape: tuple[int, ...]

    def encode(self, image: Image) -> Float[Tensor, " b *code"]:
        """Images in [0, 1] to their codes."""
        ...

    def decode(self, code: Float[Tensor, " b *code"]) -> Image:
        """Codes to images in [0, 1]."""
        ...


@runtime_checkable
class Samples(Protocol):
    """Makes images from nothing but chance."""

    def sample(self, n: int, *, label: Tensor | None = None, generator: torch.Generator | None = None) -> Image:
        """`n` images in [0, 1]."""
        ...


@runtime_checkable
class DrawsPosterior(Protocol):
    """Has more than one image for an image."""

    def draws(self, image: Image, k: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "k b c h w"]:
        """`k` images in [0, 1] for each."""
        ...


@runtime_checkable
class Scores(Protocol):
    """Knows, or bounds, the density of an image."""

    def log_likelihood(
        self, image: Image, *, samples: int = 1, generator: torch.Generator | None = None
    ) -> Float[Tensor, " b"]:
        """Nats per image."""
        ...


@runtime_checkable
class StartsFromData(Protocol):
    """Sets some of its first weights from the training images."""

    def start_from(self, mean: Float[Tensor, "c h w"]) -> None:
        """Called once, before the first step, with the mean training image in [0, 1]."""
        ...


@contextmanager
def evaluating(model: M) -> Iterator[M]:
    """A model in evaluation mode and without gradients, each of its parts put back afterwards as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode
