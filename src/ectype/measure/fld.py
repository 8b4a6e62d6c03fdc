"""Feature likelihood divergence: how likely held-out images are under samples, which copies of training images fail."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.measure.distances import check_features

__all__ = ["Divergence", "feature_likelihood_divergence"]

CENTRES = 10_000
"""Most generated features that are centres of the mixture, and training features in one step of its fit."""
ORIGIN = 0.9**2
"""What squared distances to the training mean are multiplied by in the mixture's background."""
GROUPS = 20
"""Of generated features, each left out once to see how far the divergence varies with what was drawn."""


class Divergence(NamedTuple):
    """The divergence, by what it is made of."""

    each: Float[Tensor, " t"]
    """What each test image contributes."""
    without: Float[Tensor, " g"]
    """The divergence without each group of generated features."""

    @property
    def value(self) -> float:
        """The mean over test images."""
        return float(self.each.mean())

    @property
    def error(self) -> float:
        """The standard error over test images and generated ones (delete-a-group jackknife), given the variances."""
        g = len(self.without)
        of_images = float(self.each.var()) / len(self.each) if len(self.each) > 1 else 0.0
        of_fakes = (g - 1) * float(self.without.var(correction=0)) if g > 1 else 0.0
        return math.sqrt(of_images + of_fakes)


def feature_likelihood_divergence(
    train: Float[Tensor, "n d"], test: Float[Tensor, "t d"], fake: Float[Tensor, "m d"], *, generator: torch.Generator
) -> Divergence:
    """The feature likelihood divergence, FLD (Jiralerspong et al. 2023, section 3): poor, narrow or copied is high.

    An isotropic Gaussian is put on each generated feature and its variance fitted so that the mixture gives training
    features the highest likelihood; then test features are scored. A copy of a training image fits a variance near
    zero and explains no test image. Features are standardised by the test set's, and the result is 100 × (−log
    likelihood per dimension, in nats, − a baseline): 0 is as good as half of the training set, fitted on the other
    half. The fit is that of the authors' code: Adam on log variances, at rate 0.5, at most 50 times over the training
    set, with a background at the training mean that catches outliers and is left out of the score.

    Args:
        train: Features of training images.
        test: Features of images that the generator never saw.
        fake: Generated features; a random 10,000 of more.
        generator: Draws which fakes are used and the halves of the training set.

    Raises:
        DataError: Fewer than four training features, two of the others, or some that are not finite.
    """
    check_features(train, 4)
    check_features(test)
    check_features(fake)
    scale, shift = torch.std_mean(test.double(), dim=0)
    scale = torch.where(scale > 0, scale, 1)  # one that never changes on test images is only shifted
    train, test, fake = ((features.double() - shift) / scale for features in (train, test, fake))
    centres = fake[_shuffled(fake, generator)[:CENTRES]]
    order, half = _shuffled(train, generator), min(len(centres), len(train) // 2)
    baseline, _ = _mixture_losses(train[order[:half]], train[order[half:]], test)
    losses, without = _mixture_losses(centres, train, test)
    return Divergence(100 * (losses - baseline), 100 * (without - baseline.mean()))


def _shuffled(features: Float[Tensor, "n d"], generator: torch.Generator) -> Tensor:
    return torch.randperm(len(features), generator=generator, device=generator.device).to(features.device)


def _mixture_losses(
    centres: Float[Tensor, "m d"], train: Float[Tensor, "n d"], test: Float[Tensor, "t d"]
) -> tuple[Float[Tensor, " t"], Float[Tensor, " g"]]:
    """−log likelihood per dimension of test features under the mixture that training features fitted.

    Also its mean without each group of centres, which come in a random order.
    """
    variances, d = _fit_variances(centres, train), centres.shape[1]
    groups = [len(part) for part in torch.arange(len(centres)).tensor_split(min(GROUPS, len(centres)))]
    found, without = [], []
    for part in test.split(CENTRES):
        logs = _log_densities(_squared(part, centres), variances, d)
        sums = torch.stack([group.logsumexp(1) for group in logs.split(groups, 1)], 1)
        found.append(sums.logsumexp(1))
        left_out = torch.eye(len(groups), dtype=torch.bool, device=sums.device)
        without.append(sums[:, None].masked_fill(left_out, -math.inf).logsumexp(2))
    left = (len(centres) - torch.tensor(groups, dtype=torch.float64)).log()
    means = torch.cat(without).mean(0).cpu()
    return (math.log(len(centres)) - torch.cat(found)) / d, (left - means) / d


def _squared(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y).square_()


def _log_densities(squared: Tensor, log_variances: Tensor, d: int) -> Tensor:
    """Logarithm of N(x; centre, σ² I) from squared distances, one column for each centre."""
    return squared * (-0.5 * (-log_variances).exp()) - d / 2 * (log_variances + math.log(2 * math.pi))


@torch.enable_grad()
def _fit_variances(centres: Float[Tensor, "m d"], train: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
    """Log variances that give training features the highest likelihood."""
    d, parts, weight = centres.shape[1], train.split(CENTRES), math.log(len(centres))
    kept = [_squared(parts[0], centres)] if len(parts) == 1 else []
    nearest = torch.stack([_squared(part, centres).amin(0) for part in parts]).amin(0)
    log_variances = ((nearest + 1e-3) / d).log().requires_grad_()
    background = train.new_zeros(1).requires_grad_()
    middle = ORIGIN * (train - train.mean(0)).square().sum(1, keepdim=True)
    optimizer = torch.optim.Adam([log_variances, background], lr=0.5)
    losses: list[float] = []
    for _ in range(50):
        epoch = []
        for i, (part, around) in enumerate(zip(parts, middle.split(CENTRES), strict=True)):
            squared = kept[i] if kept else _squared(part, centres)
            mixture = _log_densities(squared, log_variances, d).logsumexp(1) - weight
            loss = -torch.logaddexp(mixture, _log_densities(around, background, d)[:, 0]).mean() / d
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                log_variances.clamp_(-40, 40)
            epoch.append(float(loss.detach()))
        losses.append(sum(epoch) / len(epoch))
        if len(losses) > 6 and max(abs(losses[-1] - before) for before in losses[-5:-1]) < 5e-4:
            break
    return log_variances.detach()
