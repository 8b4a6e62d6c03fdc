"""What outputs keep of the differences between images, and of what is fine in each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.measure.evaluation import Figure
from ectype.measure.intervals import jackknife
from ectype.models.degradations import blur

__all__ = ["VARIANCE", "DETAIL", "Variance", "detail", "detail_figure"]

VARIANCE, DETAIL = "variance of outputs ÷ of images", "fine detail kept"
"""Names of figures."""
GROUPS = 10
FINE = 1.0
"""Pixels: standard deviation of the Gaussian that takes fine detail away."""


class Variance:
    """Σ Var over images of what a model makes, and of what it should, without keeping either."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.squares = torch.zeros(2, GROUPS, dtype=torch.float64)
        self.counts = torch.zeros(GROUPS, dtype=torch.float64)

    def see(self, made: Float[Tensor, "b c h w"], wanted: Float[Tensor, "b c h w"]) -> None:
        """Take pairs in."""
        groups = (torch.arange(len(made)) + int(self.counts.sum())) % GROUPS
        both = torch.stack([made.flatten(1), wanted.flatten(1)]).cpu().double()
        if self.sums is None:
            self.sums = torch.zeros(2, GROUPS, both.shape[2], dtype=torch.float64)
        self.sums.index_add_(1, groups, both)
        self.squares.index_add_(1, groups, both.square().sum(2))
        self.counts.index_add_(0, groups, torch.ones(len(made), dtype=torch.float64))

    def _ratio(self, groups: Tensor) -> float:
        """Of the images of some groups."""
        assert self.sums is not None
        n = self.counts[groups].sum()
        spread = self.squares[:, groups].sum(1) - self.sums[:, groups].sum(1).square().sum(1) / n
        return float(spread[0] / spread[1].clamp(min=1e-12))

    def figure(self) -> Figure | None:
        """The ratio of both; None for fewer images than it takes."""
        if self.sums is None or int(self.counts.min()) < 1 or int(self.counts.sum()) < 2 * GROUPS:
            return None
        low, high = jackknife(self._ratio, [torch.arange(GROUPS)], groups=GROUPS)
        note = "Σ Var over images and numbers; 0 where all outputs are one image, 1 where they vary as images do"
        return Figure(
            VARIANCE, self._ratio(torch.arange(GROUPS)), "reconstruction", low=low, high=high,
            n=int(self.counts.sum()), note=note,
        )  # fmt: skip


def detail(image: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """The mean square of what a Gaussian of one pixel takes away from each image, on the CPU."""
    smooth = blur(image.float(), torch.full((len(image),), FINE, device=image.device))
    return (image - smooth).square().flatten(1).mean(1).cpu()


def detail_figure(made: Float[Tensor, " n"], wanted: Float[Tensor, " n"], group: str) -> Figure | None:
    """How much of images' detail, see `detail`, outputs have; None for too few images, or none with any."""
    if len(made) < 2 * GROUPS or float(wanted.mean()) < 1e-8:
        return None
    both = torch.stack([made, wanted], 1).double()

    def ratio(some: Tensor) -> float:
        return float(some[:, 0].sum() / some[:, 1].sum().clamp(min=1e-12))

    low, high = jackknife(ratio, [both], groups=GROUPS)
    note = f"energy of what a Gaussian of {FINE:g} pixel takes away, outputs ÷ images; blur is near 0, noise above 1"
    return Figure(DETAIL, ratio(both), group, low=low, high=high, n=len(made), note=note)
