"""An adversarial term of another loss: when the critic joins, how its term is weighted, and how it is updated."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import Count, DataInfo
from ectype.core.random import StepContext
from ectype.nets.critics import CriticConfig
from ectype.nets.patch_critic import PatchCriticConfig
from ectype.objectives.adversary import Adversary, AdversaryConfig, Penalty
from ectype.objectives.base import LossTerms

__all__ = ["CriticTerm", "CriticTermConfig"]

FAST_AVERAGE_UPDATES, SLOW_AVERAGE_UPDATES = 100, 400
"""Updates over which the loss is averaged, twice, to find out whether it is still falling."""
MAX_RELATIVE_DECREASE = 0.02
"""The loss has settled when its fast average is below its slow one by less than this fraction."""
LATEST_START_FRACTION = 0.5
"""Fraction of the budget after which the critic joins, even if the loss has not settled."""
PROGRESS_BUFFERS = ("fast", "slow", "moves", "settled", "played", "ratio")
"""Buffers that track the progress of a run."""
MAX_ADAPTIVE_WEIGHT = 1e4
"""Largest adaptive weight, as in VQGAN (Esser et al. 2021)."""


class CriticTermConfig(AdversaryConfig):
    """An adversarial loss on reconstructions as a term of the model's loss.

    The adaptive weight is that of VQGAN and latent diffusion (Esser et al. 2021, eq. 7): at the last layer, the norm of
    the term's gradient is `weight` times that of all other terms together.
    """

    weight: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of the term; 0 for no critic."""
    adaptive: bool = True
    """Whether the weight is relative to the gradient of the other terms, or a plain factor."""
    starts: Literal["settled"] | Annotated[Count, Field(ge=0)] = "settled"
    """Images seen when the critic joins. settled: when the reconstruction loss has almost stopped falling, and after
    half of the budget at the latest. A critic that joins too early damages reconstructions."""
    warmup: Annotated[Count, Field(ge=0)] = 1000
    """Updates of the critic before its term contributes, and then those over which its weight rises from 0."""
    critic: CriticConfig = PatchCriticConfig()
    loss: Literal["relativistic", "non_saturating", "hinge", "least_squares", "wasserstein"] = "hinge"
    penalty: Penalty = Penalty()


class CriticTerm(nn.Module):
    """A critic as a player, and its term of the other player's loss.

    Its progress is in buffers, which change only after updates.

    Args:
        config: Critic, weight and schedule.
        info: Shape of the images.
        images: Training budget in images.
    """

    fast: Tensor
    """Average of the loss over few updates."""
    slow: Tensor
    """Average of the loss over many updates."""
    moves: Tensor
    """Updates of the model."""
    settled: Tensor
    """1 once the loss has settled, else 0."""
    played: Tensor
    """Updates of the critic."""
    ratio: Tensor
    """Gradient norm of the other terms, divided by that of the critic's."""

    def __init__(self, config: CriticTermConfig, info: DataInfo, *, images: int) -> None:
        super().__init__()
        self.config, self.budget = config, images
        self.adversary = Adversary(config, info)
        for name in PROGRESS_BUFFERS:
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def reset_progress(self) -> None:
        """Reset to the state before the critic joined; its weights stay."""
        for name in PROGRESS_BUFFERS:
            self.get_buffer(name).zero_()

    def activate(self) -> None:
        """Set the state in which the critic has joined and its weight is at its full height."""
        self.settled.fill_(1)
        self.played.fill_(2 * self.config.warmup + 1)

    @property
    def starts(self) -> int:
        """Images seen before the critic may join."""
        return 0 if self.config.starts == "settled" else self.config.starts

    def has_joined(self) -> bool:
        """Return whether the critic is trained yet."""
        return self.config.starts != "settled" or bool(self.settled)

    @property
    def contributes(self) -> bool:
        """Whether the critic has been trained for long enough to contribute to the model's loss."""
        return self.has_joined() and float(self.played) > self.config.warmup

    def score(self, real: Float[Tensor, "b c h w"], fake: Float[Tensor, "b c h w"], context: StepContext) -> LossTerms:
        """Compute the loss of the critic's turn; see `Adversary.critic_loss`."""
        return self.adversary.critic_loss(real, fake, None, context)

    def add_to_loss(
        self,
        loss: LossTerms,
        fake: Float[Tensor, "b c h w"],
        real: Float[Tensor, "b c h w"],
        last_layer: nn.Parameter,
        context: StepContext,
    ) -> LossTerms:
        """Add the adversarial term to the loss of the model's turn, if it contributes yet.

        Args:
            loss: The other terms.
            fake: Output images of the model in [0, 1], with gradients.
            real: Target images.
            last_layer: Weight of the model's last layer, where gradients are compared.
            context: Current step.
        """
        total = loss.total()
        notes = {**loss.notes, "so far": torch.stack([total.detach().float(), total.new_tensor(context.seen).float()])}
        if not self.contributes:
            return LossTerms(loss.terms, notes)
        adversarial = self.adversary.generator_loss(fake, real, None, context)
        weight = self.config.weight * self._warmup_factor()
        if self.config.adaptive:
            for name, value in (("∇ of the rest", total), ("∇ of the critic's", adversarial)):
                notes[name] = torch.autograd.grad(value, last_layer, retain_graph=True)[0].detach().float()
            weight = weight * self.ratio
            notes["adversarial weight"] = torch.as_tensor(weight).clone()
        return LossTerms({**loss.terms, "adversarial": (weight, adversarial)}, notes)

    def _warmup_factor(self) -> float:
        if not self.config.warmup:
            return 1.0
        return min(1.0, (float(self.played) - self.config.warmup) / self.config.warmup)

    @torch.no_grad()
    def after_model_update(self, notes: dict[str, Tensor]) -> None:
        """Track whether the reconstruction loss has settled, and the ratio of the gradients.

        Args:
            notes: Notes of `add_to_loss`, averaged over the global batch.
        """
        loss, seen = notes["so far"]
        self.moves.add_(1)
        for average, updates in ((self.fast, FAST_AVERAGE_UPDATES), (self.slow, SLOW_AVERAGE_UPDATES)):
            # A plain mean until there are enough updates, so that the initial 0 has no influence.
            average.lerp_(loss, 1 / min(updates, float(self.moves)))
        # |slow|, because the loss may be a negative log density below 0.
        falls_slowly = self.slow - self.fast < MAX_RELATIVE_DECREASE * self.slow.abs()
        settled = self.moves > 2 * SLOW_AVERAGE_UPDATES and falls_slowly
        if settled or seen >= LATEST_START_FRACTION * self.budget:
            self.settled.fill_(1)
        if (critic_gradient := notes.get("∇ of the critic's")) is not None:
            ratio = notes["∇ of the rest"].norm() / (critic_gradient.norm() + 1e-4)
            self.ratio.copy_(ratio.clamp(0, MAX_ADAPTIVE_WEIGHT))

    @torch.no_grad()
    def after_critic_update(self, notes: dict[str, Tensor]) -> None:
        """Count an update of the critic, and let it clip its weights and adapt its augmentation."""
        self.played.add_(1)
        self.adversary.after_update(notes)
