"""Variational autoencoders with several stacked latent layers (Burda et al. 2016, section 5)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ModelConfig
from ectype.core.errors import ModelError
from ectype.models.base import DrawNormal, Model
from ectype.models.bottlenecks import Gaussian, Posterior
from ectype.models.importance import MAX_ELEMENTS_PER_DECODE, importance_weighted_bound
from ectype.models.likelihoods import LikelihoodConfig, MSEConfig
from ectype.nets.blocks import Activation
from ectype.nets.mlp import mlp

__all__ = ["HierarchicalAutoencoder", "HierarchicalConfig"]

Image = Float[Tensor, "b c h w"]
Code = Float[Tensor, "b d"]
Width = Annotated[int, Field(ge=1, le=16_384)]


class HierarchicalConfig(ModelConfig):
    """Stacked latent layers, from z₁ next to the image to the last, whose prior is N(0, I).

    Each layer is a diagonal Gaussian given its neighbor: the one below in q, the one above in p.
    """

    kind: Literal["hierarchical"] = "hierarchical"
    latents: tuple[Width, ...] = Field(default=(100, 50), min_length=1)
    """Dimensions of each latent layer, starting with the one next to the image."""
    hidden: tuple[tuple[Width, ...], ...] = ((200, 200), (100, 100))
    """Hidden widths of the MLPs between the image and the first layer, then between each layer and the next. The
    decoder mirrors them."""
    activation: Activation = "tanh"
    likelihood: LikelihoodConfig = MSEConfig()
    start_at_mean: bool = True
    """Whether the decoder's last bias is initialized so that its output is the mean training image."""

    @model_validator(mode="after")
    def _check_lengths(self) -> HierarchicalConfig:
        if len(self.hidden) != len(self.latents):
            raise ValueError(
                f"hidden has {len(self.hidden)} stacks and latents has {len(self.latents)} layers: give one stack per "
                "layer"
            )
        return self

    def build(self, info: DataInfo) -> HierarchicalAutoencoder:
        return HierarchicalAutoencoder(self, info)


class HierarchicalAutoencoder(Model):
    """A VAE whose q goes from the image up through the latent layers, and whose p goes back down.

    Args:
        config: Widths and likelihood.
        info: Shape of the images.

    Attributes:
        latents: Dimensions of each latent layer, starting with the one next to the image.
        code_shape: Shape of the layer next to the image, which serves as the code.

    Raises:
        ModelError: The likelihood is not a density.
    """

    def __init__(self, config: HierarchicalConfig, info: DataInfo) -> None:
        super().__init__(info)
        self.latents = config.latents
        self.code_shape = (config.latents[0],)
        self.likelihood = config.likelihood.build(info)
        if self.likelihood.density_name is None:
            raise ModelError(
                f"{self.likelihood.loss_name} is not a likelihood: choose one, such as likelihood=bernoulli."
            )
        self.gaussian = Gaussian()
        stacks = list(zip(itertools.pairwise((info.num_elements, *config.latents)), config.hidden, strict=True))
        self.up = nn.ModuleList(
            mlp([below, *hidden, 2 * above], config.activation) for (below, above), hidden in stacks
        )
        self.down = nn.ModuleList(
            mlp([above, *reversed(hidden), 2 * below], config.activation) for (below, above), hidden in stacks[1:]
        )
        hidden_next_to_image = stacks[0][1]
        outputs = self.likelihood.params_per_element * info.num_elements
        self.decoder = nn.Sequential(
            *mlp([config.latents[0], *reversed(hidden_next_to_image), outputs], config.activation),
            nn.Unflatten(1, (self.likelihood.params_per_element * info.channels, *info.size)),
        )
        self._start_at_mean = config.start_at_mean

    def initialize_from_data(
        self, mean: Float[Tensor, "c h w"], get_images: Callable[[], Float[Tensor, "n c h w"]]
    ) -> None:
        """Initialize the decoder's last bias so that an untrained decoder returns the mean image.

        Args:
            mean: Mean training image, in [0, 1].
            get_images: Not used.
        """
        last = self.decoder[-2]
        assert isinstance(last, nn.Linear)
        if self._start_at_mean:
            with torch.no_grad():
                last.bias.copy_(self.likelihood.inverse_mean(mean).flatten())

    def _gaussian_of(self, layer: nn.Module, x: Float[Tensor, "*k b d"]) -> Posterior:
        """Return the Gaussian whose parameters an MLP computes from `x`."""
        gaussian = self.gaussian.posterior(layer(x.flatten(0, -2)))
        return Posterior(*(part.unflatten(0, x.shape[:-1]) for part in gaussian))

    def log_weights(self, image: Image, draw: DrawNormal) -> Float[Tensor, "k b"]:
        """Return log p(x, z₁, z₂, …) − log q(z₁, z₂, …|x) of each draw; see `ImportanceWeighted`."""
        below: Tensor = image.flatten(1)
        codes: list[Tensor] = []
        total: Tensor = torch.zeros((), device=image.device)
        for number, (layer, size) in enumerate(zip(self.up, self.latents, strict=True), 1):
            posterior = self._gaussian_of(layer, below)
            noise = draw(f"code {number}", size).to(posterior.mean)
            below = posterior.sample(noise)
            codes.append(below)
            # The logarithms of 2π cancel between p and q.
            total = total + 0.5 * (noise**2 + posterior.log_variance).sum(-1)
        for layer, below, above in zip(self.down, codes[:-1], codes[1:], strict=True):
            prior = self._gaussian_of(layer, above)
            total = total - 0.5 * (((below - prior.mean) / prior.sigma) ** 2 + prior.log_variance).sum(-1)
        total = total - 0.5 * (codes[-1] ** 2).sum(-1)
        k, b = codes[0].shape[:2]
        raw = self.decoder(codes[0].flatten(0, 1)).float()
        return total + self.likelihood.log_prob(raw, image.repeat(k, 1, 1, 1)).view(k, b)

    def inference_network(self) -> nn.Module:
        """Return the networks of q."""
        return self.up

    def generative_network(self) -> nn.Module:
        """Return the networks of p and the likelihood."""
        return nn.ModuleList([self.down, self.decoder, self.likelihood])

    def log_likelihood(
        self,
        image: Image,
        *,
        samples: int = 1,
        generator: torch.Generator | None = None,
        max_elements: int = MAX_ELEMENTS_PER_DECODE,
    ) -> Float[Tensor, " b"]:
        """Return the importance-weighted bound of each image in nats; see `importance_weighted_bound`."""
        return importance_weighted_bound(self, image, samples=samples, generator=generator, max_elements=max_elements)

    def encode(self, image: Image) -> Code:
        """Return the posterior mean of the layer next to the image."""
        return self._gaussian_of(self.up[0], image.flatten(1)).mean

    def decode(self, code: Code) -> Image:
        """Return the expected image of each code of the layer next to the image, clamped to [0, 1]."""
        return self.likelihood.mean(self.decoder(code).float()).clamp(0, 1)

    def reconstruct(self, image: Image) -> Image:
        """Encode and decode images in [0, 1]."""
        return self.decode(self.encode(image))

    def sample_codes(self, n: int, generator: torch.Generator | None) -> Code:
        """Draw `n` codes of the layer next to the image, starting from the top layer."""
        parameter = next(self.parameters())
        code = torch.randn(n, self.latents[-1], generator=generator).to(parameter)
        for layer, size in zip(reversed(self.down), reversed(self.latents[:-1]), strict=True):
            code = self._gaussian_of(layer, code).sample(torch.randn(n, size, generator=generator).to(parameter))
        return code

    def sample(self, n: int, *, label: Tensor | None = None, generator: torch.Generator | None = None) -> Image:
        """Return the expected images of `n` codes drawn from the prior.

        Args:
            n: Number of images.
            label: Must be None, because this model is unconditional.
            generator: Random generator, for reproducible samples.

        Raises:
            ModelError: A label was given.
        """
        if label is not None:
            raise ModelError("this model knows no classes: leave the label out, or train a conditional one.")
        return self.decode(self.sample_codes(n, generator))
