"""Adversarial losses of a critic and a generator, and the squared gradient norm that gradient penalties use."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["ADVERSARIAL_LOSSES", "AdversarialLoss", "squared_gradient_norm"]

Scores = Float[Tensor, " b"]


class AdversarialLoss(NamedTuple):
    """The losses of both players, each averaged over the images.

    Example:
        >>> real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.5])
        >>> hinge = ADVERSARIAL_LOSSES["hinge"]
        >>> hinge.critic(real, fake), hinge.generator(fake, None)
        (tensor(1.2500), tensor(0.2500))
    """

    critic: Callable[[Scores, Scores], Tensor]
    """Maps the scores of real and of fake images to the critic's loss."""
    generator: Callable[[Scores, Scores | None], Tensor]
    """Maps the scores of fake images, and of real ones if `uses_pairs`, to the generator's loss."""
    uses_pairs: bool = False
    """Whether each fake image is compared with a real one, in the generator's turn too."""


ADVERSARIAL_LOSSES: dict[str, AdversarialLoss] = {
    # Huang et al. 2024 ("The GAN is dead; long live the GAN!"), after Jolicoeur-Martineau 2019.
    "relativistic": AdversarialLoss(
        lambda real, fake: F.softplus(fake - real).mean(),
        lambda fake, real: F.softplus((0.0 if real is None else real) - fake).mean(),
        uses_pairs=True,
    ),
    # Goodfellow et al. 2014, section 3.
    "non_saturating": AdversarialLoss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(), lambda fake, _: F.softplus(-fake).mean()
    ),
    # Lim & Ye 2017; Tran et al. 2017.
    "hinge": AdversarialLoss(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), lambda fake, _: -fake.mean()
    ),
    # Mao et al. 2017, with label 1 for real and 0 for fake images.
    "least_squares": AdversarialLoss(
        lambda real, fake: 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean(),
        lambda fake, _: 0.5 * (fake - 1).square().mean(),
    ),
    # Arjovsky et al. 2017: the negated estimate of the Wasserstein distance.
    "wasserstein": AdversarialLoss(lambda real, fake: fake.mean() - real.mean(), lambda fake, _: -fake.mean()),
}


def squared_gradient_norm(scores: Scores, image: Float[Tensor, "n c h w"], pack: int = 1) -> Scores:
    """Compute ‖∇D(x)‖², summed over the elements of each scored image (or pack). The result is differentiable.

    Args:
        scores: One score per pack [n / pack]; each must depend on the images of its own pack only.
        image: The images [n, c, h, w] that the scores were computed from, with `requires_grad`.
        pack: Number of images that are scored together.

    Returns:
        One value per score.

    Example:
        >>> x = torch.ones(2, 1, 2, 2, requires_grad=True)
        >>> squared_gradient_norm(3 * x.flatten(1).sum(1), x).tolist()
        [36.0, 36.0]
    """
    (gradient,) = torch.autograd.grad(scores.sum(), image, create_graph=True)
    return gradient.reshape(len(image) // pack, -1).square().sum(1)
