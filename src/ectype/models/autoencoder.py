"""Autoencoders: an encoder, a bottleneck, a decoder, and what the decoder's numbers mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ectype.data.batch import Moment
from ectype.errors import ModelError
from ectype.models.base import AT_ONCE, Draw, Model, importance_bound
from ectype.models.bottlenecks import BottleneckConfig, Coded, Gaussian, IdentityConfig, Posterior
from ectype.models.corruptions import CorruptionConfig, NoneConfig
from ectype.models.densities import Density, StandardNormal
from ectype.models.likelihoods import LikelihoodConfig, MSEConfig
from ectype.models.quantizers import Quantizer
from ectype.nets.coder import CoderConfig, Scaled
from ectype.nets.conv import ConvConfig
from ectype.nets.groups import Group, grouped
from ectype.nets.squares import WithCode, WithSquares
from ectype.sections import DataInfo, ModelConfig

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "GaussianAutoencoder",
    "Pass",
    "QuantizedAutoencoder",
    "VariationalAutoencoder",
]

Image = Float[Tensor, "b c h w"]
Code = Float[Tensor, " b *code"]


class AutoencoderConfig(ModelConfig):
    """An autoencoder from interchangeable parts. A Gaussian bottleneck makes it variational."""

    kind: Literal["autoencoder"] = "autoencoder"
    net: CoderConfig = ConvConfig()
    bottleneck: BottleneckConfig = IdentityConfig()
    corruption: CorruptionConfig = NoneConfig()
    likelihood: LikelihoodConfig = MSEConfig()
    start_at_mean: bool = True
    """Whether the decoder's last bias starts where its output is the mean image, where that layer has a bias for each
    pixel or each channel. Otherwise the first part of training is spent on finding it."""

    def build(self, info: DataInfo) -> Autoencoder:
        if self.bottleneck.discrete:
            return QuantizedAutoencoder(self, info)
        if self.bottleneck.kind != "gaussian":
            return Autoencoder(self, info)
        stated = self.likelihood.build(info).density is not None
        return (VariationalAutoencoder if stated else GaussianAutoencoder)(self, info)


class Pass(NamedTuple):
    """One training pass through an autoencoder."""

    raw: Float[Tensor, "b kc h w"]
    """What the decoder gave."""
    coded: Coded


class Autoencoder(Model):
    """Encodes images, decodes codes; samples by decoding draws of a density on its codes.

    The densities fitted on the codes of a run are in `densities`; `sample` uses the one that `density` names.
    """

    prior: str | None = None
    """The density that codes were trained towards; None where one must first be fitted."""

    def __init__(self, config: AutoencoderConfig, info: DataInfo) -> None:
        super().__init__(info)
        self.code_shape = config.net.code_shape(info)
        self.corruption = config.corruption
        self.bottleneck = config.bottleneck.build(self.code_shape)
        self.likelihood = config.likelihood.build(info)
        self.encoder = config.net.encoder(info, self.bottleneck.heads)
        self.decoder = config.net.decoder(info, self.likelihood.heads)
        if isinstance(self.decoder, WithCode) and not self.likelihood.linear:
            raise ModelError(
                "shortcut=pca gives pixels, not what a sigmoid makes pixels of: set likelihood.output=linear."
            )
        self.densities: dict[str, Density] = {"normal": StandardNormal(self.code_shape)}
        self.density = "normal"
        self._start_at_mean = config.start_at_mean

    @property
    def last_layer(self) -> nn.Parameter:
        """Weights of the decoder's last layer, where the gradients of losses are compared."""
        return [parameter for parameter in self.decoder.parameters() if parameter.ndim > 1][-1]

    def start_from(self, mean: Float[Tensor, "c h w"], some: Callable[[], Float[Tensor, "n c h w"]]) -> None:
        """Set the decoder's last bias so that a network that knows nothing yet gives the mean image.

        Networks around a linear code begin with that of the images instead.
        """
        if isinstance(self.encoder, WithSquares) and isinstance(self.decoder, WithCode):
            self.decoder.start_from(self.encoder.start_from(some()))
            return
        last = [module for module in self.decoder.modules() if isinstance(getattr(module, "bias", None), nn.Parameter)]
        if not self._start_at_mean or not last:
            return
        bias = last[-1].bias
        assert isinstance(bias, Tensor)
        channels = self.likelihood.start(mean)
        if isinstance(self.decoder, Scaled):
            channels = self.decoder.unscaled(channels)
        start = channels.flatten() if bias.numel() == channels.numel() else channels.mean((1, 2))
        if bias.numel() == start.numel():
            with torch.no_grad():
                bias.copy_(start)

    def parameter_groups(self) -> Sequence[Group]:
        """What parts ask for, such as a pretrained encoder; all the rest moves at the full rate."""
        return grouped(self)

    def run(self, image: Image, moment: Moment) -> Pass:
        """A training pass: the image corrupted, coded with noise where the bottleneck wants it, and decoded."""
        features = self.encoder(self.corruption.apply(image, moment))
        coded = self.bottleneck(features, lambda *shape: moment.normal("code", *shape))
        return Pass(self.decoder(coded.code).float(), coded)

    def encode(self, image: Image) -> Code:
        """The code of each image: the mean of its posterior where the bottleneck is Gaussian."""
        return self.bottleneck.code(self.encoder(image))

    def decode(self, code: Code) -> Image:
        """The expected image of each code, clamped to [0, 1]."""
        return self.expect(code).clamp(0, 1)

    def expect(self, code: Code) -> Image:
        """The expected image of each code, as the decoder gives it."""
        return self.likelihood.mean(self.decoder(code).float())

    def reconstruct(self, image: Image) -> Image:
        """Each image through its code and back."""
        return self.decode(self.encode(image))

    def sample(
        self,
        n: int,
        *,
        label: Tensor | None = None,
        generator: torch.Generator | None = None,
        density: str | None = None,
    ) -> Image:
        """Decode `n` draws of a density on codes.

        Args:
            n: How many images.
            label: Not for autoencoders: they know no classes.
            generator: Of the draws; a given one repeats them.
            density: Of `densities`; the model's own default if not given.

        Raises:
            ModelError: A label, or a density that was not fitted.
        """
        if label is not None:
            raise ModelError("this model knows no classes: leave the label out, or train a conditional one.")
        name = density or self.density
        if name not in self.densities:
            raise ModelError(f"no density '{name}' was fitted on these codes; have {', '.join(self.densities)}.")
        return self.render(self.densities[name].sample(n, generator=generator))

    def latents(self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None) -> Code:
        """`n` draws of the density that `density` names; see `Density.sample`."""
        return self.densities[self.density].sample(n, truncation=truncation, generator=generator)

    def render(self, latent: Code, *, label: Tensor | None = None) -> Image:
        """The expected image of each code; labels are not for autoencoders."""
        if label is not None:
            raise ModelError("this model knows no classes: leave the label out, or train a conditional one.")
        here = next(self.parameters())
        return self.decode(latent.to(here.device, here.dtype))


class QuantizedAutoencoder(Autoencoder):
    """An autoencoder with finitely many codes."""

    bottleneck: Quantizer

    @property
    def codebook_size(self) -> int:
        """How many values an index has."""
        return self.bottleneck.codebook_size

    def indices(self, image: Image) -> Int[Tensor, " b *code"]:
        """Which codes stand for each image: one index for each group and position."""
        return self.bottleneck.indices(self.encoder(image))

    def render(self, latent: Code, *, label: Tensor | None = None) -> Image:
        """The expected image of the codes nearest to those given: a density knows nothing of a codebook."""
        here = next(self.parameters())
        return super().render(self.bottleneck.nearest(latent.to(here.device, here.dtype)), label=label)


class GaussianAutoencoder(Autoencoder):
    """An autoencoder with a Gaussian posterior for each code, and N(0, I) before it."""

    prior = "normal"
    bottleneck: Gaussian

    def posterior(self, image: Image) -> Posterior:
        """q(z|x) of each image."""
        return self.bottleneck.posterior(self.encoder(image))

    def draws(self, image: Image, k: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "k b c h w"]:
        """`k` images from draws of q(z|x) for each image: alike, never the same."""
        posterior = self.posterior(image)
        noise = torch.randn(k, *posterior.mean.shape, generator=generator).to(posterior.mean)
        return self.decode(posterior.draw(noise).flatten(0, 1)).unflatten(0, (k, -1))


class VariationalAutoencoder(GaussianAutoencoder):
    """A Gaussian autoencoder whose decoder states a density: it bounds the likelihood of an image."""

    def log_weights(self, image: Image, draw: Draw) -> Float[Tensor, "k b"]:
        """Log p(x, z) − log q(z|x) of each draw; see `Weighs`."""
        posterior = self.posterior(image)
        noise = draw("code", *self.code_shape).to(posterior.mean)
        code, k = posterior.draw(noise), len(noise)
        raw = self.decoder(code.flatten(0, 1)).float()
        log_pixels = self.likelihood.log_prob(raw, image.repeat(k, 1, 1, 1)).view(k, len(image))
        # The constants of prior and posterior cancel; ε² is ((z − μ)/σ)² without rounding.
        return log_pixels + 0.5 * (noise**2 + posterior.log_variance - code**2).flatten(2).sum(2)

    def recognition(self) -> nn.Module:
        """Encoder and bottleneck."""
        return nn.ModuleList([self.encoder, self.bottleneck])

    def generation(self) -> nn.Module:
        """Decoder and likelihood."""
        return nn.ModuleList([self.decoder, self.likelihood])

    def log_likelihood(
        self, image: Image, *, samples: int = 1, generator: torch.Generator | None = None, chunk: int = AT_ONCE
    ) -> Float[Tensor, " b"]:
        """The importance-weighted bound in nats; see `importance_bound`."""
        return importance_bound(self, image, samples=samples, generator=generator, chunk=chunk)
