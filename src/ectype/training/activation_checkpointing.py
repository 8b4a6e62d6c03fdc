"""Activation checkpointing: the activations inside of blocks are recomputed in the backward pass, not stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["checkpoint_activations"]


def checkpoint_activations(network: nn.Module) -> None:
    """Make a network store only the inputs of its blocks, and recompute what is inside of them for the gradient.

    A block is an element of a `Sequential` or `ModuleList` that has children. Consecutive single layers of a
    `Sequential` are grouped, √n at a time (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Results
    do not change, second derivatives included, and neither do the names of weights.
    """
    if isinstance(network, nn.Sequential):
        network.forward = _SequentialForward(network)
        return
    for part in network.children():
        if isinstance(network, nn.ModuleList) and _repeatable(part):
            if not isinstance(part.forward, _Block):
                part.forward = _Block([part], part.forward)
        else:
            checkpoint_activations(part)


class _Block:
    """The forward pass of one module, or of several in a row, whose activations are recomputed."""

    def __init__(self, parts: Sequence[nn.Module], forward: Callable[..., Any] | None = None) -> None:
        self.parts, self.forward = parts, forward
        self.norms = [m for p in parts for m in p.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._run(*inputs, **named)
        # A compiled block updates its buffers outside of the part that is recomputed.
        contexts = {} if torch.compiler.is_compiling() else {"context_fn": self._contexts}
        # Networks draw no random numbers (`context` does), so there is no generator state to restore.
        return checkpoint(self._run, *inputs, use_reentrant=False, preserve_rng_state=False, **contexts, **named)

    def _run(self, *inputs: Any, **named: Any) -> Any:
        if self.forward is not None:
            return self.forward(*inputs, **named)
        (x,) = inputs
        for part in self.parts:
            x = part(x)
        return x

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Recompute(self.norms)


class _Recompute:
    """Context of a recomputation, in which BatchNorm updates copies of its running statistics.

    Updates cannot be switched off instead, because each pass must save the same tensors.
    """

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        self.norms = norms
        self.held: list[dict[str, Tensor | None]] = []

    def __enter__(self) -> None:
        self.held = [dict(norm._buffers) for norm in self.norms]
        for norm in self.norms:
            norm._buffers.update({k: None if b is None else b.clone() for k, b in norm._buffers.items()})

    def __exit__(self, *_: object) -> None:
        for norm, buffers in zip(self.norms, self.held, strict=True):
            norm._buffers.update(buffers)


class _SequentialForward:
    """The forward pass of a `Sequential`, block by block."""

    def __init__(self, network: nn.Sequential) -> None:
        groups = _group_layers(list(network))
        self.steps = [_Block(parts) if len(parts) > 1 or _repeatable(parts[0]) else parts[0] for parts in groups]

    def __call__(self, input: Any) -> Any:
        for step in self.steps:
            input = step(input)
        return input


def _group_layers(parts: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Return modules that have children one by one, and runs of single layers √n at a time."""
    runs: list[list[nn.Module]] = []
    for part in parts:
        if runs and not _repeatable(part) and not _repeatable(runs[-1][-1]):
            runs[-1].append(part)
        else:
            runs.append([part])
    cut: list[list[nn.Module]] = []
    for run in runs:
        while run and _in_place(run[0]):
            cut.append([run.pop(0)])
        size = math.isqrt(max(0, len(run) - 1)) + 1
        for at, part in enumerate(run):
            if at % size == 0 and not _in_place(part):
                cut.append([part])
            else:
                cut[-1].append(part)
    return cut


def _repeatable(part: nn.Module) -> bool:
    """Return whether a module is a block: it has children and does not overwrite its input."""
    return any(True for _ in part.children()) and not _in_place(part)


def _in_place(part: nn.Module) -> bool:
    """Return whether the first layer of a module overwrites its input."""
    first = next(m for m in part.modules() if not any(True for _ in m.children()))
    return bool(getattr(first, "inplace", False))
