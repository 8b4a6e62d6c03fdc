"""Autoencoders: an encoder, a bottleneck, a decoder, and a likelihood that interprets the decoder's output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ModelConfig
from ectype.core.errors import ModelError
from ectype.core.random import SeededStepContext, StepContext
from ectype.models.base import DrawNormal, Model, evaluating
from ectype.models.bottlenecks import BottleneckConfig, BottleneckOutput, Gaussian, IdentityConfig, Posterior
from ectype.models.corruptions import CorruptionConfig, NoneConfig
from ectype.models.densities import Density, StandardNormal
from ectype.models.importance import MAX_ELEMENTS_PER_DECODE, importance_weighted_bound
from ectype.models.likelihoods import LikelihoodConfig, MSEConfig
from ectype.models.quantizers import Quantizer
from ectype.nets.coder import CoderConfig, ScalesOutput
from ectype.nets.conv import ConvConfig
from ectype.nets.param_groups import ParameterGroup, parameter_groups_of
from ectype.nets.pca_residual import PCADecoderResidual, PCAEncoderResidual

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "AutoencoderOutput",
    "GaussianAutoencoder",
    "QuantizedAutoencoder",
    "VariationalAutoencoder",
]

Image = Float[Tensor, "b c h w"]
Code = Float[Tensor, " b *code"]

MAX_IMAGES_PER_ENCODE = 256
"""Images encoded at once."""
MAX_INITIAL_VECTORS = 2**16
"""Vectors of training images that a codebook is initialized with."""


class AutoencoderConfig(ModelConfig):
    """An autoencoder from interchangeable parts. A Gaussian bottleneck makes it variational."""

    kind: Literal["autoencoder"] = "autoencoder"
    net: CoderConfig = ConvConfig()
    bottleneck: BottleneckConfig = IdentityConfig()
    corruption: CorruptionConfig = NoneConfig()
    likelihood: LikelihoodConfig = MSEConfig()
    start_at_mean: bool = True
    """Whether the decoder's last bias is initialized so that its output is the mean training image, if that layer has
    one bias per pixel or per channel. Otherwise the first part of training is spent on learning it."""

    def build(self, info: DataInfo) -> Autoencoder:
        if self.bottleneck.discrete:
            return QuantizedAutoencoder(self, info)
        if self.bottleneck.kind != "gaussian":
            return Autoencoder(self, info)
        has_density = self.likelihood.build(info).density_name is not None
        return (VariationalAutoencoder if has_density else GaussianAutoencoder)(self, info)


class AutoencoderOutput(NamedTuple):
    """Result of one training pass through an autoencoder."""

    raw: Float[Tensor, "b kc h w"]
    """Output of the decoder, to be interpreted by the likelihood."""
    bottleneck: BottleneckOutput


class Autoencoder(Model):
    """Encodes images and decodes codes; samples by decoding draws from a density on the codes.

    Args:
        config: Networks, bottleneck, corruption and likelihood.
        info: Shape of the images.

    Attributes:
        code_shape: Shape of one code.
        densities: Densities on the codes by name; those other than "normal" are fitted after training.
        density: Name of the density that `sample` uses by default.

    Raises:
        ModelError: The parts do not fit together.

    Example:
        >>> model = AutoencoderConfig(net=ConvConfig(latent_dim=8, width=4)).build(DataInfo(channels=3, size=(16, 16)))
        >>> code = model.encode(torch.rand(2, 3, 16, 16))
        >>> code.shape, model.decode(code).shape
        (torch.Size([2, 8]), torch.Size([2, 3, 16, 16]))
    """

    prior: str | None = None
    """Name of the density that the codes are trained towards; None if one must be fitted first."""

    def __init__(self, config: AutoencoderConfig, info: DataInfo) -> None:
        super().__init__(info)
        self.code_shape = config.net.code_shape(info)
        self.corruption = config.corruption
        self.accepts_noise = not isinstance(config.corruption, NoneConfig)
        self.bottleneck = config.bottleneck.build(self.code_shape)
        self.likelihood = config.likelihood.build(info)
        self.encoder = config.net.encoder(info, self.bottleneck.params_per_element)
        self.decoder = config.net.decoder(info, self.likelihood.params_per_element)
        if isinstance(self.decoder, PCADecoderResidual) and not self.likelihood.linear:
            self.decoder.output = "logit"
        self.densities: dict[str, Density] = {"normal": StandardNormal(self.code_shape)}
        self.density = "normal"
        self._start_at_mean = config.start_at_mean

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's last layer, where the gradients of losses are compared."""
        return [parameter for parameter in self.decoder.parameters() if parameter.ndim > 1][-1]

    def initialize_from_data(
        self, mean: Float[Tensor, "c h w"], get_images: Callable[[], Float[Tensor, "n c h w"]]
    ) -> None:
        """Initialize the decoder's last bias so that an untrained decoder returns the mean image.

        Networks with a PCA shortcut are initialized with the principal components of the images instead, and a codebook
        with cluster centers of their codes.

        Args:
            mean: Mean training image, in [0, 1].
            get_images: Returns a sample of the training images, in [0, 1].
        """
        if isinstance(self.encoder, PCAEncoderResidual) and isinstance(self.decoder, PCADecoderResidual):
            self._init_as_pca(self.encoder, self.decoder, get_images())
            return
        layers = [layer for layer in self.decoder.modules() if isinstance(getattr(layer, "bias", None), nn.Parameter)]
        if not self._start_at_mean or not layers:
            return
        bias = layers[-1].bias
        assert isinstance(bias, Tensor)
        raw = self.likelihood.inverse_mean(mean)
        if isinstance(self.decoder, ScalesOutput):
            raw = self.decoder.invert_output_scaling(raw)
        start = raw.flatten() if bias.numel() == raw.numel() else raw.mean((1, 2))
        if bias.numel() == start.numel():
            with torch.no_grad():
                bias.copy_(start)

    @torch.no_grad()
    def _init_as_pca(
        self, encoder: PCAEncoderResidual, decoder: PCADecoderResidual, images: Float[Tensor, "n c h w"]
    ) -> None:
        corrupted = self._initial_inputs(images) if self.corruption.active else None
        posterior, whitened = isinstance(self.bottleneck, Gaussian), self.bottleneck.whitened
        code = encoder.init_from_images(images, corrupted, posterior=posterior, whitened=whitened)
        decoder.init_from_code(code)

    def _initial_inputs(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return self.corruption.apply(images, SeededStepContext(0, 0, 0, "initialization", batch=len(images)))

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return the parameter groups, with the learning rates that submodules such as pretrained encoders ask for."""
        return parameter_groups_of(self)

    def forward_train(self, image: Image, context: StepContext) -> AutoencoderOutput:
        """Run a training pass: corrupt the images, encode them, apply the bottleneck with noise, and decode.

        Args:
            image: Images in [0, 1].
            context: Current step; the source of all randomness.
        """
        features = self.encoder(self.corruption.apply(image, context))
        output = self.bottleneck(features, lambda *shape: context.normal("code", *shape))
        return AutoencoderOutput(self.decoder(output.code).float(), output)

    def encode(self, image: Image) -> Code:
        """Return the code of each image in [0, 1]; of a Gaussian bottleneck the posterior mean."""
        return self.bottleneck.code(self.encoder(image))

    def continuous_code(self, image: Image) -> Code:
        """Return the codes that densities are fitted to; with a codebook, before its nearest entry is taken.

        What is drawn from such a density is decoded by `render`.
        """
        return self.bottleneck.continuous_code(self.encoder(image))

    def decode(self, code: Code) -> Image:
        """Return the expected image of each code, clamped to [0, 1]."""
        return self.decode_unclamped(code).clamp(0, 1)

    def decode_unclamped(self, code: Code) -> Image:
        """Return the expected image of each code; a linear decoder may leave [0, 1]."""
        return self.likelihood.mean(self.decoder(code).float())

    def reconstruct(self, image: Image) -> Image:
        """Encode and decode images in [0, 1]."""
        return self.decode(self.encode(image))

    def sample(
        self,
        n: int,
        *,
        label: Tensor | None = None,
        generator: torch.Generator | None = None,
        density: str | None = None,
    ) -> Image:
        """Decode draws from a density on the codes.

        Args:
            n: Number of images.
            label: Must be None, because autoencoders are unconditional.
            generator: Random generator, for reproducible samples.
            density: A key of `densities`; the model's default if None.

        Returns:
            `n` images in [0, 1].

        Raises:
            ModelError: A label was given, or the density was not fitted.
        """
        if label is not None:
            raise ModelError("this model knows no classes: leave the label out, or train a conditional one.")
        name = density or self.density
        if name not in self.densities:
            raise ModelError(
                f"no density '{name}' was fitted to the codes of this model: choose from {', '.join(self.densities)}."
            )
        return self.render(self.densities[name].sample(n, generator=generator))

    def sample_latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Code:
        """Draw `n` codes from the default density; see `Density.sample`."""
        return self.densities[self.density].sample(n, truncation=truncation, generator=generator)

    def render(self, latent: Code, *, label: Tensor | None = None) -> Image:
        """Return the expected image of each code.

        Raises:
            ModelError: A label was given.
        """
        if label is not None:
            raise ModelError("this model knows no classes: leave the label out, or train a conditional one.")
        parameter = next(self.parameters())
        return self.decode(latent.to(parameter.device, parameter.dtype))


class QuantizedAutoencoder(Autoencoder):
    """An autoencoder with a finite set of codes."""

    bottleneck: Quantizer

    @property
    def codebook_size(self) -> int:
        """Number of values that an index can have."""
        return self.bottleneck.codebook_size

    def _init_as_pca(
        self, encoder: PCAEncoderResidual, decoder: PCADecoderResidual, images: Float[Tensor, "n c h w"]
    ) -> None:
        super()._init_as_pca(encoder, decoder, images)
        num_images = max(1, MAX_INITIAL_VECTORS // math.prod(self.code_shape[1:]))
        inputs = self._initial_inputs(images[:: -(-len(images) // num_images)])
        device = next(encoder.parameters()).device
        with evaluating(self):
            parts = [encoder(part.to(device)) for part in inputs.split(MAX_IMAGES_PER_ENCODE)]
        self.bottleneck.init_from_features(torch.cat(parts))

    def indices(self, image: Image) -> Int[Tensor, " b *code"]:
        """Return the codebook indices of each image, one for each group and position."""
        return self.bottleneck.indices(self.encoder(image))

    def render(self, latent: Code, *, label: Tensor | None = None) -> Image:
        """Return the expected image of the codes nearest to the given ones, which a density draws off the codebook."""
        parameter = next(self.parameters())
        return super().render(self.bottleneck.nearest(latent.to(parameter.device, parameter.dtype)), label=label)


class GaussianAutoencoder(Autoencoder):
    """An autoencoder with a Gaussian posterior for each code, and the prior N(0, I)."""

    prior = "normal"
    bottleneck: Gaussian

    def posterior(self, image: Image) -> Posterior:
        """Return q(z|x) of each image."""
        return self.bottleneck.posterior(self.encoder(image))

    def sample_posterior(
        self, image: Image, k: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "k b c h w"]:
        """Return `k` reconstructions of each image, decoded from draws of q(z|x)."""
        posterior = self.posterior(image)
        noise = torch.randn(k, *posterior.mean.shape, generator=generator).to(posterior.mean)
        return self.decode(posterior.sample(noise).flatten(0, 1)).unflatten(0, (k, -1))


class VariationalAutoencoder(GaussianAutoencoder):
    """A Gaussian autoencoder whose likelihood is a density, so that it bounds the log-likelihood of an image."""

    def log_weights(self, image: Image, draw: DrawNormal) -> Float[Tensor, "k b"]:
        """Return log p(x, z) − log q(z|x) of each draw of z; see `ImportanceWeighted`."""
        posterior = self.posterior(image)
        noise = draw("code", *self.code_shape).to(posterior.mean)
        code, k = posterior.sample(noise), len(noise)
        raw = self.decoder(code.flatten(0, 1)).float()
        log_pixels = self.likelihood.log_prob(raw, image.repeat(k, 1, 1, 1)).view(k, len(image))
        # The constants of prior and posterior cancel; ε² equals ((z − μ)/σ)² without its rounding errors.
        return log_pixels + 0.5 * (noise**2 + posterior.log_variance - code**2).flatten(2).sum(2)

    def inference_network(self) -> nn.Module:
        """Return encoder and bottleneck."""
        return nn.ModuleList([self.encoder, self.bottleneck])

    def generative_network(self) -> nn.Module:
        """Return decoder and likelihood."""
        return nn.ModuleList([self.decoder, self.likelihood])

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
