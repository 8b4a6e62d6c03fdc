"""A critic that judges every patch of an image by itself."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.nets.blocks import activation, he, norm
from ectype.nets.critics import CriticConfig, CriticFeatures

__all__ = ["PatchCriticConfig"]

SMALLEST = 4
"""Pixels of a map's side below which it is not halved again."""


class PatchCriticConfig(CriticConfig):
    """The patch critic of pix2pix (Isola et al. 2017, appendix 6.1.2): 4×4 convolutions, a score for each position.

    With three levels a position sees 70×70 pixels, with two 34×34. It judges texture and leaves what goes where to the
    losses beside it. Group instead of batch normalisation, so that no statistic crosses images.
    """

    kind: Literal["patch"] = "patch"
    width: int = Field(default=64, ge=4, multiple_of=4)
    """Channels at half the image's size; each halving doubles them."""
    max_width: int = Field(default=512, ge=4, multiple_of=4)
    levels: int = Field(default=3, ge=1)
    """Halvings, as far as the image allows."""

    def build(self, channels: int, size: tuple[int, int], extra: int) -> CriticFeatures:
        return _Patches(self, channels, size, extra)


class _Patches(CriticFeatures):
    def __init__(self, config: PatchCriticConfig, channels: int, size: tuple[int, int], extra: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, after = channels + extra, config.width
        for level in range(config.levels):
            if min(size) < 2 * SMALLEST:
                break
            layers += [he(nn.Conv2d(before, after, 4, stride=2, padding=1))]
            # The first layer sees colours as they are.
            layers += [*([norm(after)] if level else []), activation("leaky_relu")]
            size = (size[0] // 2, size[1] // 2)
            before, after = after, min(2 * after, config.max_width)
        for _ in range(2):
            kernel = 4 if min(size) >= SMALLEST else 3
            layers += [he(nn.Conv2d(before, after, kernel, padding=1)), norm(after), activation("leaky_relu")]
            size = (size[0] + 3 - kernel, size[1] + 3 - kernel)
            before = after
        self.body = nn.Sequential(*layers)
        self.numbers = after

    def forward(self, image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b p f"]:
        """Features of each of `p` patches."""
        if extra is not None:
            planes = extra[:, :, None, None].expand(-1, -1, *image.shape[2:])
            image = torch.cat([image, planes], dim=1)
        return self.body(image).flatten(2).transpose(1, 2)
