"""A linear code of squares of pixels, around which networks learn what is better than linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.nets.groups import Group
from ectype.nets.resampling import filled, quiet, unshuffle

__all__ = ["Principal", "WithCode", "WithSquares", "principal"]

PACE = 0.1
"""Of the learning rate, for linear maps that begin where a linear map is best: their weights are small, and a step of
full length would undo that."""
SPARE = 16
"""Directions more than wanted that the random projection looks for."""


class Principal(NamedTuple):
    """The directions in which squares differ most."""

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d k"]
    """Orthonormal."""
    deviation: Float[Tensor, " k"]
    """Of squares along each."""


def principal(images: Float[Tensor, "n c h w"], side: int, numbers: int) -> Principal:
    """Principal components of all squares of images that do not overlap, by a randomised decomposition.

    Args:
        images: In [0, 1].
        side: Of a square, in pixels.
        numbers: Components wanted; at most those of a square.
    """
    squares = unshuffle(images, side).movedim(1, -1).flatten(0, 2)
    mean = squares.mean(0)
    wanted = min(numbers + SPARE, *squares.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, values, basis = torch.svd_lowrank(squares - mean, wanted, niter=4)
    deviation = values / max(1, len(squares) - 1) ** 0.5
    # Fewer squares than components: the rest stay silent.
    short = max(0, numbers - basis.shape[1])
    return Principal(
        mean, F.pad(basis, (0, short))[:, :numbers], F.pad(deviation, (0, short))[:numbers].clamp(min=1e-4)
    )


class _Linear(nn.Module):
    """Layers whose last one starts quiet, and a linear map beside them that moves slowly, in float32."""

    def __init__(self, layers: Sequence[nn.Module], before: int, after: int) -> None:
        super().__init__()
        self.line = nn.Conv2d(before, after, 1)
        quiet(layers[-1])
        self.body = nn.Sequential(*layers)

    def parameter_groups(self) -> Sequence[Group]:
        """The linear map's."""
        return [Group(list(self.line.parameters()), PACE)]

    def _straight(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.line(x.float())

    @torch.no_grad()
    def _set(self, weight: Tensor, bias: Tensor) -> None:
        self.line.weight.copy_(weight[:, :, None, None])
        assert self.line.bias is not None
        self.line.bias.copy_(bias)


class WithSquares(_Linear):
    """An encoder's layers, and a linear code of the square of pixels under each place of the code.

    Args:
        layers: From images to codes.
        channels: Of the images.
        numbers: Channels of the code that the linear map fills, the first.
        side: Of a square.
    """

    def __init__(self, layers: Sequence[nn.Module], channels: int, numbers: int, side: int) -> None:
        super().__init__(layers, channels * side**2, numbers)
        self.side = side

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        made = self.body(x).float()
        return made + filled(self._straight(unshuffle(x, self.side)), made.shape[1])

    def start_from(self, images: Float[Tensor, "n c h w"]) -> Principal:
        """Begin as the principal components of images, each of variance 1."""
        found = principal(images, self.side, self.line.out_channels)
        weight = (found.basis / found.deviation).T
        self._set(weight, -weight @ found.mean)
        return found


class WithCode(_Linear):
    """A decoder's layers, and the way back of `WithSquares`.

    Args:
        layers: From codes to images.
        numbers: Channels of the code.
        channels: Of the images; what else the layers give, such as a scale, is theirs alone.
        side: Of a square.
    """

    def __init__(self, layers: Sequence[nn.Module], numbers: int, channels: int, side: int) -> None:
        super().__init__(layers, numbers, channels * side**2)
        self.side = side

    def forward(self, x: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b kc h w"]:
        made = self.body(x).float()
        height, width = made.shape[2:]
        image = F.pixel_shuffle(self._straight(x), self.side)[:, :, :height, :width]
        return made + filled(image, made.shape[1])

    def start_from(self, found: Principal) -> None:
        """Begin as the components' own way back."""
        self._set(found.basis * found.deviation, found.mean)
