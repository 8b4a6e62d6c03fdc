"""Flows: noise to images along the way that a trained velocity shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ectype.errors import ModelError
from ectype.models.base import FromLatents, truncated_normal
from ectype.nets.velocity import MLPVelocityConfig, UNetVelocityConfig, VelocityConfig
from ectype.sections import DataInfo, ModelConfig

__all__ = ["Flow", "FlowConfig"]

Image = Float[Tensor, "b c h w"]
LEAST_SPREAD = 1e-3
"""Of images that hardly differ: dividing by less would make noise of rounding."""


class FlowConfig(ModelConfig):
    """A rectified flow (Liu et al. 2023; Lipman et al. 2023): straight ways from N(0, I) to images, or to codes."""

    kind: Literal["flow"] = "flow"
    net: VelocityConfig = UNetVelocityConfig()
    condition: Literal["auto", "none", "label"] = "auto"
    """Whether it is told the class of an image. auto: where the images have two classes or more."""
    steps: int = Field(default=20, ge=1)
    """Of the solver, where a user does not say."""
    solver: Literal["heun", "euler"] = "heun"
    """heun asks the network twice a step, and is exact to the second order."""
    guidance: float = Field(default=1.0, ge=0)
    """How far beyond the velocity without a label that with it is followed (Ho and Salimans 2022); 1: just it."""

    def on_codes(self, shape: tuple[int, ...]) -> FlowConfig:
        """A vector has no neighbours that a convolution could see."""
        if len(shape) == 1 and isinstance(self.net, UNetVelocityConfig):
            return self.model_copy(update={"net": MLPVelocityConfig()})
        return self

    def build(self, info: DataInfo) -> Flow:
        return Flow(self, info)


class _Step(nn.Module):
    """A velocity as one module of tensors."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, point: Image, time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None = None) -> Image:
        return self.flow.velocity(point, time, label)


class Flow(FromLatents):
    """At time 0 a point is noise, at time 1 an image; what it passes between is x_t = (1 − t) · noise + t · image.

    Attributes:
        conditional: Whether it is told labels.
        steps: Of the solver.
        guidance: 1 for none; only of a conditional flow.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, config: FlowConfig, info: DataInfo) -> None:
        super().__init__(info)
        if config.condition == "label" and len(info.classes) < 2:
            raise ModelError(
                f"condition=label needs images of at least two classes, there are {len(info.classes)}: put them into "
                "one folder per class, or set condition=none."
            )
        self.conditional = config.condition != "none" and len(info.classes) > 1
        self.steps, self.guidance, self.solver = config.steps, config.guidance, config.solver
        self.net = config.net.build(info, len(info.classes) if self.conditional else 0)
        # Images as numbers of mean 0 and variance 1, which noise has too.
        self.register_buffer("centre", torch.tensor(0.5))
        self.register_buffer("spread", torch.tensor(0.5))

    @torch.no_grad()
    def start_from(self, mean: Float[Tensor, "c h w"], some: Callable[[], Float[Tensor, "n c h w"]]) -> None:
        """Measure the mean and the spread of training images' numbers."""
        images = some()
        self.centre.copy_(images.mean())
        self.spread.copy_(images.std().clamp(min=LEAST_SPREAD))

    def standard(self, image: Image) -> Image:
        """Images as the flow has them at time 1: mean 0, variance 1."""
        return (image - self.centre) / self.spread

    def velocity(self, point: Image, time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None) -> Image:
        """Where each point moves at its time, in units of standard images; without a label as for any class."""
        return self.net(point, time, label).float()

    def _guided(self, point: Image, time: Tensor, label: Tensor | None) -> Image:
        found = self.velocity(point, time, label)
        if label is None or self.guidance == 1:
            return found
        plain = self.velocity(point, time, None)
        return plain + self.guidance * (found - plain)

    def exports(self) -> dict[str, tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]]:
        """One graph beside those that follow from what it can do: `velocity`, for solvers of others."""
        generator = torch.Generator().manual_seed(0)
        inputs = {"point": self.latents(2, generator=generator), "time": torch.rand(2, generator=generator)}
        if self.conditional:
            inputs["label"] = self.labels(2, generator=generator)
        return {"velocity": (_Step(self), inputs, {name: {0: "batch"} for name in inputs})}

    def latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """`n` draws of the noise at time 0, cut off at ±`truncation` if given."""
        return truncated_normal((n, *self.info.shape), truncation, generator)

    def render(self, latent: Image, *, label: Int[Tensor, " n"] | None = None) -> Image:
        """Follow the velocity from noise at time 0 to images at time 1.

        Raises:
            ModelError: A label, where the flow knows no classes.
        """
        if label is not None and not self.conditional:
            raise ModelError("this model knows no classes: leave the label out, or train a conditional one.")
        here = next(self.parameters())
        point = latent.to(here.device, here.dtype)
        label = None if label is None else label.to(here.device)
        step = 1 / self.steps
        for number in range(self.steps):
            time = point.new_full((len(point),), number * step)
            first = self._guided(point, time, label)
            ahead = point + step * first
            if self.solver == "heun":
                ahead = point + step / 2 * (first + self._guided(ahead, time + step, label))
            point = ahead
        return (self.centre + self.spread * point).clamp(0, 1)
