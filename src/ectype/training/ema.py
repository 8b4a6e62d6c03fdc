"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


MAX_HALF_LIFE_SHARE = 0.05
"""Largest half-life as a fraction of the images seen, so that an average forgets the first steps of a run (the ramp-up
of Karras et al. 2020, arXiv 2006.06676, whose public code has this value)."""


class WeightAverage:
    """A copy of a model with averaged weights, updated with β = 0.5^(batch / half-life) after each step.

    The half-life grows with the images seen until it reaches `half_life`. Otherwise the average of a short run would be
    dominated by its initial weights, and its BatchNorm statistics would fit neither. Floating-point buffers are
    averaged as well, other buffers are copied.

    Args:
        model: The model to average.
        half_life: Half-life in images.
    """

    def __init__(self, model: nn.Module, half_life: int) -> None:
        self.half_life = half_life
        self.model = copy.deepcopy(model).requires_grad_(False)
        ours, theirs = (self.model.state_dict(keep_vars=True), model.state_dict(keep_vars=True))
        floating = [key for key, value in theirs.items() if value.is_floating_point()]
        # `.data` is the same storage, not tracked by autograd.
        self._ours: list[Tensor] = [ours[key].data for key in floating]
        self._theirs: list[Tensor] = [theirs[key].data for key in floating]
        self._others = [(ours[key].data, theirs[key].data) for key in theirs if key not in set(floating)]

    @torch.no_grad()
    def update(self, batch: int, seen: int) -> None:
        """Update the average after a step.

        Args:
            batch: Images of the step.
            seen: Images that the model was shown so far.
        """
        step = 1 - 0.5 ** (batch / min(self.half_life, MAX_HALF_LIFE_SHARE * seen))
        torch._foreach_lerp_(self._ours, self._theirs, step)  # pyright: ignore[reportPrivateImportUsage]
        for mine, theirs in self._others:
            mine.copy_(theirs)
