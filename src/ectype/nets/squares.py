"""A linear code of squares of pixels, around which networks learn what is better than linear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.nets.groups import Group
from ectype.nets.linear import Linear, fit_pca
from ectype.nets.resampling import filled, quiet, unshuffle

__all__ = ["WithCode", "WithSquares", "squares"]

PACE = 0.1
"""Of the learning rate, for linear maps that begin where a linear map is best: their weights are small, and a step of
full length would undo that."""
LEAST = 1e-4
"""Deviation below which a component counts as one that squares do not differ in."""


def squares(images: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "m d"]:
    """All squares of images that do not overlap, flattened; sides that do not divide are filled up."""
    return unshuffle(images, side).movedim(1, -1).flatten(0, 2)


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

    def start_from(self, images: Float[Tensor, "n c h w"]) -> Linear:
        """Begin as the principal components of images' squares, each of variance 1; where there are fewer squares than
        components, the last stay silent.
        """
        cut, numbers = squares(images, self.side).cpu(), self.line.out_channels
        found = fit_pca(cut, min(numbers, *(side - 1 for side in cut.shape)))
        silent = numbers - len(found.directions)
        directions, deviations = F.pad(found.directions, (0, 0, 0, silent)), F.pad(found.deviations, (0, silent))
        found = found._replace(directions=directions, deviations=deviations.clamp(min=LEAST))
        weight = found.directions / found.deviations[:, None]
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

    def start_from(self, found: Linear) -> None:
        """Begin as the components' own way back."""
        self._set(found.directions.T * found.deviations, found.mean)
