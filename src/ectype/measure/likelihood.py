"""What a model says of the density of held-out images: the terms of its bound, and a tighter one."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.data.batch import Moment
from ectype.measure.codes import HasPosterior
from ectype.measure.cost import flop
from ectype.models.base import Scores
from ectype.models.likelihoods import Likelihood

__all__ = ["QUICK", "BoundTerms", "affordable", "bits_per_dimension", "bound_terms", "likelihood_of", "weighted_bound"]

Image = Float[Tensor, "b c h w"]


class _Quick(NamedTuple):
    """What the importance-weighted bound may cost where nobody asks for it: each of its draws is a decoding."""

    samples: int = 64
    images: int = 1000
    arithmetic: float = 3e12
    """Floating-point operations, a minute of one core: large networks decode for fewer images."""
    least: int = 16
    """Images below which it is left out."""


QUICK = _Quick()


def affordable(model: nn.Module, samples: int) -> int:
    """Images whose bound of so many draws is cheap enough to be computed unasked."""
    cost = flop(model)
    each = samples * max(1, cost[1] if cost is not None else 1)
    return min(QUICK.images, int(QUICK.arithmetic / each))


def likelihood_of(model: nn.Module) -> Likelihood | None:
    """How a model scores pixels; None if it does not."""
    found = getattr(model, "likelihood", None)
    return found if isinstance(found, Likelihood) else None


class BoundTerms(NamedTuple):
    """What training summed up, per image and under its true name, at β = 1 and from the image as it is."""

    loss: Float[Tensor, " b"]
    """The likelihood's loss under one draw of q(z|x): an unbiased estimate of its expectation. In nats where it is −log
    p or lacks only a constant of it."""
    kl: Float[Tensor, "b d"]
    """KL(q(z|x) ‖ N(0, I)) in nats for each number of the code, in closed form."""
    constant: float
    """What `loss` leaves out of −log p for a whole image, in nats."""

    @property
    def total(self) -> Float[Tensor, " b"]:
        """Loss + KL."""
        return self.loss + self.kl.sum(1)

    @property
    def negative_elbo(self) -> Float[Tensor, " b"]:
        """−ELBO in nats. Only where the likelihood states a density."""
        return self.total + self.constant


def bound_terms(model: nn.Module, image: Image, moment: Moment) -> BoundTerms:
    """The terms of images that are not corrupted.

    Args:
        model: With a posterior, a decoder and a likelihood.
        image: In [0, 1].
        moment: Of the draw of q(z|x).
    """
    likelihood = likelihood_of(model)
    if likelihood is None or not isinstance(model, HasPosterior):
        raise TypeError(f"{type(model).__name__} has no posterior or scores no pixels.")
    posterior = model.posterior(image)
    code = posterior.draw(moment.normal("bound", *posterior.mean.shape))
    loss = likelihood.loss(model.decoder(code).float(), image)  # type: ignore[operator]  # a decoder is a module
    return BoundTerms(loss.cpu(), posterior.kl().flatten(1).cpu(), likelihood.constant * image[0].numel())


def weighted_bound(
    model: Scores, image: Image, *, samples: int, generator: torch.Generator | None = None
) -> Float[Tensor, " b"]:
    """The importance-weighted lower bound of log p(x) in nats per image (Burda et al. 2016, eq. 8).

    In expectation it rises with `samples` towards log p(x) and never passes it.
    """
    return model.log_likelihood(image, samples=samples, generator=generator).cpu()


def bits_per_dimension(nats: Float[Tensor, " b"], numbers: int) -> Float[Tensor, " b"]:
    """−log₂ p(x) per number of the image: a code's length, so only where p is a probability and not a density.

    Args:
        nats: log p(x), or a lower bound of it: the result is then an upper bound.
        numbers: In an image.
    """
    return -nats / (numbers * math.log(2))
