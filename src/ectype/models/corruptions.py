"""Corruptions of the input of a denoising autoencoder (Vincent et al. 2010)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ectype.config.schema import Choice
from ectype.core.random import StepContext

__all__ = ["CorruptionConfig"]

Image = Float[Tensor, "b c h w"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class CorruptionConfig(Choice):
    """A random change of the input; the target stays clean."""

    family: ClassVar[str] = "corruption"

    @property
    def active(self) -> bool:
        """Whether the input is changed at all."""
        return True

    def apply(self, image: Image, context: StepContext) -> Image:
        """Return a corrupted copy of images in [0, 1].

        Noise is not clipped to [0, 1], because clipping would weaken it.
        """
        raise TypeError(f"{type(self).__name__} must define apply(image, context)")


class NoneConfig(CorruptionConfig):
    """No corruption."""

    kind: Literal["none"] = "none"

    @property
    def active(self) -> bool:
        return False

    def apply(self, image: Image, context: StepContext) -> Image:
        return image


class NoiseConfig(CorruptionConfig):
    """Gaussian noise on every pixel and channel."""

    kind: Literal["gaussian"] = "gaussian"
    sigma: float = Field(default=0.2, ge=0, le=100)
    """Standard deviation; pixels are in [0, 1]."""

    def apply(self, image: Image, context: StepContext) -> Image:
        return image + self.sigma * context.normal("corruption", *image.shape)


class MaskingConfig(CorruptionConfig):
    """Random square blocks of pixels set to 0."""

    kind: Literal["masking"] = "masking"
    share: Fraction = 0.5
    """Expected fraction of masked pixels."""
    block: int = Field(default=1, ge=1, le=16_384)
    """Side of a block in pixels."""

    def apply(self, image: Image, context: StepContext) -> Image:
        b, _, h, w = image.shape
        kept = context.uniform("corruption", b, 1, -(-h // self.block), -(-w // self.block)) >= self.share
        mask = F.interpolate(kept.to(image), scale_factor=self.block, mode="nearest")
        return image * mask[..., :h, :w]


class SaltAndPepperConfig(CorruptionConfig):
    """Random pixels set to black or white, with equal probability."""

    kind: Literal["salt_and_pepper"] = "salt_and_pepper"
    share: Fraction = 0.1
    """Expected fraction of changed pixels."""

    def apply(self, image: Image, context: StepContext) -> Image:
        draw = context.uniform("corruption", image.shape[0], 1, *image.shape[2:])
        black, white = draw < self.share / 2, draw >= 1 - self.share / 2
        return torch.where(white, 1.0, torch.where(black, 0.0, image))
