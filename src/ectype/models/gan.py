"""Generators: an image for every draw of N(0, I), of an asked class where they were trained with labels."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ectype.errors import ModelError
from ectype.models.base import FromLatents, truncated_normal
from ectype.nets.generators import ConvGeneratorConfig, GeneratorConfig
from ectype.sections import DataInfo, ModelConfig

__all__ = ["Generator", "GeneratorModelConfig"]

Image = Float[Tensor, "b c h w"]


class GeneratorModelConfig(ModelConfig):
    """A generator; its critic belongs to the objective that trains it."""

    kind: Literal["generator"] = "generator"
    latent_dim: int = Field(default=128, ge=1)
    """Numbers drawn for an image."""
    net: GeneratorConfig = ConvGeneratorConfig()
    output: Literal["linear", "tanh"] = "linear"
    """Whether the network's numbers are cut off to [0, 1], outside of training only, so that no gradient is lost at
    black and white, or squeezed into it."""
    condition: Literal["none", "concat", "embedding"] = "none"
    """How a label enters: one-hot beside the draw, or embedded."""
    embedding: int = Field(default=64, ge=1)
    """Numbers of an embedded label."""

    def build(self, info: DataInfo) -> Generator:
        return Generator(self, info)


class Generator(FromLatents):
    """z ~ N(0, I), and a label where it is conditional, to an image.

    Attributes:
        conditional: Whether it takes labels.
    """

    def __init__(self, config: GeneratorModelConfig, info: DataInfo) -> None:
        super().__init__(info)
        self.latent_dim = config.latent_dim
        self.conditional = config.condition != "none"
        if self.conditional and len(info.classes) < 2:
            raise ModelError(
                f"condition={config.condition} needs images of at least two classes, there are {len(info.classes)}: "
                "put them into one folder per class, or train an unconditional gan."
            )
        self.squeezed = config.output == "tanh"
        told = len(info.classes) if self.conditional else 0
        self.embed = None
        if config.condition == "embedding":
            self.embed = nn.Linear(told, config.embedding, bias=False)
            nn.init.normal_(self.embed.weight)
            told = config.embedding
        self.net = config.net.build(config.latent_dim + told, info)

    def forward(self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"] | None = None) -> Image:
        """Images as they are trained: in [0, 1] where the output is squeezed, else about there.

        Raises:
            ModelError: A label too many or missing.
        """
        if self.conditional != (label is not None):
            said = "needs a label for each image" if self.conditional else "knows no classes: leave the label out"
            raise ModelError(f"this model {said}.")
        if label is not None:
            told = F.one_hot(label, len(self.info.classes)).to(z.dtype)
            z = torch.cat([z, told if self.embed is None else self.embed(told)], dim=1)
        raw = self.net(z).float()
        # From the [−1, 1] of the literature to the [0, 1] of every public image.
        return 0.5 * ((torch.tanh(raw) if self.squeezed else raw) + 1)

    def latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n d"]:
        """`n` draws of N(0, I), cut off at ±`truncation` if given."""
        return truncated_normal((n, self.latent_dim), truncation, generator)

    def render(self, latent: Float[Tensor, "n d"], *, label: Int[Tensor, " n"] | None = None) -> Image:
        """The image of each latent, of the class asked for where the model is conditional."""
        here = next(self.parameters())
        return self(latent.to(here.device, here.dtype), None if label is None else label.to(here.device)).clamp(0, 1)
