"""The memory of tensors, counted by what is created: the same on each run, and also on the device `meta`."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ectype.models.base import evaluating
from ectype.models.flop import main_operation

__all__ = ["LiveTensors", "forward_memory"]


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors created while it is active. Unlike the size of the process, this is reproducible."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                place = storage._cdata
                if place not in self._sizes:
                    self._sizes[place] = storage.nbytes()
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._gone, place)
        return output

    def _gone(self, place: int) -> None:
        self.live -= self._sizes.pop(place)


def forward_memory(model: nn.Module) -> int:
    """Return the peak bytes of the tensors that a model's main operation needs for one image.

    A training step needs several times as much.

    Args:
        model: A model on the device `meta`, where nothing is computed.

    Returns:
        Bytes; fewer if an operation does not exist on `meta`.
    """
    found = main_operation(model)
    with evaluating(model), LiveTensors() as live:
        if found is not None:
            with suppress(RuntimeError, NotImplementedError):
                found[1]()
    return live.peak
