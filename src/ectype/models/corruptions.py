"""What a denoising autoencoder is shown instead of the clean image (Vincent et al. 2010)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ectype.data.batch import Moment
from ectype.sections import Choice

__all__ = ["CorruptionConfig"]

Image = Float[Tensor, "b c h w"]
Share = Annotated[float, Field(ge=0, le=1)]


class CorruptionConfig(Choice):
    """A random change to the input; the target stays clean."""

    family: ClassVar[str] = "corruption"

    @property
    def active(self) -> bool:
        """Whether anything is changed."""
        return True

    def apply(self, image: Image, moment: Moment) -> Image:
        """A changed copy. Noise may leave [0, 1]: clipping would hide how strong it is."""
        raise TypeError(f"{type(self).__name__} must define apply(image, moment)")


class NoneConfig(CorruptionConfig):
    """The image itself."""

    kind: Literal["none"] = "none"

    @property
    def active(self) -> bool:
        return False

    def apply(self, image: Image, moment: Moment) -> Image:
        return image


class NoiseConfig(CorruptionConfig):
    """Gaussian noise on every number."""

    kind: Literal["gaussian"] = "gaussian"
    sigma: float = Field(default=0.2, ge=0)
    """Standard deviation, in units of the pixel range."""

    def apply(self, image: Image, moment: Moment) -> Image:
        return image + self.sigma * moment.normal("corruption", *image.shape)


class MaskingConfig(CorruptionConfig):
    """Squares of pixels set to 0."""

    kind: Literal["masking"] = "masking"
    share: Share = 0.5
    """How much is masked, on average."""
    block: int = Field(default=1, ge=1)
    """Side of a square in pixels."""

    def apply(self, image: Image, moment: Moment) -> Image:
        b, _, h, w = image.shape
        kept = moment.uniform("corruption", b, 1, -(-h // self.block), -(-w // self.block)) >= self.share
        mask = F.interpolate(kept.to(image), scale_factor=self.block, mode="nearest")
        return image * mask[..., :h, :w]


class SaltAndPepperConfig(CorruptionConfig):
    """Pixels set to black or white with equal chance."""

    kind: Literal["salt_and_pepper"] = "salt_and_pepper"
    share: Share = 0.1

    def apply(self, image: Image, moment: Moment) -> Image:
        draw = moment.uniform("corruption", image.shape[0], 1, *image.shape[2:])
        black, white = draw < self.share / 2, draw >= 1 - self.share / 2
        return torch.where(white, 1.0, torch.where(black, 0.0, image))
