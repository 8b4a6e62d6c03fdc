"""What a decoder's numbers say about an image: each a distribution of pixels, or a sum that is none and says so.

`loss` is what training minimises, in nats per image where it is a likelihood's and under its own name where it is not.
`log_prob` exists only where a density is stated, constants included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.errors import ModelError
from ectype.sections import Choice, DataInfo

__all__ = ["Likelihood", "LikelihoodConfig"]

Image = Float[Tensor, "b c h w"]
Raw = Float[Tensor, "b kc h w"]
PerImage = Float[Tensor, " b"]
Output = Literal["sigmoid", "linear"]

_LOG_2PI = math.log(2 * math.pi)


def _sum(x: Tensor) -> PerImage:
    return x.flatten(1).sum(1)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(x, y, reduction="none")


class Likelihood(nn.Module):
    """Turns the decoder's numbers into pixels and scores them against an image."""

    heads: ClassVar[int] = 1
    """Numbers that the decoder gives for each number of the image."""
    whole: ClassVar[bool] = False
    """Whether the loss depends on how a batch is split."""
    discrete: ClassVar[bool] = False
    """Whether `log_prob` is a probability, so that bits per dimension are a code's length."""
    linear: bool = False
    """Whether the expected image is what the decoder gives, as it is."""
    constant: ClassVar[float] = 0.0
    """What `loss` leaves out of −log p for each number of an image, in nats."""
    loss_name: str
    """What `loss` is, under its true name."""
    density: str | None
    """The density whose logarithm `log_prob` is; None if the loss is no likelihood."""

    def __init__(self, loss_name: str, density: str | None) -> None:
        super().__init__()
        self.loss_name, self.density = loss_name, density

    def mean(self, raw: Raw) -> Image:
        """The expected image, not clamped."""
        return torch.sigmoid(raw)

    def start(self, mean: Float[Tensor, "c h w"]) -> Float[Tensor, "kc h w"]:
        """What the decoder should give for its mean to be this image."""
        return torch.logit(mean.clamp(1e-3, 1 - 1e-3))

    def loss(self, raw: Raw, image: Image) -> PerImage:
        """Summed over pixels and channels; −log p where that is its name."""
        raise TypeError(f"{type(self).__name__} must define loss(raw, image)")

    def log_prob(self, raw: Raw, image: Image) -> PerImage:
        """Log density of each image in nats, constants included.

        Raises:
            ModelError: The loss is no likelihood.
        """
        if self.density is None:
            raise ModelError(f"{self.loss_name} is no likelihood: choose one, such as likelihood=continuous_bernoulli.")
        return -self.loss(raw, image) - self.constant * image[0].numel()

    def notes(self, raw: Raw, image: Image) -> dict[str, Tensor]:
        """What `observe` wants to know of a batch: means over its images."""
        return {}

    def observe(self, notes: Mapping[str, Tensor]) -> None:
        """Change buffers after a move, from notes averaged over the global batch."""


class LikelihoodConfig(Choice):
    """How an image is scored under the decoder's numbers."""

    family: ClassVar[str] = "likelihood"

    def build(self, info: DataInfo) -> Likelihood:
        """The likelihood for images of that shape."""
        raise TypeError(f"{type(self).__name__} must define build(info)")


class _Pixels(Likelihood):
    """A likelihood around a mean that is a sigmoid's or the decoder's own."""

    def __init__(self, loss_name: str, density: str, output: Output) -> None:
        super().__init__(loss_name, density)
        self.linear = output == "linear"

    def mean(self, raw: Raw) -> Image:
        return raw if self.linear else super().mean(raw)

    def start(self, mean: Float[Tensor, "c h w"]) -> Float[Tensor, "kc h w"]:
        return mean if self.linear else super().start(mean)


class _HalfSquares(_Pixels):
    constant = 0.5 * _LOG_2PI

    def loss(self, raw: Raw, image: Image) -> PerImage:
        return 0.5 * _sum(_squares(self.mean(raw), image))


class MSEConfig(LikelihoodConfig):
    """Half the sum of squared errors, the Gaussian of σ = 1 without its constant (D/2) log 2π."""

    kind: Literal["mse"] = "mse"
    output: Output = "sigmoid"

    def build(self, info: DataInfo) -> Likelihood:
        return _HalfSquares("½·SSE", "Gaussian σ=1", self.output)


class _Gaussian(_Pixels):
    log_sigma: Tensor

    def __init__(self, loss_name: str, density: str, config: GaussianConfig) -> None:
        super().__init__(loss_name, density, config.output)
        log_sigma = torch.tensor(math.log(config.value))
        if config.sigma == "learned":
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    def loss(self, raw: Raw, image: Image) -> PerImage:
        return self._under(self.log_sigma, _squares(self.mean(raw), image))

    @staticmethod
    def _under(log_sigma: Tensor, squares: Tensor) -> PerImage:
        return 0.5 * _sum(squares) * torch.exp(-2 * log_sigma) + squares[0].numel() * (log_sigma + 0.5 * _LOG_2PI)


class _OptimalGaussian(_Gaussian):
    """σ² is the mean squared error of the batch, which fits it best (Rybkin et al. 2021, σ-VAE).

    Training scores each batch under its own σ; the buffer follows it and stands for σ everywhere else.
    """

    whole = True
    decay = 0.9

    def loss(self, raw: Raw, image: Image) -> PerImage:
        squares = _squares(self.mean(raw), image)
        return self._under(0.5 * torch.log(squares.mean() + 1e-8) if self.training else self.log_sigma, squares)

    def notes(self, raw: Raw, image: Image) -> dict[str, Tensor]:
        return {"σ²": _squares(self.mean(raw), image).mean()}

    def observe(self, notes: Mapping[str, Tensor]) -> None:
        now = 0.5 * torch.log(notes["σ²"] + 1e-8)
        self.log_sigma.lerp_(now.to(self.log_sigma), 1 - self.decay)


class GaussianConfig(LikelihoodConfig):
    """Gaussian pixels, constants included."""

    kind: Literal["gaussian"] = "gaussian"
    output: Output = "sigmoid"
    sigma: Literal["fixed", "learned", "optimal"] = "optimal"
    value: Annotated[float, Field(gt=0)] = 0.1
    """σ where it is fixed, and where it starts otherwise; in units of the pixel range."""

    def build(self, info: DataInfo) -> Likelihood:
        name = f"Gaussian σ={self.value:g}" if self.sigma == "fixed" else f"Gaussian, {self.sigma} σ"
        return (_OptimalGaussian if self.sigma == "optimal" else _Gaussian)(f"−log p ({name})", name, self)


class _Absolute(_Pixels):
    constant = math.log(2)

    def loss(self, raw: Raw, image: Image) -> PerImage:
        return _sum(F.l1_loss(self.mean(raw), image, reduction="none"))


class L1Config(LikelihoodConfig):
    """The sum of absolute errors, a Laplace density of scale 1 without its constant."""

    kind: Literal["l1"] = "l1"
    output: Output = "sigmoid"

    def build(self, info: DataInfo) -> Likelihood:
        return _Absolute("SAE", "Laplace b=1", self.output)


class _CrossEntropy(Likelihood):
    def loss(self, raw: Raw, image: Image) -> PerImage:
        return _sum(F.binary_cross_entropy_with_logits(raw, image, reduction="none"))


class BCEConfig(LikelihoodConfig):
    """Binary cross-entropy on pixels in [0, 1]: no likelihood unless they are 0 or 1, for which see `bernoulli`."""

    kind: Literal["bce"] = "bce"

    def build(self, info: DataInfo) -> Likelihood:
        return _CrossEntropy("BCE", None)


class _Bernoulli(_CrossEntropy):
    discrete = True


class BernoulliConfig(LikelihoodConfig):
    """Bernoulli pixels; the data must be binarised."""

    kind: Literal["bernoulli"] = "bernoulli"

    def build(self, info: DataInfo) -> Likelihood:
        if not info.binary:
            raise ModelError(
                "likelihood=bernoulli scores pixels that are 0 or 1: add data.binarise=dynamic, "
                "or keep grey pixels with likelihood=continuous_bernoulli."
            )
        return _Bernoulli("−log p (Bernoulli)", "Bernoulli")


class _ContinuousBernoulli(Likelihood):
    """Density C(λ) λˣ (1 − λ)¹⁻ˣ on [0, 1] (Loaiza-Ganem and Cunningham 2019).

    In the logit l of λ, C = l / tanh(l/2), an even function with C(0) = 2.
    """

    def mean(self, raw: Raw) -> Image:
        small = raw.abs() < 1e-2
        # The mean at −l is 1 less the mean at l, and only e⁻ˡ of a positive l has a gradient that cannot overflow.
        safe = torch.where(small, torch.ones_like(raw), raw).abs()
        above = 1 / -torch.expm1(-safe) - 1 / safe
        return torch.where(small, 0.5 + raw / 12, torch.where(raw < 0, 1 - above, above))

    def start(self, mean: Float[Tensor, "c h w"]) -> Float[Tensor, "kc h w"]:
        wanted = mean.clamp(1e-2, 1 - 1e-2)
        low, high = torch.full_like(mean, -200.0), torch.full_like(mean, 200.0)
        for _ in range(40):  # halvings: far beyond what a float tells apart
            middle = (low + high) / 2
            over = self.mean(middle[None])[0] > wanted
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        return (low + high) / 2

    def loss(self, raw: Raw, image: Image) -> PerImage:
        small = raw.abs() < 1e-2
        safe = torch.where(small, torch.ones_like(raw), raw).abs()
        constant = torch.where(small, math.log(2) + raw**2 / 12, torch.log(safe) - torch.log(torch.tanh(safe / 2)))
        return _sum(F.binary_cross_entropy_with_logits(raw, image, reduction="none") - constant)


class ContinuousBernoulliConfig(LikelihoodConfig):
    """Continuous Bernoulli pixels: what cross-entropy on grey pixels lacks to be a likelihood."""

    kind: Literal["continuous_bernoulli"] = "continuous_bernoulli"

    def build(self, info: DataInfo) -> Likelihood:
        return _ContinuousBernoulli("−log p (continuous Bernoulli)", "continuous Bernoulli")


class _DiscretisedLogistic(Likelihood):
    """Probability that a logistic variable falls into the pixel's one of 256 bins (Salimans et al. 2017, PixelCNN++).

    The outermost bins reach to infinity. The decoder gives a mean and a log scale per number.
    """

    heads = 2
    discrete = True

    def mean(self, raw: Raw) -> Image:
        return torch.sigmoid(raw.chunk(2, dim=1)[0])

    def start(self, mean: Float[Tensor, "c h w"]) -> Float[Tensor, "kc h w"]:
        return torch.cat([super().start(mean), torch.zeros_like(mean)])

    def loss(self, raw: Raw, image: Image) -> PerImage:
        centre, log_scale = raw.chunk(2, dim=1)
        # A scale e⁻² is wide at first; below e⁻⁷ a bin holds all there is and gradients vanish.
        inverse = torch.exp(-(log_scale - 2).clamp(min=-7.0))
        distance = torch.round(image * 255) / 255 - torch.sigmoid(centre)
        upper, lower = inverse * (distance + 0.5 / 255), inverse * (distance - 0.5 / 255)
        lowest, highest = F.logsigmoid(upper), F.logsigmoid(-lower)
        # σ(u) − σ(l) = σ(u) σ(−l) (1 − eˡ⁻ᵘ), which keeps its gradient far from the mean on either side.
        inner = lowest + highest + torch.log((-torch.expm1(-inverse / 255)).clamp(min=1e-12))
        return -_sum(torch.where(image < 0.5 / 255, lowest, torch.where(image > 254.5 / 255, highest, inner)))


class DiscretisedLogisticConfig(LikelihoodConfig):
    """A probability for each of the 256 values of a pixel."""

    kind: Literal["discretised_logistic"] = "discretised_logistic"

    def build(self, info: DataInfo) -> Likelihood:
        return _DiscretisedLogistic("−log p (discretised logistic)", "discretised logistic")
