"""Optimizers of players, with learning rates that depend on the images seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ectype.config.schema import OptimizerConfig
from ectype.nets.param_groups import HasParameterGroups, ParameterGroup

__all__ = ["PlayerOptimizer"]


class PlayerOptimizer:
    """Updates one player: parameter groups with their own rates and starts, a schedule, and gradient clipping.

    Args:
        player: The module whose parameters are updated.
        config: Optimizer settings of this player.
        budget: Images to train on; the schedule ends there.
    """

    def __init__(self, player: nn.Module, config: OptimizerConfig, budget: int) -> None:
        self.config, self.budget = config, budget
        given = (
            player.parameter_groups()
            if isinstance(player, HasParameterGroups)
            else [ParameterGroup(list(player.parameters()))]
        )
        self.groups = [
            ParameterGroup([p for p in group.parameters if p.requires_grad], group.lr_scale, group.starts)
            for group in given
        ]
        self.parameters = [p for group in self.groups for p in group.parameters]
        self.optimizers = _build(config, self.groups)

    def learning_rate(self, seen: int) -> float:
        """Return the learning rate after `seen` images: a linear warm-up, then the schedule."""
        config = self.config
        ramp = config.warmup * self.budget
        if seen < ramp:
            # Half an image ahead, so that the rate of the first update is not zero.
            return config.lr * min(1.0, (seen + 0.5 * ramp / max(1.0, ramp)) / ramp)
        fall = max(1.0, (self.budget - ramp) * (1 - config.hold))
        done = min(1.0, max(0.0, 1 - (self.budget - seen) / fall))
        decay = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[config.schedule]
        return config.lr * (config.final + (1 - config.final) * decay)

    def zero_grad(self) -> None:
        """Remove all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradients(self, seen: int) -> list[Tensor]:
        """Return the gradients of the groups that are trained after `seen` images, and remove the others."""
        for group in self.groups:
            if seen < group.starts:
                for parameter in group.parameters:
                    parameter.grad = None
        return [p.grad for p in self.parameters if p.grad is not None]

    @staticmethod
    def norm(gradients: list[Tensor]) -> Tensor:
        """Return the norm of all gradients together."""
        each = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        return torch.linalg.vector_norm(torch.stack(each))

    def step(self, seen: int, norm: Tensor) -> float:
        """Make one update from the gradients, whose norm is `norm`, and return the learning rate."""
        if self.config.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, norm)
        rate = self.learning_rate(seen)
        for optimizer in self.optimizers:
            for settings in optimizer.param_groups:
                settings["lr"] = rate * settings["scale"]
            optimizer.step()
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of the optimizers by name, for a checkpoint."""
        return {
            f"{place}.{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
            for place, optimizer in enumerate(self.optimizers)
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load the state from a checkpoint."""
        states: list[dict[int, dict[str, Any]]] = [{} for _ in self.optimizers]
        for key, value in tensors.items():
            place, index, name = key.split(".", 2)
            states[int(place)].setdefault(int(index), {})[name] = value
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            # A file does not store the memory format, but a fused kernel needs weights and state in the same one.
            for parameter, held in optimizer.state.items():
                for name, value in held.items():
                    if value.shape == parameter.shape:
                        held[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _build(config: OptimizerConfig, groups: Sequence[ParameterGroup]) -> list[Optimizer]:
    def settings(keep: str = "all") -> list[dict[str, Any]]:
        wanted = {"all": lambda p: True, "matrices": lambda p: p.ndim == 2, "others": lambda p: p.ndim != 2}[keep]
        chosen = [(group.lr_scale, [p for p in group.parameters if wanted(p)]) for group in groups]
        return [{"params": params, "scale": scale} for scale, params in chosen if params]

    # `fused`: one kernel for all parameters of a step.
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    adam: dict[str, Any] = {**common, "betas": config.betas, "eps": config.eps, "fused": True}
    if config.name == "sgd":
        return [torch.optim.SGD(settings(), **common, momentum=config.betas[0], fused=True)]
    if config.name == "adam":
        return [torch.optim.Adam(settings(), **adam)]
    if config.name == "adamw":
        return [torch.optim.AdamW(settings(), **adam)]
    # Muon is for matrices (Jordan et al. 2024). Its updates are scaled to those of AdamW, which updates the rest, so
    # that one learning rate serves both (Liu et al. 2025, "Muon is scalable").
    matrices, others = settings("matrices"), settings("others")
    muon = torch.optim.Muon(matrices, **common, momentum=0.95, adjust_lr_fn="match_rms_adamw") if matrices else None
    return [*([muon] if muon else []), *([torch.optim.AdamW(others, **adam)] if others else [])]
