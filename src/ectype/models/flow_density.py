"""A flow as the density of an autoencoder's codes."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.config.schema import DataInfo, ModelConfig
from ectype.core.errors import ModelError
from ectype.models.densities import Density
from ectype.models.flow import FlowConfig
from ectype.models.latent_space import LatentSpaceModel, denormalize, map_shape
from ectype.models.noise_to_image import NoiseToImageModel

__all__ = ["FlowDensity"]

CONFIG_KEY = "flow"
"""Key of the flow's configuration in a description, as JSON."""
CODES_AT_ONCE = 64
"""Codes drawn at a time, so that large maps fit into memory."""


class FlowDensity(Density):
    """A rectified flow on codes: noise is carried to a code along a learned velocity field.

    Args:
        config: The flow.
        shape: Shape of one code.
        classes: Number of classes that the flow distinguishes; less than 2 for none. Labels are drawn with the
            frequencies of the training images.

    Example:
        >>> density = FlowDensity(FlowConfig(steps=2).on_codes((8,)), (8,), classes=0)
        >>> density.sample(5).shape
        torch.Size([5, 8])
    """

    centre: Tensor
    """Mean of each channel of the training codes."""
    spread: Tensor
    """Standard deviation of each channel of the training codes."""
    frequencies: Tensor
    """Fraction of the training images in each class; empty without classes."""

    def __init__(self, config: FlowConfig, shape: tuple[int, ...], classes: int) -> None:
        super().__init__(shape)
        channels, height, width = map_shape(shape)
        self.config = config
        names = tuple(str(i) for i in range(classes))
        info = DataInfo(channels=channels, size=(height, width), classes=names)
        self.flow: NoiseToImageModel = config.build(info)
        self.register_buffer("centre", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))
        self.register_buffer("frequencies", torch.ones(classes))
        self.requires_grad_(False).eval()

    @classmethod
    def described(cls, description: Mapping[str, str], shape: tuple[int, ...], *, classes: int) -> FlowDensity:
        """Build the density of a `description`, with freshly drawn weights.

        Raises:
            KeyError, ValueError: It does not describe a flow.
        """
        config = ModelConfig.model_validate(json.loads(description[CONFIG_KEY]))
        if not isinstance(config, FlowConfig):
            raise ValueError(f"it is described as a model of kind {config.kind}")
        return cls(config, shape, classes)

    @classmethod
    def of(cls, model: LatentSpaceModel, config: FlowConfig) -> FlowDensity:
        """Return the density of the codes that a flow on a model's codes has learned.

        Args:
            model: The trained flow.
            config: The configuration of its inner model.
        """
        info = model.info
        density = cls(config, tuple(model.code_shape), len(info.classes) if model.conditional else 0)
        density.flow.load_state_dict(model.inner.state_dict())
        density.centre.copy_(model.centre)
        density.spread.copy_(model.spread)
        if len(density.frequencies) and info.frequencies:
            density.frequencies.copy_(torch.tensor(info.frequencies))
        return density

    @torch.no_grad()
    def sample(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *code"]:
        latent = self.flow.sample_latents(n, truncation=truncation, generator=generator)
        label = None
        if len(self.frequencies):
            label = torch.multinomial(self.frequencies, n, replacement=True, generator=generator)
        parts = [
            self.flow.render(some, label=None if label is None else label[at : at + CODES_AT_ONCE])
            for at, some in zip(range(0, n, CODES_AT_ONCE), latent.split(CODES_AT_ONCE), strict=True)
        ]
        return denormalize(torch.cat(parts), self.centre, self.spread).view(n, *self.shape)

    def description(self) -> dict[str, str]:
        return {CONFIG_KEY: self.config.model_dump_json(serialize_as_any=True)}

    def check(self) -> None:
        """Check the loaded tensors.

        Raises:
            ModelError: A value is not finite, or there are no classes to draw.
        """
        if not all(tensor.isfinite().all() for tensor in self.state_dict().values()):
            raise ModelError("not all of its values are finite.")
        if (self.frequencies < 0).any() or (len(self.frequencies) and self.frequencies.sum() <= 0):
            raise ModelError("it has classes with a negative frequency, or none that occurs.")
