"""How much of the variance between images, and of the fine detail within them, a model's outputs keep."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.evaluation.metrics.intervals import Estimate, jackknife
from ectype.models.degradations import blur

__all__ = ["DETAIL_SIGMA_PX", "OutputVariance", "detail_energy", "detail_ratio"]

NUM_JACKKNIFE_GROUPS = 10
MIN_IMAGES = 2 * NUM_JACKKNIFE_GROUPS
"""Images below which there is no ratio."""
MIN_DETAIL_ENERGY = 1e-8
"""Mean energy of the images' detail below which there is none to keep."""
DETAIL_SIGMA_PX = 1.0
"""Standard deviation of the Gaussian blur that removes fine detail."""


class OutputVariance:
    """Accumulates the variance over images of a model's outputs and of their targets, without storing either.

    >>> variance = OutputVariance()
    >>> targets = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> variance.update(0.5 * targets, targets)
    >>> round(variance.ratio().value, 4)
    0.25
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.squares = torch.zeros(2, NUM_JACKKNIFE_GROUPS, dtype=torch.float64)
        self.counts = torch.zeros(NUM_JACKKNIFE_GROUPS, dtype=torch.float64)

    def update(self, outputs: Float[Tensor, "b c h w"], targets: Float[Tensor, "b c h w"]) -> None:
        """Add a batch of outputs and their targets."""
        groups = (torch.arange(len(outputs)) + int(self.counts.sum())) % NUM_JACKKNIFE_GROUPS
        both = torch.stack([outputs.flatten(1), targets.flatten(1)]).cpu().double()
        if self.sums is None:
            self.sums = torch.zeros(2, NUM_JACKKNIFE_GROUPS, both.shape[2], dtype=torch.float64)
        self.sums.index_add_(1, groups, both)
        self.squares.index_add_(1, groups, both.square().sum(2))
        self.counts.index_add_(0, groups, torch.ones(len(outputs), dtype=torch.float64))

    def _ratio(self, groups: Tensor) -> float:
        """Return the ratio over the images of some groups."""
        assert self.sums is not None
        n = self.counts[groups].sum()
        variance = self.squares[:, groups].sum(1) - self.sums[:, groups].sum(1).square().sum(1) / n
        return float(variance[0] / variance[1].clamp(min=1e-12))

    def ratio(self) -> Estimate | None:
        """Return the variance of outputs ÷ that of targets, summed over pixels; None for fewer than 20 images.

        It is 0 where all outputs are one image, and 1 where they vary as much as the targets do.
        """
        n = int(self.counts.sum())
        if self.sums is None or n < MIN_IMAGES:
            return None
        groups = torch.arange(NUM_JACKKNIFE_GROUPS)
        return Estimate(self._ratio(groups), *jackknife(self._ratio, [groups], groups=NUM_JACKKNIFE_GROUPS), n)


def detail_energy(image: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Compute the mean square of what a Gaussian blur of one pixel removes from each image, on the CPU."""
    smooth = blur(image.float(), torch.full((len(image),), DETAIL_SIGMA_PX, device=image.device))
    return (image - smooth).square().flatten(1).mean(1).cpu()


def detail_ratio(outputs: Float[Tensor, " n"], targets: Float[Tensor, " n"]) -> Estimate | None:
    """Return how much of the targets' fine detail the outputs have: near 0 for blur, above 1 for noise.

    Args:
        outputs: `detail_energy` of each output.
        targets: `detail_energy` of each target.

    Returns:
        The ratio of the sums with its interval; None for fewer than 20 images, or for targets without detail.
    """
    if len(outputs) < MIN_IMAGES or float(targets.mean()) < MIN_DETAIL_ENERGY:
        return None
    both = torch.stack([outputs, targets], 1).double()

    def ratio(pairs: Tensor) -> float:
        return float(pairs[:, 0].sum() / pairs[:, 1].sum().clamp(min=1e-12))

    return Estimate(ratio(both), *jackknife(ratio, [both], groups=NUM_JACKKNIFE_GROUPS), len(outputs))
