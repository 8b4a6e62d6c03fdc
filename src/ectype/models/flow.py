"""Flows: generate images by following a learned velocity field from noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ModelConfig
from ectype.core.errors import ModelError
from ectype.models.noise_to_image import NoiseToImageModel, truncated_normal
from ectype.nets.velocity import MLPVelocityConfig, UNetVelocityConfig, VelocityConfig

__all__ = ["Flow", "FlowConfig"]

Image = Float[Tensor, "b c h w"]
MIN_STD = 1e-3
"""Least standard deviation that images are divided by; a smaller one would amplify rounding errors."""


class FlowConfig(ModelConfig):
    """A rectified flow (Liu et al. 2023; Lipman et al. 2023): straight paths from N(0, I) to images or codes."""

    kind: Literal["flow"] = "flow"
    net: VelocityConfig = UNetVelocityConfig()
    condition: Literal["auto", "none", "label"] = "auto"
    """Whether the model is conditioned on class labels. auto: if the images have at least two classes."""
    steps: int = Field(default=10, ge=1, le=10_000)
    """Default steps of the solver. On codes, more than 10 of Heun's method hardly change the samples."""
    solver: Literal["heun", "euler"] = "heun"
    """heun evaluates the network twice per step and is accurate to second order."""
    guidance: float = Field(default=1.0, ge=0, le=1000)
    """Default scale of classifier-free guidance (Ho and Salimans 2022); 1 for none."""

    def on_codes(self, shape: tuple[int, ...]) -> FlowConfig:
        """Replace the U-Net by an MLP for vector codes, which have no spatial structure."""
        if len(shape) == 1 and isinstance(self.net, UNetVelocityConfig):
            return self.model_copy(update={"net": MLPVelocityConfig()})
        return self

    def build(self, info: DataInfo) -> Flow:
        return Flow(self, info)


class _Velocity(nn.Module):
    """The velocity of a flow as a module with tensor inputs, for export."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, point: Image, time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None = None) -> Image:
        return self.flow.velocity(point, time, label)


class Flow(NoiseToImageModel):
    """A rectified flow: noise at time 0, an image at time 1, and x_t = (1 − t) · noise + t · image in between.

    Args:
        config: Velocity network, conditioning and solver.
        info: Shape and classes of the images.

    Attributes:
        conditional: Whether the model is conditioned on class labels.
        steps: Steps of the solver.
        solver: euler or heun.
        guidance: Scale of classifier-free guidance, used with labels only; 1 for none.

    Raises:
        ModelError: Labels are required, and there are fewer than two classes.

    Example:
        >>> flow = FlowConfig(net=UNetVelocityConfig(width=8), steps=2).build(DataInfo(channels=1, size=(8, 8)))
        >>> flow.sample(4, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 1, 8, 8])
    """

    centre: Tensor
    """Mean of the training images' pixels."""
    spread: Tensor
    """Standard deviation of the training images' pixels."""

    def __init__(self, config: FlowConfig, info: DataInfo) -> None:
        super().__init__(info)
        if config.condition == "label" and len(info.classes) < 2:
            raise ModelError(
                f"condition=label needs images of at least two classes, there are {len(info.classes)}: put them into "
                "one folder per class, or set condition=none."
            )
        self.conditional = config.condition != "none" and len(info.classes) > 1
        self.steps, self.guidance, self.solver = (config.steps, config.guidance, config.solver)
        self.net = config.net.build(info, len(info.classes) if self.conditional else 0)
        # Images are normalized to mean 0 and variance 1, like the noise.
        self.register_buffer("centre", torch.tensor(0.5))
        self.register_buffer("spread", torch.tensor(0.5))

    @torch.no_grad()
    def initialize_from_data(
        self, mean: Float[Tensor, "c h w"], get_images: Callable[[], Float[Tensor, "n c h w"]]
    ) -> None:
        """Measure the mean and standard deviation of the training images' pixels.

        Args:
            mean: Not used.
            get_images: Returns a sample of the training images, in [0, 1].
        """
        images = get_images()
        self.centre.copy_(images.mean())
        self.spread.copy_(images.std().clamp(min=MIN_STD))

    def normalize(self, image: Image) -> Image:
        """Normalize images in [0, 1] to the mean 0 and variance 1 that they have at time 1."""
        return (image - self.centre) / self.spread

    def velocity(self, point: Image, time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None) -> Image:
        """Return the velocity of points x_t.

        Args:
            point: Points between noise and normalized images.
            time: Times in [0, 1].
            label: Class indices; None for the unconditional velocity.
        """
        return self.net(point, time, label).float()

    def _guided_velocity(self, point: Image, time: Tensor, label: Tensor | None) -> Image:
        velocity = self.velocity(point, time, label)
        if label is None or self.guidance == 1:
            return velocity
        unconditional = self.velocity(point, time, None)
        return unconditional + self.guidance * (velocity - unconditional)

    def export_graphs(self) -> dict[str, tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]]:
        """Return the graph `velocity`, for use with other solvers, in addition to the default graphs."""
        generator = torch.Generator().manual_seed(0)
        inputs = {"point": self.sample_latents(2, generator=generator), "time": torch.rand(2, generator=generator)}
        if self.conditional:
            inputs["label"] = self.sample_labels(2, generator=generator)
        return {"velocity": (_Velocity(self), inputs, {name: {0: "batch"} for name in inputs})}

    def sample_latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Draw `n` noise images for time 0, truncated to ±`truncation` if given."""
        return truncated_normal((n, *self.info.shape), truncation, generator)

    def render(self, latent: Image, *, label: Int[Tensor, " n"] | None = None) -> Image:
        """Solve the ODE from noise at time 0 to images at time 1.

        Args:
            latent: Noise, from `sample_latents`.
            label: Class indices; None for unconditional samples.

        Returns:
            Images in [0, 1].

        Raises:
            ModelError: A label was given to an unconditional model.
        """
        if label is not None and not self.conditional:
            raise ModelError("this model knows no classes: leave the label out, or train a conditional one.")
        parameter = next(self.parameters())
        point = latent.to(parameter.device, parameter.dtype)
        label = None if label is None else label.to(parameter.device)
        step = 1 / self.steps
        for index in range(self.steps):
            time = point.new_full((len(point),), index * step)
            velocity = self._guided_velocity(point, time, label)
            following = point + step * velocity
            if self.solver == "heun":
                velocity_after = self._guided_velocity(following, time + step, label)
                following = point + step / 2 * (velocity + velocity_after)
            point = following
        return (self.centre + self.spread * point).clamp(0, 1)
