"""Build modules on the device `meta`, where tensors have a shape and a type but no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["meta_device"]

FILLING = {"normal_", "uniform_", "trunc_normal_", "div_", "mul_", "add_", "sub_", "clamp_", "erfinv_"}
"""Methods that networks are initialized by and that leave the shape of a tensor as it is."""


class _NoFilling(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")  # as the functions of `torch.nn.init` name it
        if isinstance(filled, Tensor) and filled.is_meta:
            name, module = (getattr(func, key, "") for key in ("__name__", "__module__"))
            if name in FILLING or module == "torch.nn.init":
                return filled
        return func(*args, **kwargs)


@contextmanager
def meta_device() -> Iterator[None]:
    """Create tensors on the device `meta`, and skip what would only fill them with numbers.

    PyTorch computes the shapes of random draws and of arithmetic on `meta` in Python, and the first such call imports
    its compiler, which takes longer than everything else when a model is loaded.

    >>> with meta_device():
    ...     layer = torch.nn.Linear(10**6, 10**6)
    >>> layer.weight.device.type, tuple(layer.weight.shape)
    ('meta', (1000000, 1000000))
    """
    with torch.device("meta"), _NoFilling():
        yield
