"""One model, and perhaps a critic that joins when the rest has settled: what such games have in common."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.objectives.base import LossTerms, Objective, Phase, Turn
from ectype.objectives.critic_term import CriticTerm

__all__ = ["Judged"]


class Judged(Objective):
    """A player called model, and a second called critic where there is one.

    Args:
        model: What is trained and shipped.
        critic: Its term in the model's loss; None for a game of one.
    """

    def __init__(self, model: nn.Module, critic: CriticTerm | None) -> None:
        super().__init__()
        self.critic = critic
        self.players = {"model": model}
        self.turns = [Turn("model", self.score, after=self.observe)]
        if critic is not None:
            self.players["critic"] = critic.adversary
            self.turns.append(
                Turn("critic", self.score_critic, starts=critic.starts, after=critic.moved, ready=critic.ready)
            )

    @abstractmethod
    def score(self, batch: Batch, moment: Moment) -> LossTerms:
        """The model's turn."""

    @abstractmethod
    def score_critic(self, batch: Batch, moment: Moment) -> LossTerms:
        """The critic's turn."""

    def observe(self, notes: dict[str, Tensor]) -> None:
        """After each of the model's moves: what is followed in buffers."""
        if self.critic is not None:
            self.critic.observe(notes)

    @property
    def phase(self) -> Phase:
        if self.critic is None:
            return "whole"
        return "judged" if self.critic.counts else "waiting"

    def rehearse(self) -> None:
        if self.critic is not None:
            self.critic.rehearse()

    def compilable(self) -> list[nn.Module]:
        return [
            part
            for name, player in self.players.items()
            if name != "critic" or (self.critic is not None and self.critic.adversary.compiles)
            for part in player.children()
        ]
