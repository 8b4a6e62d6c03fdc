"""The importance-weighted bound of a model's log-likelihood."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.models.base import ImportanceWeighted

__all__ = ["MAX_ELEMENTS_PER_DECODE", "importance_weighted_bound"]

Image = Float[Tensor, "b c h w"]

MAX_ELEMENTS_PER_DECODE = 2**21
"""Image elements decoded at once by default; larger chunks no longer fit the cache of a CPU and are slower."""


def importance_weighted_bound(
    model: ImportanceWeighted,
    image: Image,
    *,
    samples: int,
    generator: torch.Generator | None,
    max_elements: int = MAX_ELEMENTS_PER_DECODE,
) -> Float[Tensor, " b"]:
    """Compute the importance-weighted bound log 1/k Σ w of k draws (Burda et al. 2016, eq. 8).

    With one draw it is an unbiased estimate of the ELBO.

    Args:
        model: Model that returns log weights.
        image: Images in [0, 1].
        samples: Draws for each image, k.
        generator: Random generator of the draws.
        max_elements: Image elements decoded at once.

    Returns:
        The bound of each image in nats.
    """
    draws_per_chunk, log_weights = max(1, max_elements // image.numel()), []
    for start in range(0, samples, draws_per_chunk):
        k = min(draws_per_chunk, samples - start)

        def draw(use: str, *shape: int, k: int = k) -> Tensor:
            # One call per draw: the values of a single large call would depend on the chunk size.
            noise = [torch.randn(len(image), *shape, generator=generator) for _ in range(k)]
            return torch.stack(noise).to(image.device)

        log_weights.append(model.log_weights(image, draw))
    return torch.logsumexp(torch.cat(log_weights), dim=0) - math.log(samples)
