"""Count the floating-point operations of a model's main operation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ectype.config.schema import DataInfo
from ectype.models.base import Reconstructs, Samples, Translates, evaluating

__all__ = ["count_flops", "main_operation"]


def count_flops(model: nn.Module) -> tuple[str, int] | None:
    """Count the floating-point operations of a model's main operation for one image.

    A multiply-add counts as two. Only convolutions, matrix products and attention are counted, as PyTorch dispatches
    them; all other operations are negligible.

    Args:
        model: Any model; on the `meta` device nothing is computed.

    Returns:
        The name of the operation and its count, or None if the model neither reconstructs, translates nor samples.
    """
    if (found := main_operation(model)) is None:
        return None
    name, operation = found
    # The counter does not know all fused attention kernels, and these differ between devices.
    with evaluating(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        operation()
    return name, counter.get_total_flops()


def main_operation(model: nn.Module) -> tuple[str, Callable[[], Tensor]] | None:
    """Return the name of a model's main operation and a function that runs it on one image, or None."""
    if isinstance(model, Reconstructs):
        return "reconstruct", lambda: model.reconstruct(_blank_image(model))
    if isinstance(model, Translates):
        return "translate", lambda: model.translate(_blank_image(model))
    if isinstance(model, Samples):
        return "sample", lambda: model.sample(1, generator=torch.Generator().manual_seed(0))
    return None


def _blank_image(model: nn.Module) -> Tensor:
    """Return one black image on the device of the model."""
    info: DataInfo = model.info  # type: ignore[assignment]  # every model has one
    return torch.zeros(1, *info.shape, device=next(model.parameters()).device)
