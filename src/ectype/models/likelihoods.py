"""Likelihoods: interpret the decoder's output as a distribution of pixels, or as an image with a plain loss.

`loss` is what training minimizes: in nats per image if it is a negative log-likelihood, otherwise a sum with a name of
its own. `log_prob` is defined only if the likelihood is a density, and includes all constants.
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

from ectype.config.schema import Choice, DataInfo
from ectype.core.errors import ModelError

__all__ = ["Likelihood", "LikelihoodConfig"]

Image = Float[Tensor, "b c h w"]
Raw = Float[Tensor, "b kc h w"]
PerImage = Float[Tensor, " b"]
Output = Literal["sigmoid", "linear"]

_LOG_2PI = math.log(2 * math.pi)


def _sum_per_image(x: Tensor) -> PerImage:
    return x.flatten(1).sum(1)


def _squared_error(x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(x, y, reduction="none")


class Likelihood(nn.Module):
    """Base class of likelihoods p(image | decoder output).

    Args:
        loss_name: What `loss` computes, as it is shown to users.
        density_name: Name of the density that `log_prob` is the logarithm of; None if the loss is not a likelihood.

    Example:
        >>> likelihood = MSEConfig(output="linear").build(DataInfo(channels=1, size=(2, 2)))
        >>> raw, image = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
        >>> likelihood.loss_name, likelihood.loss(raw, image)
        ('½·SSE', tensor([2.]))
        >>> likelihood.log_prob(raw, image)
        tensor([-5.6758])
    """

    params_per_element: ClassVar[int] = 1
    """Output channels of the decoder for each image channel."""
    batch_dependent: ClassVar[bool] = False
    """Whether the loss of an image depends on the other images in its batch, so that splitting a batch changes it."""
    discrete: ClassVar[bool] = False
    """Whether `log_prob` is a log-probability, so that bits per dimension are a code length."""
    linear: bool = False
    """Whether the expected image is the decoder's output, without a sigmoid."""
    omitted_constant: ClassVar[float] = 0.0
    """Nats per image element that `loss` omits from −log p."""
    loss_name: str
    density_name: str | None

    def __init__(self, loss_name: str, density_name: str | None) -> None:
        super().__init__()
        self.loss_name, self.density_name = loss_name, density_name

    def mean(self, raw: Raw) -> Image:
        """Return the expected image of a decoder output, not clamped."""
        return torch.sigmoid(raw)

    def inverse_mean(self, mean: Float[Tensor, "c h w"]) -> Float[Tensor, "kc h w"]:
        """Return the decoder output whose expected image is the given one."""
        return torch.logit(mean.clamp(1e-3, 1 - 1e-3))

    def loss(self, raw: Raw, image: Image) -> PerImage:
        """Return the loss of each image, summed over pixels and channels.

        Args:
            raw: Output of the decoder.
            image: Images in [0, 1].
        """
        raise TypeError(f"{type(self).__name__} must define loss(raw, image)")

    def log_prob(self, raw: Raw, image: Image) -> PerImage:
        """Return the log density of each image in nats, constants included.

        Args:
            raw: Output of the decoder.
            image: Images in [0, 1].

        Raises:
            ModelError: The loss is not a likelihood.
        """
        if self.density_name is None:
            raise ModelError(
                f"{self.loss_name} is not a likelihood: choose one, such as likelihood=continuous_bernoulli."
            )
        return -self.loss(raw, image) - self.omitted_constant * image[0].numel()

    def batch_statistics(self, raw: Raw, image: Image) -> dict[str, Tensor]:
        """Return the means over a batch that `update_buffers` needs."""
        return {}

    def update_buffers(self, notes: Mapping[str, Tensor]) -> None:
        """Update buffers after a training step, from statistics averaged over the global batch."""


class LikelihoodConfig(Choice):
    """Kind of likelihood."""

    family: ClassVar[str] = "likelihood"

    def build(self, info: DataInfo) -> Likelihood:
        """Build the likelihood for images of this shape."""
        raise TypeError(f"{type(self).__name__} must define build(info)")


class _LocationLikelihood(Likelihood):
    """A likelihood around a mean that is the decoder's output, or a sigmoid of it."""

    def __init__(self, loss_name: str, density_name: str, output: Output) -> None:
        super().__init__(loss_name, density_name)
        self.linear = output == "linear"

    def mean(self, raw: Raw) -> Image:
        return raw if self.linear else super().mean(raw)

    def inverse_mean(self, mean: Float[Tensor, "c h w"]) -> Float[Tensor, "kc h w"]:
        return mean if self.linear else super().inverse_mean(mean)


class _HalfSquaredError(_LocationLikelihood):
    omitted_constant = 0.5 * _LOG_2PI

    def loss(self, raw: Raw, image: Image) -> PerImage:
        return 0.5 * _sum_per_image(_squared_error(self.mean(raw), image))


class MSEConfig(LikelihoodConfig):
    """Half the sum of squared errors: a Gaussian with σ = 1 without its constant (D/2) log 2π."""

    kind: Literal["mse"] = "mse"
    output: Output = "sigmoid"

    def build(self, info: DataInfo) -> Likelihood:
        return _HalfSquaredError("½·SSE", "Gaussian σ=1", self.output)


class _Gaussian(_LocationLikelihood):
    log_sigma: Tensor

    def __init__(self, loss_name: str, density_name: str, config: GaussianConfig) -> None:
        super().__init__(loss_name, density_name, config.output)
        log_sigma = torch.tensor(math.log(config.value))
        if config.sigma == "learned":
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    def loss(self, raw: Raw, image: Image) -> PerImage:
        return self._loss_for_sigma(self.log_sigma, _squared_error(self.mean(raw), image))

    @staticmethod
    def _loss_for_sigma(log_sigma: Tensor, squared_error: Tensor) -> PerImage:
        scaled = 0.5 * _sum_per_image(squared_error) * torch.exp(-2 * log_sigma)
        return scaled + squared_error[0].numel() * (log_sigma + 0.5 * _LOG_2PI)


class _OptimalGaussian(_Gaussian):
    """σ² is the mean squared error of the batch, which is its maximum-likelihood estimate (Rybkin et al. 2021, σ-VAE).

    In training each batch is scored with its own σ; evaluation uses the running estimate in the buffer.
    """

    batch_dependent = True
    decay = 0.9

    def loss(self, raw: Raw, image: Image) -> PerImage:
        squared_error = _squared_error(self.mean(raw), image)
        log_sigma = 0.5 * torch.log(squared_error.mean() + 1e-8) if self.training else self.log_sigma
        return self._loss_for_sigma(log_sigma, squared_error)

    def batch_statistics(self, raw: Raw, image: Image) -> dict[str, Tensor]:
        return {"σ²": _squared_error(self.mean(raw), image).mean()}

    def update_buffers(self, notes: Mapping[str, Tensor]) -> None:
        log_sigma = 0.5 * torch.log(notes["σ²"] + 1e-8)
        self.log_sigma.lerp_(log_sigma.to(self.log_sigma), 1 - self.decay)


class GaussianConfig(LikelihoodConfig):
    """Gaussian pixels, constants included."""

    kind: Literal["gaussian"] = "gaussian"
    output: Output = "sigmoid"
    sigma: Literal["fixed", "learned", "optimal"] = "optimal"
    value: Annotated[float, Field(gt=0, le=1000)] = 0.1
    """σ if it is fixed, otherwise its initial value; pixels are in [0, 1]."""

    def build(self, info: DataInfo) -> Likelihood:
        name = f"Gaussian σ={self.value:g}" if self.sigma == "fixed" else f"Gaussian, {self.sigma} σ"
        return (_OptimalGaussian if self.sigma == "optimal" else _Gaussian)(f"−log p ({name})", name, self)


class _AbsoluteError(_LocationLikelihood):
    omitted_constant = math.log(2)

    def loss(self, raw: Raw, image: Image) -> PerImage:
        return _sum_per_image(F.l1_loss(self.mean(raw), image, reduction="none"))


class L1Config(LikelihoodConfig):
    """The sum of absolute errors: a Laplace density with scale 1 without its constant."""

    kind: Literal["l1"] = "l1"
    output: Output = "sigmoid"

    def build(self, info: DataInfo) -> Likelihood:
        return _AbsoluteError("SAE", "Laplace b=1", self.output)


class _CrossEntropy(Likelihood):
    def loss(self, raw: Raw, image: Image) -> PerImage:
        return _sum_per_image(F.binary_cross_entropy_with_logits(raw, image, reduction="none"))


class BCEConfig(LikelihoodConfig):
    """Binary cross-entropy for pixels in [0, 1]; a likelihood only if all pixels are 0 or 1, see `bernoulli`."""

    kind: Literal["bce"] = "bce"

    def build(self, info: DataInfo) -> Likelihood:
        return _CrossEntropy("BCE", None)


class _Bernoulli(_CrossEntropy):
    discrete = True


class BernoulliConfig(LikelihoodConfig):
    """Bernoulli pixels; the data must be binarized."""

    kind: Literal["bernoulli"] = "bernoulli"

    def build(self, info: DataInfo) -> Likelihood:
        if not info.binary:
            raise ModelError(
                "likelihood=bernoulli needs pixels that are 0 or 1: set data.binarise=dynamic, "
                "or keep gray pixels with likelihood=continuous_bernoulli."
            )
        return _Bernoulli("−log p (Bernoulli)", "Bernoulli")


class _ContinuousBernoulli(Likelihood):
    """Density C(λ) λˣ (1 − λ)¹⁻ˣ on [0, 1] (Loaiza-Ganem and Cunningham 2019).

    With the logit l of λ, C = l / tanh(l/2), an even function with C(0) = 2.
    """

    def mean(self, raw: Raw) -> Image:
        small = raw.abs() < 1e-2
        # mean(−l) = 1 − mean(l), and only e⁻ˡ of a positive l has a gradient that cannot overflow.
        safe = torch.where(small, torch.ones_like(raw), raw).abs()
        above = 1 / -torch.expm1(-safe) - 1 / safe
        return torch.where(small, 0.5 + raw / 12, torch.where(raw < 0, 1 - above, above))

    def inverse_mean(self, mean: Float[Tensor, "c h w"]) -> Float[Tensor, "kc h w"]:
        target = mean.clamp(1e-2, 1 - 1e-2)
        low, high = torch.full_like(mean, -200.0), torch.full_like(mean, 200.0)
        for _ in range(40):  # bisection, far beyond the precision of a float
            middle = (low + high) / 2
            over = self.mean(middle[None])[0] > target
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        return (low + high) / 2

    def loss(self, raw: Raw, image: Image) -> PerImage:
        small = raw.abs() < 1e-2
        safe = torch.where(small, torch.ones_like(raw), raw).abs()
        log_constant = torch.where(small, math.log(2) + raw**2 / 12, torch.log(safe) - torch.log(torch.tanh(safe / 2)))
        return _sum_per_image(F.binary_cross_entropy_with_logits(raw, image, reduction="none") - log_constant)


class ContinuousBernoulliConfig(LikelihoodConfig):
    """Continuous Bernoulli pixels: cross-entropy on gray pixels plus the constant that makes it a likelihood."""

    kind: Literal["continuous_bernoulli"] = "continuous_bernoulli"

    def build(self, info: DataInfo) -> Likelihood:
        return _ContinuousBernoulli("−log p (continuous Bernoulli)", "continuous Bernoulli")


class _DiscretizedLogistic(Likelihood):
    """Probability of a pixel's bin of 256 under a logistic distribution (Salimans et al. 2017, PixelCNN++).

    The outermost bins extend to infinity. The decoder returns a mean and a log scale for each image element.
    """

    params_per_element = 2
    discrete = True

    def mean(self, raw: Raw) -> Image:
        return torch.sigmoid(raw.chunk(2, dim=1)[0])

    def inverse_mean(self, mean: Float[Tensor, "c h w"]) -> Float[Tensor, "kc h w"]:
        return torch.cat([super().inverse_mean(mean), torch.zeros_like(mean)])

    def loss(self, raw: Raw, image: Image) -> PerImage:
        center, log_scale = raw.chunk(2, dim=1)
        # The initial scale e⁻² is wide; below e⁻⁷ a single bin holds all of the probability and gradients vanish.
        inverse_scale = torch.exp(-(log_scale - 2).clamp(min=-7.0))
        distance = torch.round(image * 255) / 255 - torch.sigmoid(center)
        upper, lower = (inverse_scale * (distance + 0.5 / 255), inverse_scale * (distance - 0.5 / 255))
        lowest, highest = F.logsigmoid(upper), F.logsigmoid(-lower)
        # σ(u) − σ(l) = σ(u) σ(−l) (1 − eˡ⁻ᵘ), which keeps its gradient far from the mean on either side.
        inner = lowest + highest + torch.log((-torch.expm1(-inverse_scale / 255)).clamp(min=1e-12))
        log_prob = torch.where(image < 0.5 / 255, lowest, torch.where(image > 254.5 / 255, highest, inner))
        return -_sum_per_image(log_prob)


class DiscretizedLogisticConfig(LikelihoodConfig):
    """A probability for each of the 256 values of a pixel."""

    kind: Literal["discretised_logistic"] = "discretised_logistic"

    def build(self, info: DataInfo) -> Likelihood:
        return _DiscretizedLogistic("−log p (discretised logistic)", "discretised logistic")
