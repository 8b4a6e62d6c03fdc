"""Train a generator against a critic."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ObjectiveConfig
from ectype.core.errors import ModelError
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.models.gan import Generator
from ectype.models.latent_space import LatentSpaceModel
from ectype.nets.critics import ConvCriticConfig, MLPCriticConfig
from ectype.objectives.adversary import Adversary, AdversaryConfig, Conditioning
from ectype.objectives.base import LossTerms, Objective, Turn
from ectype.objectives.latent_space import LatentSpaceObjective

__all__ = ["Adversarial", "AdversarialConfig"]


class Adversarial(Objective):
    """A GAN: the critic learns to distinguish real from generated images, and the generator to prevent it.

    Generated images have the labels of the batch, so that their class frequencies are those of the real images.

    Args:
        model: A `Generator`.
        config: Critic, losses and conditioning.
        info: Shape and classes of the images.

    Raises:
        ModelError: The model is no generator, or only one of generator and critic is conditional.
    """

    def __init__(self, model: nn.Module, config: AdversarialConfig, info: DataInfo) -> None:
        super().__init__()
        if not isinstance(model, Generator):
            raise ModelError("objective=adversarial trains generators: choose model=generator.")
        if model.conditional != (config.condition != "none"):
            raise ModelError(
                "generator and critic must both be conditioned on the label, or neither: set model.condition and "
                "objective.condition together."
            )
        self.generator = model
        conditioning = None if config.condition == "none" else Conditioning(config.condition, len(info.classes))
        self.adversary = Adversary(config.adversary, info, conditioning)
        self.players = {"critic": self.adversary, "generator": model}
        self.turns = [
            Turn("critic", self.score_critic, after=self.adversary.after_update),
            Turn("generator", self.score_generator, every=config.critic_steps),
        ]

    @property
    def model(self) -> Generator:
        return self.generator

    def compilable_modules(self) -> list[nn.Module]:
        return [self.generator.net, *([self.adversary.critic] if self.adversary.compilable else [])]

    def _generate(self, batch: Batch, context: StepContext) -> tuple[Tensor, Tensor | None]:
        label = batch.label if self.generator.conditional else None
        z = context.normal("z", len(batch.image), self.generator.latent_dim)
        return self.generator(z, label), label

    def score_critic(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the critic's loss on real images and equally many generated ones."""
        with torch.no_grad():
            fake, label = self._generate(batch, context)
        return self.adversary.critic_loss(batch.image, fake, label, context)

    def score_generator(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the generator's loss on generated images, paired with real ones if the loss compares pairs."""
        fake, label = self._generate(batch, context)
        return LossTerms({"adversarial": (1.0, self.adversary.generator_loss(fake, batch.image, label, context))})


class AdversarialConfig(ObjectiveConfig):
    """A generator against a critic."""

    kind: Literal["adversarial"] = "adversarial"
    only_for_pixels: ClassVar[tuple[str, ...]] = ("adversary.critic", "adversary.augment")
    adversary: AdversaryConfig = AdversaryConfig()
    condition: Literal["none", "concat", "embedding", "projection"] = "none"
    """How the critic is conditioned on the label."""
    critic_steps: int = Field(default=1, ge=1, le=1000)
    """Updates of the critic for each of the generator."""

    def on_codes(self, shape: tuple[int, ...]) -> AdversarialConfig:
        """Replace a critic of convolutions by an MLP, as `GeneratorModelConfig.on_codes` does with the generator."""
        if not isinstance(self.adversary.critic, ConvCriticConfig):
            return self
        return self.model_copy(update={"adversary": self.adversary.model_copy(update={"critic": MLPCriticConfig()})})

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Adversarial | LatentSpaceObjective:
        if isinstance(model, LatentSpaceModel):
            return LatentSpaceObjective(model, Adversarial(model.inner, self, model.code_info))
        return Adversarial(model, self, info)
