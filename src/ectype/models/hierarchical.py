"""Variational autoencoders with several layers of codes, one above the other (Burda et al. 2016, section 5)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from ectype.errors import ModelError
from ectype.models.base import AT_ONCE, Draw, Model, importance_bound
from ectype.models.bottlenecks import Gaussian, Posterior
from ectype.models.likelihoods import LikelihoodConfig, MSEConfig
from ectype.nets.blocks import Activation
from ectype.nets.mlp import mlp
from ectype.sections import DataInfo, ModelConfig

__all__ = ["HierarchicalAutoencoder", "HierarchicalConfig"]

Image = Float[Tensor, "b c h w"]
Code = Float[Tensor, "b d"]
Width = Annotated[int, Field(ge=1)]


class HierarchicalConfig(ModelConfig):
    """Layers of codes, each Gaussian given the next: z₁ next to the image, the last before N(0, I)."""

    kind: Literal["hierarchical"] = "hierarchical"
    latents: tuple[Width, ...] = Field(default=(100, 50), min_length=1)
    """Numbers of each layer, that next to the image first."""
    hidden: tuple[tuple[Width, ...], ...] = ((200, 200), (100, 100))
    """Widths between the image and the first layer, then between each layer and the next; mirrored on the way back."""
    activation: Activation = "tanh"
    likelihood: LikelihoodConfig = MSEConfig()
    start_at_mean: bool = True
    """Whether the decoder's last bias starts where its output is the mean image."""

    @model_validator(mode="after")
    def _as_many(self) -> HierarchicalConfig:
        if len(self.hidden) != len(self.latents):
            raise ValueError(
                f"hidden has {len(self.hidden)} stacks, latents {len(self.latents)} layers of codes: give each its own"
            )
        return self

    def build(self, info: DataInfo) -> HierarchicalAutoencoder:
        return HierarchicalAutoencoder(self, info)


class HierarchicalAutoencoder(Model):
    """q goes up from the image layer by layer, p comes down."""

    def __init__(self, config: HierarchicalConfig, info: DataInfo) -> None:
        super().__init__(info)
        self.latents = config.latents
        self.code_shape = (config.latents[0],)
        self.likelihood = config.likelihood.build(info)
        if self.likelihood.density is None:
            raise ModelError(f"{self.likelihood.loss_name} is no likelihood: choose one, such as likelihood=bernoulli.")
        self.gaussian = Gaussian()
        stacks = list(zip(itertools.pairwise((info.numbers, *config.latents)), config.hidden, strict=True))
        self.up = nn.ModuleList(
            mlp([below, *hidden, 2 * above], config.activation) for (below, above), hidden in stacks
        )
        self.down = nn.ModuleList(
            mlp([above, *reversed(hidden), 2 * below], config.activation) for (below, above), hidden in stacks[1:]
        )
        first = stacks[0][1]
        numbers = self.likelihood.heads * info.numbers
        self.decoder = nn.Sequential(
            *mlp([config.latents[0], *reversed(first), numbers], config.activation),
            nn.Unflatten(1, (self.likelihood.heads * info.channels, *info.size)),
        )
        self._start_at_mean = config.start_at_mean

    def start_from(self, mean: Float[Tensor, "c h w"], some: Callable[[], Float[Tensor, "n c h w"]]) -> None:
        """Set the decoder's last bias so that a network that knows nothing yet gives the mean image."""
        last = self.decoder[-2]
        assert isinstance(last, nn.Linear)
        if self._start_at_mean:
            with torch.no_grad():
                last.bias.copy_(self.likelihood.start(mean).flatten())

    def _given(self, layer: nn.Module, x: Float[Tensor, "*k b d"]) -> Posterior:
        """The Gaussian that a stack of layers gives for each code."""
        found = self.gaussian.posterior(layer(x.flatten(0, -2)))
        return Posterior(*(part.unflatten(0, x.shape[:-1]) for part in found))

    def log_weights(self, image: Image, draw: Draw) -> Float[Tensor, "k b"]:
        """Log p(x, z₁, z₂, …) − log q(z₁, z₂, …|x) of each draw; see `Weighs`."""
        below: Tensor = image.flatten(1)
        codes: list[Tensor] = []
        total: Tensor = torch.zeros((), device=image.device)
        for number, (layer, size) in enumerate(zip(self.up, self.latents, strict=True), 1):
            posterior = self._given(layer, below)
            noise = draw(f"code {number}", size).to(posterior.mean)
            below = posterior.draw(noise)
            codes.append(below)
            # The logarithms of 2π cancel between p and q.
            total = total + 0.5 * (noise**2 + posterior.log_variance).sum(-1)
        for layer, below, above in zip(self.down, codes[:-1], codes[1:], strict=True):
            prior = self._given(layer, above)
            total = total - 0.5 * (((below - prior.mean) / prior.sigma) ** 2 + prior.log_variance).sum(-1)
        total = total - 0.5 * (codes[-1] ** 2).sum(-1)
        k, b = codes[0].shape[:2]
        raw = self.decoder(codes[0].flatten(0, 1)).float()
        return total + self.likelihood.log_prob(raw, image.repeat(k, 1, 1, 1)).view(k, b)

    def recognition(self) -> nn.Module:
        """The way up."""
        return self.up

    def generation(self) -> nn.Module:
        """The way down."""
        return nn.ModuleList([self.down, self.decoder, self.likelihood])

    def log_likelihood(
        self, image: Image, *, samples: int = 1, generator: torch.Generator | None = None, chunk: int = AT_ONCE
    ) -> Float[Tensor, " b"]:
        """The importance-weighted bound in nats; see `importance_bound`."""
        return importance_bound(self, image, samples=samples, generator=generator, chunk=chunk)

    def encode(self, image: Image) -> Code:
        """The mean of the layer next to the image."""
        return self._given(self.up[0], image.flatten(1)).mean

    def decode(self, code: Code) -> Image:
        """The expected image of each code of that layer."""
        return self.likelihood.mean(self.decoder(code).float()).clamp(0, 1)

    def reconstruct(self, image: Image) -> Image:
        """Each image through its code and back."""
        return self.decode(self.encode(image))

    def latents_of(self, n: int, generator: torch.Generator | None) -> Code:
        """`n` codes of the layer next to the image, drawn from the top down."""
        here = next(self.parameters())
        code = torch.randn(n, self.latents[-1], generator=generator).to(here)
        for layer, size in zip(reversed(self.down), reversed(self.latents[:-1]), strict=True):
            code = self._given(layer, code).draw(torch.randn(n, size, generator=generator).to(here))
        return code

    def sample(self, n: int, *, label: Tensor | None = None, generator: torch.Generator | None = None) -> Image:
        """`n` expected images of codes drawn from the top down; labels are not for this model."""
        if label is not None:
            raise ModelError("this model knows no classes: leave the label out, or train a conditional one.")
        return self.decode(self.latents_of(n, generator))
