"""The running average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """A second copy of a model whose weights follow it: β = 0.5^(batch / half-life) after each step.

    Floating buffers are averaged too, others copied.
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
    def follow(self, batch: int) -> None:
        """Take one step of so many images towards the model."""
        step = 1 - 0.5 ** (batch / self.half_life)
        torch._foreach_lerp_(self._ours, self._theirs, step)  # pyright: ignore[reportPrivateImportUsage]
        for mine, theirs in self._others:
            mine.copy_(theirs)
