"""Feature likelihood divergence: the likelihood of held-out images under a density that is fitted on samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.evaluation.metrics.frechet_kernel import check_features

__all__ = ["Divergence", "feature_likelihood_divergence"]

MAX_CENTERS = 10_000
"""Maximum number of generated features that are centers of the mixture, and of training features per fitting step."""
BACKGROUND_SCALE = 0.9**2
"""Factor of the squared distances to the training mean in the mixture's background component."""
NUM_JACKKNIFE_GROUPS = 20
"""Groups of generated features, each left out once to estimate how far the divergence varies with the draw."""


class Divergence(NamedTuple):
    """The divergence and the parts that its error is estimated from."""

    per_image: Float[Tensor, " t"]
    """Contribution of each test image."""
    leave_group_out: Float[Tensor, " g"]
    """Divergence without each group of generated features."""

    @property
    def value(self) -> float:
        """Mean over test images."""
        return float(self.per_image.mean())

    @property
    def error(self) -> float:
        """Standard error over test images and generated images (delete-a-group jackknife), given the variances."""
        g, n = len(self.leave_group_out), len(self.per_image)
        of_test_images = float(self.per_image.var()) / n if n > 1 else 0.0
        of_generated = (g - 1) * float(self.leave_group_out.var(correction=0)) if g > 1 else 0.0
        return math.sqrt(of_test_images + of_generated)


def feature_likelihood_divergence(
    train: Float[Tensor, "n d"], test: Float[Tensor, "t d"], fake: Float[Tensor, "m d"], *, generator: torch.Generator
) -> Divergence:
    """Compute the feature likelihood divergence, FLD (Jiralerspong et al. 2023, section 3).

    It is high for poor samples, for samples without variety and for copies of training images. Each generated feature
    is the center of an isotropic Gaussian, whose variance is fitted so that the mixture gives training features the
    highest likelihood; then test features are scored. A copy of a training image gets a variance near zero and explains
    no test image. Features are standardized with the test set's mean and standard deviation. The result is 100 × (−log
    likelihood per dimension, in nats, − a baseline): 0 is as good as half of the training set, fitted on the other
    half. The fit is that of the authors' code: Adam on log variances with learning rate 0.5, at most 50 epochs over the
    training set, with a background component at the training mean that catches outliers and is left out of the score.

    Args:
        train: Features of training images.
        test: Features of images that the generator never saw.
        fake: Generated features; a random 10,000 where there are more.
        generator: Generator that draws which generated features are used, and the halves of the training set.

    Raises:
        DataError: Fewer than four training features, fewer than two of the others, or some that are not finite.

    >>> train, test, fake = (torch.randn(60, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    >>> fresh = feature_likelihood_divergence(train, test, fake, generator=torch.Generator().manual_seed(0))
    >>> copied = feature_likelihood_divergence(train, test, train, generator=torch.Generator().manual_seed(0))
    >>> fresh.value < copied.value
    True
    """
    check_features(train, 4)
    check_features(test)
    check_features(fake)
    scale, shift = torch.std_mean(test.double(), dim=0)
    scale = torch.where(scale > 0, scale, 1)  # a feature that is constant on test images is only shifted
    train, test, fake = ((features.double() - shift) / scale for features in (train, test, fake))
    centers = fake[_permutation(fake, generator)[:MAX_CENTERS]]
    order, half = _permutation(train, generator), min(len(centers), len(train) // 2)
    baseline, _ = _mixture_losses(train[order[:half]], train[order[half:]], test)
    losses, leave_group_out = _mixture_losses(centers, train, test)
    return Divergence(100 * (losses - baseline), 100 * (leave_group_out - baseline.mean()))


def _permutation(features: Float[Tensor, "n d"], generator: torch.Generator) -> Tensor:
    return torch.randperm(len(features), generator=generator, device=generator.device).to(features.device)


def _mixture_losses(
    centers: Float[Tensor, "m d"], train: Float[Tensor, "n d"], test: Float[Tensor, "t d"]
) -> tuple[Float[Tensor, " t"], Float[Tensor, " g"]]:
    """Return the −log likelihood per dimension of test features under the mixture that is fitted on training features.

    The second value is its mean without each group of centers, which come in a random order.
    """
    variances, d = _fit_variances(centers, train), centers.shape[1]
    groups = [len(part) for part in torch.arange(len(centers)).tensor_split(min(NUM_JACKKNIFE_GROUPS, len(centers)))]
    likelihoods, leave_group_out = [], []
    for part in test.split(MAX_CENTERS):
        logs = _log_densities(_squared_distances(part, centers), variances, d)
        sums = torch.stack([group.logsumexp(1) for group in logs.split(groups, 1)], 1)
        likelihoods.append(sums.logsumexp(1))
        left_out = torch.eye(len(groups), dtype=torch.bool, device=sums.device)
        leave_group_out.append(sums[:, None].masked_fill(left_out, -math.inf).logsumexp(2))
    left = (len(centers) - torch.tensor(groups, dtype=torch.float64)).log()
    means = torch.cat(leave_group_out).mean(0).cpu()
    return (math.log(len(centers)) - torch.cat(likelihoods)) / d, (left - means) / d


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y).square_()


def _log_densities(squared: Tensor, log_variances: Tensor, d: int) -> Tensor:
    """Return log N(x; center, σ² I) from squared distances, one column for each center."""
    return squared * (-0.5 * (-log_variances).exp()) - d / 2 * (log_variances + math.log(2 * math.pi))


@torch.enable_grad()
def _fit_variances(centers: Float[Tensor, "m d"], train: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
    """Return the log variances that give training features the highest likelihood."""
    d, parts, weight = centers.shape[1], train.split(MAX_CENTERS), math.log(len(centers))
    kept = [_squared_distances(parts[0], centers)] if len(parts) == 1 else []
    nearest = torch.stack([_squared_distances(part, centers).amin(0) for part in parts]).amin(0)
    log_variances = ((nearest + 1e-3) / d).log().requires_grad_()
    background = train.new_zeros(1).requires_grad_()
    middle = BACKGROUND_SCALE * (train - train.mean(0)).square().sum(1, keepdim=True)
    optimizer = torch.optim.Adam([log_variances, background], lr=0.5)
    losses: list[float] = []
    for _ in range(50):
        epoch = []
        for i, (part, around) in enumerate(zip(parts, middle.split(MAX_CENTERS), strict=True)):
            squared = kept[i] if kept else _squared_distances(part, centers)
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
