"""Generators of GANs: map normal noise, and a class label if conditional, to images."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.models.latent_space import LatentSpaceConfig, LearnsCodesConfig
from ectype.models.noise_to_image import NoiseToImageModel, truncated_normal
from ectype.nets.generators import ConvGeneratorConfig, GeneratorConfig, MLPGeneratorConfig

__all__ = ["Generator", "GeneratorModelConfig"]

Image = Float[Tensor, "b c h w"]
CODE_WIDTHS = (512, 512, 512)
"""Widths of the hidden layers of a generator of codes."""


class GeneratorModelConfig(LearnsCodesConfig):
    """A generator; its critic belongs to the objective that trains it."""

    kind: Literal["generator"] = "generator"
    only_for_pixels: ClassVar[tuple[str, ...]] = ("net", "output")
    latent_dim: int = Field(default=128, ge=1, le=1_000_000)
    """Dimensions of the noise."""
    net: GeneratorConfig = ConvGeneratorConfig()
    output: Literal["linear", "tanh"] = "linear"
    """How the output is brought to [0, 1]. linear: by clamping, outside of training only, so that black and white
    pixels keep their gradient. tanh: by a tanh."""
    condition: Literal["none", "concat", "embedding"] = "none"
    """How a class label is concatenated to the noise: one-hot, or as a learned embedding."""
    embedding: int = Field(default=64, ge=1, le=16_384)
    """Dimensions of an embedded label."""

    def on_codes(self, shape: tuple[int, ...]) -> GeneratorModelConfig:
        """Replace convolutions by an MLP: maps of codes are small, and it is many times as fast."""
        if isinstance(self.net, ConvGeneratorConfig):
            return self.model_copy(update={"net": MLPGeneratorConfig(hidden=CODE_WIDTHS, activation="leaky_relu")})
        return self

    def with_autoencoder(self, name: str) -> LatentSpaceConfig:
        inner = self.model_copy(update={"autoencoder": "none"})
        return LatentSpaceConfig(autoencoder=name, autoencoder_share=self.autoencoder_share, inner=inner)

    def build(self, info: DataInfo) -> Generator:
        return Generator(self, info)


class Generator(NoiseToImageModel):
    """Maps noise z ~ N(0, I), and a class label if conditional, to an image.

    Args:
        config: Network, noise dimensions and conditioning.
        info: Shape and classes of the images.

    Attributes:
        conditional: Whether the model is conditioned on class labels.

    Raises:
        ModelError: Labels are required, and there are fewer than two classes.

    Example:
        >>> generator = GeneratorModelConfig(latent_dim=16).build(DataInfo(channels=3, size=(16, 16)))
        >>> generator.sample(4, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 3, 16, 16])
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
        self.tanh = config.output == "tanh"
        label_dim = len(info.classes) if self.conditional else 0
        self.embed = None
        if config.condition == "embedding":
            self.embed = nn.Linear(label_dim, config.embedding, bias=False)
            nn.init.normal_(self.embed.weight)
            label_dim = config.embedding
        self.net = config.net.build(config.latent_dim + label_dim, info)

    def forward(self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"] | None = None) -> Image:
        """Return images as they are trained.

        Args:
            z: Noise.
            label: Class indices, if and only if the model is conditional.

        Returns:
            Images in [0, 1] with a tanh output, and roughly in [0, 1] with a linear one.

        Raises:
            ModelError: A label is missing, or was given to an unconditional model.
        """
        if self.conditional != (label is not None):
            problem = "needs a label for each image" if self.conditional else "knows no classes: leave the label out"
            raise ModelError(f"this model {problem}.")
        if label is not None:
            one_hot = F.one_hot(label, len(self.info.classes)).to(z.dtype)
            z = torch.cat([z, one_hot if self.embed is None else self.embed(one_hot)], dim=1)
        raw = self.net(z).float()
        # The network works in the [−1, 1] of the literature; all public images are in [0, 1].
        return 0.5 * ((torch.tanh(raw) if self.tanh else raw) + 1)

    def sample_latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n d"]:
        """Draw `n` noise vectors from N(0, I), truncated to ±`truncation` if given."""
        return truncated_normal((n, self.latent_dim), truncation, generator)

    def render(self, latent: Float[Tensor, "n d"], *, label: Int[Tensor, " n"] | None = None) -> Image:
        """Return the images of latents in [0, 1].

        Args:
            latent: Noise, from `sample_latents`.
            label: Class indices, if and only if the model is conditional.

        Raises:
            ModelError: A label is missing, or was given to an unconditional model.
        """
        parameter = next(self.parameters())
        image = self(
            latent.to(parameter.device, parameter.dtype), None if label is None else label.to(parameter.device)
        )
        return image.clamp(0, 1)
