"""What must not change while one player moves, or because a try at it failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ectype.objectives.base import Objective

__all__ = ["RunningStatistics", "Still"]


class Still:
    """While one player moves: no gradient for the others, and their BatchNorm statistics stay as they are."""

    def __init__(self, objective: Objective, player: str) -> None:
        moving = set(objective.players[player].parameters())
        self.parameters = [p for p in objective.parameters() if p.requires_grad and p not in moving]
        ours = set(objective.players[player].modules())
        self.norms = [
            m for m in objective.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m not in ours
        ]

    @contextmanager
    def others(self) -> Iterator[None]:
        tracked = [norm.track_running_stats for norm in self.norms]
        try:
            for parameter in self.parameters:
                parameter.requires_grad_(False)
            for norm in self.norms:
                norm.track_running_stats = False
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(True)
            for norm, before in zip(self.norms, tracked, strict=True):
                norm.track_running_stats = before


class RunningStatistics:
    """BatchNorm's buffers in a module: the only ones that a forward pass changes."""

    def __init__(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
        self._theirs = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._ours = [buffer.clone() for buffer in self._theirs]

    def keep(self) -> None:
        """Remember how they are."""
        if self._ours:
            torch._foreach_copy_(self._ours, self._theirs)  # pyright: ignore[reportPrivateImportUsage]

    def put_back(self) -> None:
        """Make them as they were."""
        if self._ours:
            torch._foreach_copy_(self._theirs, self._ours)  # pyright: ignore[reportPrivateImportUsage]
