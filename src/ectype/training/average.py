"""The running average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["Average"]


RAMP = 0.05
"""Half-life at first, as a share of the images seen: what a model was in its first steps is no part of what it is after
twenty times as many (Karras et al. 2020, arXiv 2006.06676, whose public code has this share)."""


class Average:
    """A second copy of a model whose weights follow it: β = 0.5^(batch / half-life) after each step.

    The half-life grows with the images seen until it is the one wanted. Without that a young average belongs to weights
    that are long gone, and its BatchNorm to statistics that fit neither. Floating buffers are averaged too, others
    copied.
    """

    def __init__(self, model: nn.Module, half_life: int) -> None:
        self.half_life = half_life
        self.model = copy.deepcopy(model).requires_grad_(False)
        ours, theirs = self.model.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
        floating = [key for key, value in theirs.items() if value.is_floating_point()]
        # `.data`: the same storage, outside of autograd's books.
        self._ours: list[Tensor] = [ours[key].data for key in floating]
        self._theirs: list[Tensor] = [theirs[key].data for key in floating]
        self._others = [(ours[key].data, theirs[key].data) for key in theirs if key not in set(floating)]

    @torch.no_grad()
    def follow(self, batch: int, seen: int) -> None:
        """Take one step of so many images towards the model, which has been shown so many in all."""
        step = 1 - 0.5 ** (batch / min(self.half_life, RAMP * seen))
        torch._foreach_lerp_(self._ours, self._theirs, step)  # pyright: ignore[reportPrivateImportUsage]
        for mine, theirs in self._others:
            mine.copy_(theirs)
