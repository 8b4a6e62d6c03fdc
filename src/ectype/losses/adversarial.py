"""What critic and generator minimise, given the critic's scores, and penalties on the critic's slope."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["GAMES", "Game", "slope"]

Scores = Float[Tensor, " b"]


class Game(NamedTuple):
    """One pair of losses, each averaged over the images."""

    critic: Callable[[Scores, Scores], Tensor]
    """Of the scores of real and of made images."""
    generator: Callable[[Scores, Scores | None], Tensor]
    """Of the scores of made and, where `pairs`, of real images."""
    pairs: bool = False
    """Whether each made image is judged against a real one, in the generator's turn too."""


GAMES: dict[str, Game] = {
    # Huang et al. 2024 ("The GAN is dead; long live the GAN!"), after Jolicoeur-Martineau 2019.
    "relativistic": Game(
        lambda real, fake: F.softplus(fake - real).mean(),
        lambda fake, real: F.softplus((0.0 if real is None else real) - fake).mean(),
        pairs=True,
    ),
    # Goodfellow et al. 2014, section 3.
    "non_saturating": Game(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda fake, _: F.softplus(-fake).mean(),
    ),
    # Lim & Ye 2017; Tran et al. 2017.
    "hinge": Game(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda fake, _: -fake.mean(),
    ),
    # Mao et al. 2017, with labels 1 for real and 0 for made images.
    "least_squares": Game(
        lambda real, fake: 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean(),
        lambda fake, _: 0.5 * (fake - 1).square().mean(),
    ),
    # Arjovsky et al. 2017: the negated estimate of the earth mover's distance.
    "wasserstein": Game(
        lambda real, fake: fake.mean() - real.mean(),
        lambda fake, _: -fake.mean(),
    ),
}


def slope(scores: Scores, image: Float[Tensor, "n c h w"], pack: int = 1) -> Scores:
    """‖∇D(x)‖² of each judged image, summed over its numbers, itself differentiable.

    Args:
        scores: Of the images; each depends on its own `pack` images alone.
        image: What they were computed from, with gradients on.
        pack: Images judged together.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), image, create_graph=True)
    return gradient.reshape(len(image) // pack, -1).square().sum(1)
