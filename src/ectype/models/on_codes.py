"""A model of the codes of another: what it makes are codes, and a frozen decoder makes images of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ectype.data.batch import Moment
from ectype.errors import ModelError
from ectype.models.autoencoder import Autoencoder, GaussianAutoencoder
from ectype.models.base import Encodes, Exports, FromLatents, Model, StartsFromData, evaluating
from ectype.models.flow import FlowConfig
from ectype.sections import DataInfo, ModelConfig, Section
from ectype.untrusted import load_tensors

__all__ = ["Coder", "OnCodes", "OnCodesConfig"]

Image = Float[Tensor, "b c h w"]
Code = Float[Tensor, " b *code"]
Placed = Float[Tensor, "b k y x"]
"""A code as the inner model has it: of k channels, between about 0 and 1."""
REACH = 4.0
"""Deviations of a number of the code that come to lie between 0 and 1, to either side."""
AT_ONCE = 256
"""Images that are coded together."""


class Coder(Section):
    """The model whose codes are meant."""

    run: str | None = None
    """The run that trained it, or its model directory. Its weights are taken from there once, at the start."""
    model: ModelConfig | None = None
    """What it is."""


class OnCodesConfig(ModelConfig):
    """A model that makes images, set upon the codes of another that stays as it is; without one, upon the images."""

    kind: Literal["on_codes"] = "on_codes"
    coder: Coder = Coder()
    inner: ModelConfig = FlowConfig()
    """What learns the codes."""

    def on_codes(self, shape: tuple[int, ...]) -> OnCodesConfig:
        return self.model_copy(update={"inner": self.inner.on_codes(shape)})

    def upon(self, run: Path, model: ModelConfig) -> OnCodesConfig:
        return self.model_copy(update={"coder": Coder(run=str(run), model=model)})

    def shipped(self) -> OnCodesConfig:
        return self.model_copy(update={"coder": self.coder.model_copy(update={"run": None})})

    def build(self, info: DataInfo) -> Model:
        if self.coder.model is None:
            built = self.inner.build(info)
            assert isinstance(built, Model)
            return built
        return OnCodes(self, info)


class OnCodes(FromLatents):
    """Codes as the images of another model: each channel moved and scaled to lie between 0 and 1, mean at ½.

    A code is drawn from q(z|x) where there is one, which also fills what a variational autoencoder leaves unused.

    Attributes:
        conditional: Whether the inner model is told labels.
        inner: It samples codes.
        code_info: What `inner` knows of them: a vector is a map of one place.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, config: OnCodesConfig, info: DataInfo) -> None:
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
        channels, *size = coder.code_shape
        height, width = size or (1, 1)
        self.code_info = info._replace(channels=channels, size=(height, width), binary=False, target=None)
        inner = config.inner.build(self.code_info)
        if not isinstance(inner, FromLatents):
            raise ModelError(f"model.inner.kind={config.inner.kind} makes nothing of noise: choose flow or generator.")
        self.inner = inner
        self.conditional = inner.conditional
        self.register_buffer("centre", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))

    def train(self, mode: bool = True) -> OnCodes:
        """As of any module, but the coder stays as it is."""
        super().train(mode)
        self.coder.eval()
        return self

    # ── The coder ────────────────────────────────────────────────────────────────────────────────────────────────────

    def start_from_weights(self) -> None:
        """Take the coder's weights from its run. Raises `ModelError` where they cannot be had."""
        place = Path(self._run or "")
        file = next((f for f in (place / "model.safetensors", place / "model/model.safetensors") if f.is_file()), None)
        if file is None:
            raise ModelError(f"no model at '{self._run}', whose codes are meant: give a run that has one.")
        try:
            self.coder.load_state_dict(load_tensors(file))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"the weights in '{file}' are not of model.coder ({reason}).") from None

    @torch.no_grad()
    def start_from(self, mean: Float[Tensor, "c h w"], some: Callable[[], Float[Tensor, "n c h w"]]) -> None:
        """Measure mean and spread of each channel of training codes, and let the inner model measure what it wants."""
        images, generator = some(), torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(mean)

        with evaluating(self):
            codes = torch.cat([self._map(self._drawn(part.to(mean), noise)) for part in images.split(AT_ONCE)])
        self.centre.copy_(codes.mean((0, 2, 3)).view_as(self.centre))
        spread = codes.transpose(0, 1).flatten(1).std(1)
        self.spread.copy_(spread.clamp(min=1e-6).view_as(self.spread))
        if isinstance(self.inner, StartsFromData):
            placed = self._placed(codes)
            self.inner.start_from(placed.mean(0), lambda: placed)

    def _map(self, code: Code) -> Placed:
        return code.float().view(len(code), *self.code_info.shape)

    def _placed(self, code: Placed) -> Placed:
        return 0.5 + (code - self.centre) / (2 * REACH * self.spread)

    def codes(self, image: Image, moment: Moment) -> Placed:
        """Codes of images as the inner model has them, drawn where the coder draws them."""
        return self._placed(self._map(self._drawn(image, lambda *shape: moment.normal("code", *shape))))

    def _drawn(self, image: Image, noise: Callable[..., Tensor]) -> Code:
        if not isinstance(self.coder, GaussianAutoencoder):
            return self.encode(image)
        posterior = self.coder.posterior(image)
        return posterior.draw(noise(*posterior.mean.shape))

    def encode(self, image: Image) -> Code:
        """The coder's code of each image."""
        assert isinstance(self.coder, Encodes)
        return self.coder.encode(image)

    def decode(self, code: Code) -> Image:
        """The coder's image of each code."""
        assert isinstance(self.coder, Encodes)
        return self.coder.decode(code)

    def reconstruct(self, image: Image) -> Image:
        """Each image through the coder and back: as good as samples can get."""
        return self.decode(self.encode(image))

    def exports(self) -> dict[str, tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]]:
        """The graphs that the inner model names: of codes."""
        return dict(self.inner.exports()) if isinstance(self.inner, Exports) else {}

    # ── Samples ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def latents(self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None) -> Tensor:
        """`n` draws of what the inner model begins with."""
        return self.inner.latents(n, truncation=truncation, generator=generator)

    def render(self, latent: Tensor, *, label: Int[Tensor, " n"] | None = None) -> Image:
        """The decoded image of the code that the inner model makes of each latent."""
        placed = self.inner.render(latent, label=label)
        code = self.centre + 2 * REACH * self.spread * (placed - 0.5)
        code = code.view(len(code), *self.code_shape)
        # An autoencoder's, for where codes are finitely many it takes the nearest of them.
        return self.coder.render(code) if isinstance(self.coder, Autoencoder) else self.decode(code)
