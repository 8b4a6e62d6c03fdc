"""A critic beside a reconstruction loss: when it joins, how much it counts, and how it moves."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.data.batch import Moment
from ectype.nets.critics import CriticConfig
from ectype.nets.patch import PatchCriticConfig
from ectype.objectives.adversary import Adversary, AdversaryConfig, Penalty
from ectype.objectives.base import LossTerms
from ectype.sections import Count, DataInfo

__all__ = ["CriticTerm", "CriticTermConfig"]

FAST, SLOW = 100, 400
"""Moves over which the loss is averaged to ask whether it still falls."""
SETTLED = 0.02
"""How far the average over few moves lies below that over many, as a share of it, when the reconstruction has
settled."""
LATEST = 0.5
"""Share of the budget after which the critic joins, settled or not."""
COUNTS = ("fast", "slow", "moves", "settled", "played", "ratio")
"""Buffers that say where in its course a run stands."""
LARGEST = 1e4
"""Of the adaptive weight, as in VQGAN (Esser et al. 2021)."""


class CriticTermConfig(AdversaryConfig):
    """How little a critic is fooled by the reconstruction, as a term of the loss.

    The weight is that of VQGAN and latent diffusion (Esser et al. 2021, eq. 7): of the gradient at the last layer, what
    the critic adds is `weight` times as large as that of all other terms.
    """

    weight: float = Field(default=0.0, ge=0)
    """Of the term; 0 for no critic."""
    adaptive: bool = True
    """Whether the weight is relative to the other terms' gradient, or a plain factor."""
    starts: Literal["settled"] | Annotated[Count, Field(ge=0)] = "settled"
    """Images seen when the critic joins. settled: when the reconstruction loss hardly falls any more, at half of the
    budget at the latest. A critic that joins earlier wrecks the reconstruction."""
    warmup: Annotated[Count, Field(ge=0)] = 1000
    """The critic's moves before its gradient counts, and then those over which the weight rises to its full height."""
    critic: CriticConfig = PatchCriticConfig()
    loss: Literal["relativistic", "non_saturating", "hinge", "least_squares", "wasserstein"] = "hinge"
    penalty: Penalty = Penalty()


class CriticTerm(nn.Module):
    """The critic as a player, and what the other player's loss needs of it.

    All that it knows of the course of training lies in buffers, which change after moves alone.
    """

    fast: Tensor
    slow: Tensor
    moves: Tensor
    settled: Tensor
    played: Tensor
    ratio: Tensor

    def __init__(self, config: CriticTermConfig, info: DataInfo, *, images: int) -> None:
        super().__init__()
        self.config, self.images = config, images
        self.adversary = Adversary(config, info)
        for name in COUNTS:
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def restart(self) -> None:
        """As if the critic were still to join, with the weights that it has."""
        for name in COUNTS:
            self.get_buffer(name).zero_()

    def rehearse(self) -> None:
        """As if the critic had joined and counted in full."""
        self.settled.fill_(1)
        self.played.fill_(2 * self.config.warmup + 1)

    @property
    def starts(self) -> int:
        """Images seen before the critic may join."""
        return 0 if self.config.starts == "settled" else self.config.starts

    def ready(self) -> bool:
        """Whether the critic plays."""
        return self.config.starts != "settled" or bool(self.settled)

    @property
    def counts(self) -> bool:
        """Whether the critic has been trained for long enough to be asked."""
        return self.ready() and float(self.played) > self.config.warmup

    def score(self, real: Float[Tensor, "b c h w"], fake: Float[Tensor, "b c h w"], moment: Moment) -> LossTerms:
        """The critic's turn; see `Adversary.against`."""
        return self.adversary.against(real, fake, None, moment)

    def join(
        self,
        found: LossTerms,
        fake: Float[Tensor, "b c h w"],
        real: Float[Tensor, "b c h w"],
        last: nn.Parameter,
        moment: Moment,
    ) -> LossTerms:
        """The model's turn: its own terms, and the critic's where that counts already.

        Args:
            found: The terms without the critic.
            fake: What the model made, in [0, 1], with gradients.
            real: What it should have made.
            last: Weights of the model's last layer, where gradients are compared.
            moment: Now.
        """
        total = found.total()
        notes = {**found.notes, "so far": torch.stack([total.detach().float(), total.new_tensor(moment.seen).float()])}
        if not self.counts:
            return LossTerms(found.terms, notes)
        adversarial = self.adversary.fooled_by(fake, real, None, moment)
        weight = self.config.weight * self._risen()
        if self.config.adaptive:
            for name, loss in (("∇ of the rest", total), ("∇ of the critic's", adversarial)):
                notes[name] = torch.autograd.grad(loss, last, retain_graph=True)[0].detach().float()
            weight = weight * self.ratio
            notes["adversarial weight"] = torch.as_tensor(weight).clone()
        return LossTerms({**found.terms, "adversarial": (weight, adversarial)}, notes)

    def _risen(self) -> float:
        if not self.config.warmup:
            return 1.0
        return min(1.0, (float(self.played) - self.config.warmup) / self.config.warmup)

    @torch.no_grad()
    def observe(self, notes: dict[str, Tensor]) -> None:
        """After each of the model's moves: has the reconstruction settled, and how do the gradients compare?"""
        loss, seen = notes["so far"]
        self.moves.add_(1)
        for average, over in ((self.fast, FAST), (self.slow, SLOW)):
            # As if there had never been anything before the first move.
            average.lerp_(loss, 1 / min(over, float(self.moves)))
        # Logarithms of densities may be negative.
        flat = self.moves > 2 * SLOW and self.slow - self.fast < SETTLED * self.slow.abs()
        if flat or seen >= LATEST * self.images:
            self.settled.fill_(1)
        if (made := notes.get("∇ of the critic's")) is not None:
            self.ratio.copy_((notes["∇ of the rest"].norm() / (made.norm() + 1e-4)).clamp(0, LARGEST))

    @torch.no_grad()
    def moved(self, notes: dict[str, Tensor]) -> None:
        """After each of the critic's moves."""
        self.played.add_(1)
        self.adversary.moved(notes)
