"""A generative model of the codes of a frozen autoencoder, whose decoder turns generated codes into images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ModelConfig, Section
from ectype.core.errors import ModelError
from ectype.core.random import StepContext
from ectype.core.safe_loading import load_tensors
from ectype.models.autoencoder import MAX_IMAGES_PER_ENCODE, Autoencoder, GaussianAutoencoder
from ectype.models.base import Encodes, HasExportGraphs, InitializesFromData, Model, evaluating
from ectype.models.flow import FlowConfig
from ectype.models.noise_to_image import NoiseToImageModel

__all__ = [
    "FrozenCoderConfig",
    "LatentSpaceConfig",
    "LatentSpaceModel",
    "LearnsCodesConfig",
    "denormalize",
    "map_shape",
]

Image = Float[Tensor, "b c h w"]
Code = Float[Tensor, " b *code"]
NormalizedCode = Float[Tensor, "b k y x"]
"""A code as the inner model gets it: a map of k channels with values mostly in [0, 1]."""
STDS_IN_HALF_RANGE = 4.0
"""Codes are scaled so that this many standard deviations below and above the mean fill [0, 1]."""


def map_shape(code_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape of a code as a map; a vector becomes a map of one position."""
    channels, *size = code_shape
    height, width = size or (1, 1)
    return channels, height, width


def denormalize(code: NormalizedCode, centre: Tensor, spread: Tensor) -> NormalizedCode:
    """Return codes with the mean and standard deviation of each channel from those that the inner model generates."""
    return centre + 2 * STDS_IN_HALF_RANGE * spread * (code - 0.5)


class FrozenCoderConfig(Section):
    """The frozen model that encodes and decodes."""

    run: str | None = None
    """The run that trained it, or its model directory. The weights are copied from there once, at the start."""
    model: ModelConfig | None = None
    """Its configuration."""


class LearnsCodesConfig(ModelConfig):
    """Base class of models that can learn the codes of an autoencoder instead of pixels."""

    autoencoder: str = "none"
    """The preset of an autoencoder that is trained first, in the same run and within its budget, if no run of one is
    given. none: pixels are learned. auto: `ae` for images with a side of more than 32 pixels; none for smaller ones,
    and if settings that only concern pixels were changed; see `ectype.training.autoencoder_first`."""
    autoencoder_share: float = Field(default=0.5, gt=0, lt=1)
    """Fraction of the budget that is spent on it. It is taken from `train.minutes`, and added to `train.images`, which
    are those of the model of the codes."""

    def with_autoencoder(self, name: str) -> LatentSpaceConfig:
        """Return the configuration that learns the codes of an autoencoder, which is trained first."""
        raise TypeError(f"{type(self).__name__} must define with_autoencoder(name)")


class LatentSpaceConfig(LearnsCodesConfig):
    """A generative model of another model's codes; without a coder, the inner model is trained on images."""

    kind: Literal["on_codes"] = "on_codes"
    coder: FrozenCoderConfig = FrozenCoderConfig()
    inner: ModelConfig = FlowConfig()
    """The generative model of the codes."""

    def with_autoencoder(self, name: str) -> LatentSpaceConfig:
        return self.model_copy(update={"autoencoder": name})

    def on_codes(self, shape: tuple[int, ...]) -> LatentSpaceConfig:
        return self.model_copy(update={"inner": self.inner.on_codes(shape)})

    def on_encoder_run(self, run: Path, model: ModelConfig) -> LatentSpaceConfig:
        coder = FrozenCoderConfig(run=str(run), model=model)
        return self.model_copy(update={"autoencoder": "none", "coder": coder})

    def without_local_paths(self) -> LatentSpaceConfig:
        return self.model_copy(update={"coder": self.coder.model_copy(update={"run": None})})

    def build(self, info: DataInfo) -> Model:
        if self.coder.model is None:
            built = self.inner.build(info)
            assert isinstance(built, Model)
            return built
        return LatentSpaceModel(self, info)


class LatentSpaceModel(NoiseToImageModel):
    """A generative model whose inner model treats codes as images: each channel is scaled to [0, 1] with mean ½.

    If the coder has a posterior q(z|x), codes are drawn from it. The noise also fills the code dimensions that a
    variational autoencoder does not use.

    Args:
        config: The coder and the inner model.
        info: Shape and classes of the images.

    Attributes:
        conditional: Whether the inner model is conditioned on class labels.
        coder: The frozen model that encodes and decodes.
        inner: The model that samples normalized codes.
        code_info: The shape of the codes as the inner model sees them; a vector becomes a map of one position.

    Raises:
        ModelError: The coder has no codes, or the inner model does not generate from noise.
    """

    centre: Tensor
    """Mean of each channel of the training codes."""
    spread: Tensor
    """Standard deviation of each channel of the training codes."""

    def __init__(self, config: LatentSpaceConfig, info: DataInfo) -> None:
        super().__init__(info)
        assert config.coder.model is not None
        self._run = config.coder.run
        coder = config.coder.model.build(info)
        if not isinstance(coder, Encodes):
            raise ModelError(
                f"model.coder.model.kind={config.coder.model.kind} has no codes: give the run of an autoencoder."
            )
        self.coder = coder.requires_grad_(False).eval()
        self.code_shape = coder.code_shape
        channels, *size = map_shape(coder.code_shape)
        self.code_info = info._replace(channels=channels, size=(size[0], size[1]), binary=False, target=None)
        inner = config.inner.build(self.code_info)
        if not isinstance(inner, NoiseToImageModel):
            raise ModelError(
                f"model.inner.kind={config.inner.kind} does not generate from noise: choose flow or generator."
            )
        self.inner = inner
        self.conditional = inner.conditional
        self.register_buffer("centre", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))

    def train(self, mode: bool = True) -> LatentSpaceModel:
        """Set the training mode of all submodules except the coder, which stays in evaluation mode."""
        super().train(mode)
        self.coder.eval()
        return self

    # ── The coder ────────────────────────────────────────────────────────────────────────────────────────────────────

    def load_pretrained_weights(self) -> None:
        """Load the coder's weights from its run.

        Raises:
            ModelError: The weights are missing, or do not fit.
        """
        place = Path(self._run or "")
        file = next((f for f in (place / "model.safetensors", place / "model/model.safetensors") if f.is_file()), None)
        if file is None:
            raise ModelError(f"no model to encode images with at '{self._run}': give a run that has one.")
        try:
            self.coder.load_state_dict(load_tensors(file))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"the weights in '{file}' do not fit model.coder ({reason}).") from None

    @torch.no_grad()
    def initialize_from_data(
        self, mean: Float[Tensor, "c h w"], get_images: Callable[[], Float[Tensor, "n c h w"]]
    ) -> None:
        """Measure the mean and standard deviation of each channel of the training codes; initialize the inner model.

        Args:
            mean: Mean training image, in [0, 1].
            get_images: Returns a sample of the training images, in [0, 1].
        """
        images, generator = get_images(), torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(mean)

        with evaluating(self):
            codes = torch.cat(
                [
                    self._draw(self.encode_posterior(part.to(mean)), noise)
                    for part in images.split(MAX_IMAGES_PER_ENCODE)
                ]
            )
        self.centre.copy_(codes.mean((0, 2, 3)).view_as(self.centre))
        spread = codes.transpose(0, 1).flatten(1).std(1)
        self.spread.copy_(spread.clamp(min=1e-6).view_as(self.spread))
        if isinstance(self.inner, InitializesFromData):
            normalized = self._normalize(codes)
            self.inner.initialize_from_data(normalized.mean(0), lambda: normalized)

    def _normalize(self, code: NormalizedCode) -> NormalizedCode:
        return 0.5 + (code - self.centre) / (2 * STDS_IN_HALF_RANGE * self.spread)

    def encode_posterior(self, image: Image) -> Float[Tensor, "b s *code"]:
        """Return what `normalized_codes` draws codes from: the code; or the posterior's mean and standard deviation."""
        if isinstance(self.coder, GaussianAutoencoder):
            posterior = self.coder.posterior(image)
            return torch.stack([posterior.mean, posterior.sigma], dim=1)
        code = self.coder.continuous_code(image) if isinstance(self.coder, Autoencoder) else self.encode(image)
        return code[:, None]

    def normalized_codes(self, posterior: Float[Tensor, "b s *code"], context: StepContext) -> NormalizedCode:
        """Return codes as the inner model gets them, drawn from the posterior if there is one.

        Args:
            posterior: From `encode_posterior`.
            context: Draws the noise.
        """
        return self._normalize(self._draw(posterior, lambda *shape: context.normal("code", *shape)))

    def _draw(self, posterior: Float[Tensor, "b s *code"], noise: Callable[..., Tensor]) -> NormalizedCode:
        mean, *std = posterior.unbind(1)
        code = mean + std[0] * noise(*mean.shape) if std else mean
        return code.float().view(len(code), *self.code_info.shape)

    def encode(self, image: Image) -> Code:
        """Return the coder's code of each image."""
        assert isinstance(self.coder, Encodes)
        return self.coder.encode(image)

    def decode(self, code: Code) -> Image:
        """Return the coder's image of each code."""
        assert isinstance(self.coder, Encodes)
        return self.coder.decode(code)

    def reconstruct(self, image: Image) -> Image:
        """Encode and decode images with the coder; this is an upper limit of the quality of samples."""
        return self.decode(self.encode(image))

    def export_graphs(self) -> dict[str, tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]]:
        """Return the graphs of the inner model, which work on codes."""
        return dict(self.inner.export_graphs()) if isinstance(self.inner, HasExportGraphs) else {}

    # ── Samples ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def sample_latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw `n` latents of the inner model."""
        return self.inner.sample_latents(n, truncation=truncation, generator=generator)

    def render(self, latent: Tensor, *, label: Int[Tensor, " n"] | None = None) -> Image:
        """Generate a code from each latent with the inner model, and decode it.

        Args:
            latent: Latents, from `sample_latents`.
            label: Class indices, for a conditional inner model.

        Returns:
            Images in [0, 1].
        """
        normalized = self.inner.render(latent, label=label)
        code = denormalize(normalized, self.centre, self.spread).view(-1, *self.code_shape)
        # An autoencoder with a codebook takes the nearest entries first, as in training; `decode` does not.
        return self.coder.render(code) if isinstance(self.coder, Autoencoder) else self.decode(code)
