"""The interface of objectives: players, their turns, and the losses that they minimize."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from ectype.core.random import StepContext
from ectype.data.batch import Batch

__all__ = ["CriticPhase", "HasTrainingProgress", "LossTerms", "Objective", "Turn", "Validates"]


CriticPhase = Literal["whole", "waiting", "judged"]
"""What a critic contributes to the model's loss. The values are stored in checkpoints.

whole: there is no critic, and the validation loss is all that training minimizes. waiting: a critic has not started to
contribute yet. judged: the gradient of a critic contributes.
"""


class LossTerms(NamedTuple):
    """The losses of one turn on one micro-batch.

    Example:
        >>> import torch
        >>> loss = LossTerms({"L1": (1.0, torch.tensor(2.0)), "KL": (0.5, torch.tensor(4.0))})
        >>> loss.total(), loss.title()
        (tensor(4.), 'L1 + 0.5·KL')
    """

    terms: Mapping[str, tuple[float | Tensor, Tensor]]
    """Name → (weight, mean over the images); the player minimizes Σ weight · value."""
    notes: Mapping[str, Tensor] = {}
    """Further values, averaged and logged like terms, but never minimized."""

    def total(self) -> Tensor:
        """Return Σ weight · value."""
        first, *others = (value if weight == 1 else weight * value for weight, value in self.terms.values())
        return sum(others, start=first)

    def title(self) -> str:
        """Return a formula of the total, such as ½·SSE + 0.5·KL."""
        weighted = ((float(weight), name) for name, (weight, _) in self.terms.items())
        return " + ".join(name if weight == 1 else f"{weight:g}·{name}" for weight, name in weighted)


class Turn(NamedTuple):
    """One player's part of a training step: a loss and an update of the player's weights.

    Example:
        >>> turn = Turn("critic", score=lambda batch, context: LossTerms({}), every=2)
        >>> turn.player, turn.every, turn.starts
        ('critic', 2, 0)
    """

    player: str
    """Key of `Objective.players`: whose weights are updated."""
    score: Callable[[Batch, StepContext], LossTerms]
    """Computes the loss of a micro-batch."""
    every: int = 1
    """The turn is played when step % every == 0."""
    starts: int = 0
    """Images seen before the first update."""
    after: Callable[[dict[str, Tensor]], None] | None = None
    """Called once per update with the notes averaged over the global batch; the place to change buffers."""
    is_active: Callable[[], bool] | None = None
    """Returns whether the turn is played yet, if that is decided during training by buffers; None for always."""


class Objective(nn.Module):
    """Base class of objectives: players, their turns, and the model that results from training.

    All state is in buffers. A forward pass changes no buffers but those of BatchNorm; all others change in a turn's
    `after`, from notes averaged over the global batch, so that neither micro-batches nor processes affect them.

    Attributes:
        players: Modules by name, each with an optimizer of its own.
        turns: The turns of a training step, in order.
    """

    players: dict[str, nn.Module]
    turns: Sequence[Turn]

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The model that is averaged, evaluated and saved."""

    def compilable_modules(self) -> list[nn.Module]:
        """Return the modules that `torch.compile` may be applied to: all but those that are differentiated twice."""
        return [child for player in self.players.values() for child in player.children()]

    @property
    def critic_phase(self) -> CriticPhase:
        """What a critic contributes to the model's loss, and so whether the validation loss alone ranks models."""
        return "whole"

    @property
    def loss_ranks_models(self) -> bool:
        """Whether the loss measures how good a model is; see `Validates`."""
        return True

    def activate_all_players(self) -> None:
        """Make all players active, so that a step has its final cost; only for copies that are then discarded."""

    @property
    def batch_dependent(self) -> str | None:
        """Why splitting a batch would change the result, as a clause for a warning; None if it would not."""
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in self.modules()):
            return "BatchNorm computes its statistics over the part of a batch that it gets"
        return None


@runtime_checkable
class HasTrainingProgress(Protocol):
    """A part of an objective that tracks the progress of a run in buffers."""

    def reset_progress(self) -> None:
        """Reset the progress to the start of a run, when weights were taken from another run; weights stay."""
        ...


@runtime_checkable
class Validates(Protocol):
    """An objective whose loss can be measured on held-out images."""

    @property
    def loss_ranks_models(self) -> bool:
        """Whether the loss measures how good a model is, so that training is monitored by it."""
        ...

    def validate(self, model: nn.Module, batch: Batch, context: StepContext) -> LossTerms:
        """Return the loss of a model, such as the averaged one, with the weights of the end of training."""
        ...
