"""How players move: an optimizer for each, learning rates from the images seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ectype.objectives.base import Group, Grouped
from ectype.sections import OptimizerConfig

__all__ = ["Mover"]


class Mover:
    """Moves one player: groups with rates and starts of their own, a schedule, a limit on the gradient's norm."""

    def __init__(self, player: nn.Module, config: OptimizerConfig, budget: int) -> None:
        self.config, self.budget = config, budget
        given = player.parameter_groups() if isinstance(player, Grouped) else [Group(list(player.parameters()))]
        self.groups = [
            Group([p for p in group.parameters if p.requires_grad], group.scale, group.starts) for group in given
        ]
        self.parameters = [p for group in self.groups for p in group.parameters]
        self.optimizers = _build(config, self.groups)

    def rate(self, seen: int) -> float:
        """The learning rate after so many images: a linear rise, then the schedule's fall over the rest."""
        config = self.config
        ramp = config.warmup * self.budget
        if seen < ramp:
            # Half an image ahead, so that the first move is not lost to a rate of zero.
            return config.lr * min(1.0, (seen + 0.5 * ramp / max(1.0, ramp)) / ramp)
        fall = max(1.0, (self.budget - ramp) * (1 - config.hold))
        done = min(1.0, max(0.0, 1 - (self.budget - seen) / fall))
        falls = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[config.schedule]
        return config.lr * (config.final + (1 - config.final) * falls)

    def clear(self) -> None:
        """Forget gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradients(self, seen: int) -> list[Tensor]:
        """The gradients of what moves after so many images; those of groups that do not yet are dropped."""
        for group in self.groups:
            if seen < group.starts:
                for parameter in group.parameters:
                    parameter.grad = None
        return [p.grad for p in self.parameters if p.grad is not None]

    @staticmethod
    def norm(gradients: list[Tensor]) -> Tensor:
        """The norm of all gradients together."""
        each = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        return torch.linalg.vector_norm(torch.stack(each))

    def move(self, seen: int, norm: Tensor) -> float:
        """Make one update from the gradients at hand, whose norm is given; returns the learning rate."""
        if self.config.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, norm)
        rate = self.rate(seen)
        for optimizer in self.optimizers:
            for settings in optimizer.param_groups:
                settings["lr"] = rate * settings["scale"]
            optimizer.step()
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """The optimizers' state by name, for a checkpoint."""
        return {
            f"{place}.{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
            for place, optimizer in enumerate(self.optimizers)
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the state back."""
        states: list[dict[int, dict[str, Any]]] = [{} for _ in self.optimizers]
        for key, value in tensors.items():
            place, index, name = key.split(".", 2)
            states[int(place)].setdefault(int(index), {})[name] = value
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            # A file knows no memory format, and a fused kernel walks weights and state by their place in memory.
            for parameter, held in optimizer.state.items():
                for name, value in held.items():
                    if value.shape == parameter.shape:
                        held[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _build(config: OptimizerConfig, groups: Sequence[Group]) -> list[Optimizer]:
    def settings(keep: str = "all") -> list[dict[str, Any]]:
        wanted = {"all": lambda p: True, "matrices": lambda p: p.ndim == 2, "others": lambda p: p.ndim != 2}[keep]
        chosen = [(group.scale, [p for p in group.parameters if wanted(p)]) for group in groups]
        return [{"params": params, "scale": scale} for scale, params in chosen if params]

    # One kernel for all of a step; the state stays on the parameters' device.
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    adam: dict[str, Any] = {**common, "betas": config.betas, "eps": config.eps, "fused": True}
    if config.name == "sgd":
        return [torch.optim.SGD(settings(), **common, momentum=config.betas[0], fused=True)]
    if config.name == "adam":
        return [torch.optim.Adam(settings(), **adam)]
    if config.name == "adamw":
        return [torch.optim.AdamW(settings(), **adam)]
    # Orthogonalised momentum is for matrices (Jordan et al. 2024); scaled to the step sizes of AdamW, which moves the
    # rest, one learning rate serves both (Liu et al. 2025, "Muon is scalable").
    matrices, others = settings("matrices"), settings("others")
    muon = torch.optim.Muon(matrices, **common, momentum=0.95, adjust_lr_fn="match_rms_adamw") if matrices else None
    return [*([muon] if muon else []), *([torch.optim.AdamW(others, **adam)] if others else [])]
