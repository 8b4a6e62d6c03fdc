"""Base class of objectives with one model, and optionally a critic that joins during training."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.objectives.base import CriticPhase, LossTerms, Objective, Turn
from ectype.objectives.critic_term import CriticTerm

__all__ = ["WithCritic"]


class WithCritic(Objective):
    """An objective with a player `model`, and a second player `critic` if there is one.

    Args:
        model: The model that is trained and saved.
        critic: The critic's term of the model's loss; None for no critic.
    """

    def __init__(self, model: nn.Module, critic: CriticTerm | None) -> None:
        super().__init__()
        self.critic = critic
        self.players = {"model": model}
        self.turns = [Turn("model", self.score, after=self.after_model_update)]
        if critic is not None:
            self.players["critic"] = critic.adversary
            self.turns.append(
                Turn(
                    "critic",
                    self.score_critic,
                    starts=critic.starts,
                    after=critic.after_critic_update,
                    is_active=critic.has_joined,
                )
            )

    @abstractmethod
    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the loss of the model's turn."""

    @abstractmethod
    def score_critic(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the loss of the critic's turn."""

    def after_model_update(self, notes: dict[str, Tensor]) -> None:
        """Update buffers after each update of the model."""
        if self.critic is not None:
            self.critic.after_model_update(notes)

    @property
    def critic_phase(self) -> CriticPhase:
        if self.critic is None:
            return "whole"
        return "judged" if self.critic.contributes else "waiting"

    def activate_all_players(self) -> None:
        if self.critic is not None:
            self.critic.activate()

    def compilable_modules(self) -> list[nn.Module]:
        return [
            part
            for name, player in self.players.items()
            if name != "critic" or (self.critic is not None and self.critic.adversary.compilable)
            for part in player.children()
        ]
