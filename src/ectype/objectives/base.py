"""Training as a game played in turns, and an objective as its rules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.nets.groups import Group, Grouped

__all__ = ["Group", "Grouped", "LossTerms", "Objective", "Phase", "Restarts", "Turn", "Validates"]


Phase = Literal["whole", "waiting", "judged"]
"""whole: it is, from the first step to the last. waiting: it is, but a critic is still to join. judged: a critic's
gradient counts beside it."""


class LossTerms(NamedTuple):
    """What one turn found on one micro-batch."""

    terms: Mapping[str, tuple[float | Tensor, Tensor]]
    """Name → (weight, value averaged over the images); the player minimises Σ weight · value."""
    notes: Mapping[str, Tensor] = {}
    """Averaged and logged like terms, never minimised."""

    def total(self) -> Tensor:
        """Σ weight · value."""
        first, *others = (value if weight == 1 else weight * value for weight, value in self.terms.values())
        return sum(others, start=first)

    def title(self) -> str:
        """What the total is, such as ½·SSE + 0.5·KL."""
        weighted = ((float(weight), name) for name, (weight, _) in self.terms.items())
        return " + ".join(name if weight == 1 else f"{weight:g}·{name}" for weight, name in weighted)


class Turn(NamedTuple):
    """One player's move."""

    player: str
    """Whose weights move."""
    score: Callable[[Batch, Moment], LossTerms]
    every: int = 1
    """Plays when step % every == 0."""
    starts: int = 0
    """Images seen before its first move."""
    after: Callable[[dict[str, Tensor]], None] | None = None
    """Called once per move with the notes averaged over the global batch: here buffers change."""
    ready: Callable[[], bool] | None = None
    """Whether it plays yet, where that is decided in training, by buffers; None for always."""


class Objective(nn.Module):
    """Players, their turns, and the model that comes out of it.

    All state lives in buffers. A forward pass changes no buffer but BatchNorm's; every other changes in a turn's
    `after`, from notes averaged over the global batch, so that neither micro-batches nor processes change it.
    """

    players: dict[str, nn.Module]
    turns: Sequence[Turn]

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What is averaged, evaluated and shipped."""

    def compilable(self) -> list[nn.Module]:
        """What `torch.compile` may be used on: all but what is differentiated twice."""
        return [child for player in self.players.values() for child in player.children()]

    @property
    def phase(self) -> Phase:
        """Whether the loss on held-out images is what training is after."""
        return "whole"

    def rehearse(self) -> None:
        """On a copy that is thrown away: have every player in the game, so that a step costs what it will cost."""

    @property
    def whole(self) -> str | None:
        """Why a batch may not be split without changing the result; None if it may."""
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in self.modules()):
            return "BatchNorm takes its statistics over the part of a batch that it sees"
        return None


@runtime_checkable
class Restarts(Protocol):
    """A part of an objective that counts the course of a run, which begins anew where weights of another are taken."""

    def restart(self) -> None:
        """As at the start of a run; weights stay."""
        ...


@runtime_checkable
class Validates(Protocol):
    """An objective whose loss on held-out images says how good a model is."""

    def validate(self, model: nn.Module, batch: Batch, moment: Moment) -> LossTerms:
        """The terms of a model, such as the averaged one, as they stand at the end of training."""
        ...
