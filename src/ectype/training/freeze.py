"""What must not change while one player is updated, or when computing its gradients failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ectype.objectives.base import Objective

__all__ = ["RunningStatistics", "FreezeOthers"]


class FreezeOthers:
    """Context in which the other players get no gradients and their BatchNorm statistics do not change."""

    def __init__(self, objective: Objective, player: str) -> None:
        updated = set(objective.players[player].parameters())
        self.parameters = [p for p in objective.parameters() if p.requires_grad and p not in updated]
        ours = set(objective.players[player].modules())
        self.norms = [
            m for m in objective.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m not in ours
        ]

    @contextmanager
    def __call__(self) -> Iterator[None]:
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
    """The BatchNorm buffers of a module, which are the only ones that a forward pass changes."""

    def __init__(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._saved = [buffer.clone() for buffer in self._buffers]

    def save(self) -> None:
        """Save a copy of the buffers."""
        if self._saved:
            torch._foreach_copy_(self._saved, self._buffers)  # pyright: ignore[reportPrivateImportUsage]

    def restore(self) -> None:
        """Set the buffers to the saved copy."""
        if self._saved:
            torch._foreach_copy_(self._buffers, self._saved)  # pyright: ignore[reportPrivateImportUsage]
