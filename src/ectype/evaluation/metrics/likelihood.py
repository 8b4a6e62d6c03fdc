"""Likelihood of held-out images under a model: the terms of its evidence lower bound, and a tighter bound."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.core.random import StepContext
from ectype.evaluation.metrics.codes import HasPosterior
from ectype.models.base import HasLogLikelihood
from ectype.models.flop import count_flops
from ectype.models.likelihoods import Likelihood

__all__ = [
    "DEFAULT_BUDGET",
    "BoundBudget",
    "BoundTerms",
    "affordable_images",
    "bits_per_dimension",
    "bound_terms",
    "likelihood_of",
    "log_likelihood_bound",
]

Image = Float[Tensor, "b c h w"]


class BoundBudget(NamedTuple):
    """What the importance-weighted bound may cost where it was not asked for: each of its samples is a decoding."""

    samples: int = 64
    max_images: int = 1000
    max_flops: float = 3e12
    """Floating-point operations, about a minute of one core: large networks decode for fewer images."""
    min_images: int = 16
    """Images below which the bound is left out."""


DEFAULT_BUDGET = BoundBudget()


def affordable_images(model: nn.Module, samples: int) -> int:
    """Return the number of images whose bound of this many samples is cheap enough to be computed by default."""
    cost = count_flops(model)
    flops = samples * max(1, cost[1] if cost is not None else 1)
    return min(DEFAULT_BUDGET.max_images, int(DEFAULT_BUDGET.max_flops / flops))


def likelihood_of(model: nn.Module) -> Likelihood | None:
    """Return the likelihood that a model scores pixels with; None if it has none."""
    found = getattr(model, "likelihood", None)
    return found if isinstance(found, Likelihood) else None


class BoundTerms(NamedTuple):
    """Terms of the training loss per image, at β = 1 and for images that are not corrupted."""

    loss: Float[Tensor, " b"]
    """The likelihood's loss under one sample of q(z|x), an unbiased estimate of its expectation. In nats where it is
    −log p or differs from it by a constant."""
    kl: Float[Tensor, "b d"]
    """KL(q(z|x) ‖ N(0, I)) of each latent dimension in nats, in closed form."""
    constant: float
    """Constant of −log p of an image that `loss` omits, in nats."""

    @property
    def total(self) -> Float[Tensor, " b"]:
        """Loss + KL."""
        return self.loss + self.kl.sum(1)

    @property
    def negative_elbo(self) -> Float[Tensor, " b"]:
        """−ELBO in nats; valid only where the likelihood states a density."""
        return self.total + self.constant


def bound_terms(model: nn.Module, image: Image, context: StepContext) -> BoundTerms:
    """Compute the terms of the evidence lower bound of images.

    Args:
        model: A model with a posterior, a decoder and a likelihood.
        image: Images in [0, 1], not corrupted.
        context: Random draws; the sample of q(z|x) is taken from it.

    Raises:
        TypeError: The model has no posterior or no likelihood.
    """
    likelihood = likelihood_of(model)
    if likelihood is None or not isinstance(model, HasPosterior):
        raise TypeError(f"{type(model).__name__} has no posterior, or no likelihood of pixels.")
    posterior = model.posterior(image)
    code = posterior.sample(context.normal("bound", *posterior.mean.shape))
    loss = likelihood.loss(model.decoder(code).float(), image)  # type: ignore[operator]  # a decoder is a module
    return BoundTerms(loss.cpu(), posterior.kl().flatten(1).cpu(), likelihood.omitted_constant * image[0].numel())


def log_likelihood_bound(
    model: HasLogLikelihood, image: Image, *, samples: int, generator: torch.Generator | None = None
) -> Float[Tensor, " b"]:
    """Compute the importance-weighted lower bound of log p(x) in nats per image (Burda et al. 2016, eq. 8).

    Its expectation rises with `samples` towards log p(x), and never exceeds it.

    Args:
        model: A model that bounds the likelihood of an image.
        image: Images in [0, 1].
        samples: Samples of q(z|x) for each image, k in the paper.
        generator: Generator of the samples; None for the global one.

    Returns:
        The bound of each image, on the CPU.
    """
    return model.log_likelihood(image, samples=samples, generator=generator).cpu()


def bits_per_dimension(nats: Float[Tensor, " b"], elements: int) -> Float[Tensor, " b"]:
    """Compute −log₂ p(x) per element of the image, the length of a code per element.

    It has that meaning only where p is a probability, not a density.

    Args:
        nats: log p(x), or a lower bound of it; the result is then an upper bound.
        elements: Elements of an image, channels × height × width.

    >>> bits_per_dimension(torch.tensor([-784 * math.log(2)]), 784).tolist()
    [1.0]
    """
    return -nats / (elements * math.log(2))
