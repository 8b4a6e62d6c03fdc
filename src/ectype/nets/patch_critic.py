"""A critic that scores every patch of an image separately."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.nets.blocks import activation, group_norm, he_init
from ectype.nets.critics import CriticConfig, CriticFeatures, append_planes

__all__ = ["PatchCriticConfig"]

MIN_SIDE_PX = 4
"""Smallest side of a map in pixels: a map is not halved below it, and smaller maps get smaller kernels."""


class PatchCriticConfig(CriticConfig):
    """The patch critic of pix2pix (Isola et al. 2017, appendix 6.1.2): 4×4 convolutions, a score for each position.

    With three levels a position sees 70×70 pixels, with two 34×34. It scores texture, and leaves the arrangement of the
    image to the other losses. It uses group instead of batch normalization, so that no statistic depends on other
    images.
    """

    kind: Literal["patch"] = "patch"
    width: int = Field(default=64, ge=4, le=16_384, multiple_of=4)
    """Channels at half the image's size; each further level has twice as many."""
    max_width: int = Field(default=512, ge=4, le=16_384, multiple_of=4)
    """Upper limit of the channels of a level."""
    levels: int = Field(default=3, ge=1, le=16)
    """Number of halvings; fewer if the image is too small."""

    def build(self, channels: int, size: tuple[int, int], extra: int) -> CriticFeatures:
        return _PatchCritic(self, channels, size, extra)


class _PatchCritic(CriticFeatures):
    def __init__(self, config: PatchCriticConfig, channels: int, size: tuple[int, int], extra: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, width = channels + extra, config.width
        for level in range(config.levels):
            if min(size) < 2 * MIN_SIDE_PX:
                break
            layers += [he_init(nn.Conv2d(before, width, 4, stride=2, padding=1))]
            # The first layer is not normalized, so that the critic sees absolute colors.
            layers += [*([group_norm(width)] if level else []), activation("leaky_relu")]
            size = (size[0] // 2, size[1] // 2)
            before, width = width, min(2 * width, config.max_width)
        for _ in range(2):
            kernel = 4 if min(size) >= MIN_SIDE_PX else 3
            convolution = he_init(nn.Conv2d(before, width, kernel, padding=1))
            layers += [convolution, group_norm(width), activation("leaky_relu")]
            size = (size[0] + 3 - kernel, size[1] + 3 - kernel)
            before = width
        self.body = nn.Sequential(*layers)
        self.num_features = width

    def forward(self, image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b p f"]:
        return self.body(append_planes(image, extra)).flatten(2).transpose(1, 2)
