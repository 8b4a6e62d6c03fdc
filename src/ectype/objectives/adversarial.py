"""Train a generator against a critic."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.errors import ModelError
from ectype.models.gan import Generator
from ectype.objectives.adversary import Adversary, AdversaryConfig, Given
from ectype.objectives.base import LossTerms, Objective, Turn
from ectype.sections import DataInfo, ObjectiveConfig

__all__ = ["Adversarial", "AdversarialConfig"]


class Adversarial(Objective):
    """Two players: the critic learns to tell real images from made ones, the generator to keep it from that.

    Made images have the labels of the batch, so classes are as frequent among them as among the real ones.
    """

    def __init__(self, model: nn.Module, config: AdversarialConfig, info: DataInfo) -> None:
        super().__init__()
        if not isinstance(model, Generator):
            raise ModelError("objective=adversarial trains generators: choose model=generator.")
        if model.conditional != (config.condition != "none"):
            raise ModelError(
                "generator and critic must both be told the label, or neither: set model.condition and "
                "objective.condition together."
            )
        self.generator = model
        given = None if config.condition == "none" else Given(config.condition, len(info.classes))
        self.adversary = Adversary(config.adversary, info, given)
        self.players = {"critic": self.adversary, "generator": model}
        self.turns = [
            Turn("critic", self.score_critic, after=self.adversary.moved),
            Turn("generator", self.score_generator, every=config.critic_steps),
        ]

    @property
    def model(self) -> Generator:
        return self.generator

    def compilable(self) -> list[nn.Module]:
        return [self.generator.net, *([self.adversary.critic] if self.adversary.compiles else [])]

    def _made(self, batch: Batch, moment: Moment) -> tuple[Tensor, Tensor | None]:
        label = batch.label if self.generator.conditional else None
        z = moment.normal("z", len(batch.image), self.generator.latent_dim)
        return self.generator(z, label), label

    def score_critic(self, batch: Batch, moment: Moment) -> LossTerms:
        """The critic's loss on real images and as many made ones."""
        with torch.no_grad():
            made, label = self._made(batch, moment)
        return self.adversary.against(batch.image, made, label, moment)

    def score_generator(self, batch: Batch, moment: Moment) -> LossTerms:
        """The generator's loss on made images, each beside a real one where they are judged in pairs."""
        made, label = self._made(batch, moment)
        return LossTerms({"adversarial": (1.0, self.adversary.fooled_by(made, batch.image, label, moment))})


class AdversarialConfig(ObjectiveConfig):
    """Generator against critic."""

    kind: Literal["adversarial"] = "adversarial"
    adversary: AdversaryConfig = AdversaryConfig()
    condition: Literal["none", "concat", "embedding", "projection"] = "none"
    """How the critic is told the label."""
    critic_steps: int = Field(default=1, ge=1)
    """The critic's moves for each of the generator's."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Adversarial:
        return Adversarial(model, self, info)
