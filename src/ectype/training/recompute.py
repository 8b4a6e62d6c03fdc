"""Activation checkpointing: blocks of a network are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recompute"]


def recompute(network: nn.Module) -> None:
    """Have a network keep only what enters its blocks, and compute their insides anew for the gradient.

    A block is a part of a `Sequential` or `ModuleList` that has parts of its own. Single layers that stand side by side
    in a `Sequential` are taken together, √n at a time (Chen et al. 2016, "Training deep nets with sublinear memory
    cost"). Nothing that is computed changes, gradients of gradients included; names of weights stay as they are.
    """
    if isinstance(network, nn.Sequential):
        network.forward = _Trunk(network)
        return
    for part in network.children():
        if isinstance(network, nn.ModuleList) and _repeatable(part):
            if not isinstance(part.forward, _Block):
                part.forward = _Block([part], part.forward)
        else:
            recompute(part)


class _Block:
    """Modules whose insides are computed twice: one with its own way of being run, or several in a row."""

    def __init__(self, parts: Sequence[nn.Module], forward: Callable[..., Any] | None = None) -> None:
        self.parts, self.forward = parts, forward
        self.norms = [m for p in parts for m in p.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._run(*inputs, **named)
        # A compiled block updates its buffers outside of what is repeated.
        contexts = {} if torch.compiler.is_compiling() else {"context_fn": self._contexts}
        # Chance comes from `moment` alone, never from a network: there is no generator to put back.
        return checkpoint(self._run, *inputs, use_reentrant=False, preserve_rng_state=False, **contexts, **named)

    def _run(self, *inputs: Any, **named: Any) -> Any:
        if self.forward is not None:
            return self.forward(*inputs, **named)
        (x,) = inputs
        for part in self.parts:
            x = part(x)
        return x

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Again(self.norms)


class _Again:
    """The second pass, or a later one for a gradient's gradient: BatchNorm fills copies of its running statistics.

    To switch them off would not do: each pass must keep the same tensors.
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


class _Trunk:
    """What a `Sequential` does, block by block."""

    def __init__(self, network: nn.Sequential) -> None:
        cut = _cut(list(network))
        self.steps = [_Block(parts) if len(parts) > 1 or _repeatable(parts[0]) else parts[0] for parts in cut]

    def __call__(self, input: Any) -> Any:
        for step in self.steps:
            input = step(input)
        return input


def _cut(parts: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Parts that have parts by themselves, runs of others √n at a time."""
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
    """Whether a part is a block by itself: it has parts, and what enters it is still there when it is done."""
    return any(True for _ in part.children()) and not _in_place(part)


def _in_place(part: nn.Module) -> bool:
    """Whether a part begins by writing over what it is given."""
    first = next(m for m in part.modules() if not any(True for _ in m.children()))
    return bool(getattr(first, "inplace", False))
