"""Tighter bounds of the likelihood than the evidence's: importance-weighted ones, and what follows from them.

All are of log w = log p(x, z) − log q(z|x) at several draws of z for each image. k draws in one logarithm of a mean are
IWAE's (Burda et al. 2016). The more there are, the tighter the bound and the noisier the gradient that the encoder
gets of it; MIWAE, CIWAE and PIWAE are three ways out (Rainforth et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.errors import ModelError
from ectype.models.base import Weighs
from ectype.nets.groups import Group, grouped
from ectype.objectives.base import LossTerms, Objective, Turn
from ectype.sections import DataInfo, ObjectiveConfig

__all__ = ["CIWAEConfig", "ImportanceWeighted", "IWAEConfig", "MIWAEConfig", "PIWAEConfig", "log_mean_exp"]

LogWeights = Float[Tensor, "k b"]


AT_ONCE = 2**22
"""Numbers of images that a check decodes at once, about 1 GB with the activations of a convolutional decoder."""


class _Half(nn.ModuleList):
    """One side of a model as a player, whose parts keep the rates that they ask for."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__([part])

    def parameter_groups(self) -> Sequence[Group]:
        """Every parameter once."""
        return grouped(self)


def log_mean_exp(values: Float[Tensor, " k *rest"]) -> Float[Tensor, " *rest"]:
    """Log 1/k Σ exp over the first dimension."""
    return torch.logsumexp(values, 0) - math.log(len(values))


class ImportanceWeighted(Objective):
    """Maximises bounds made of log weights, one for each player.

    Args:
        model: It weighs draws of its code.
        groups: M bounds, averaged.
        samples: k draws in each.
        mix: Share of the evidence lower bound, β of CIWAE.
        parted: Whether the encoder climbs the mean of M bounds of k draws, and the decoder one bound of all M·k: PIWAE.
    """

    def __init__(self, model: nn.Module, *, groups: int, samples: int, mix: float, parted: bool) -> None:
        super().__init__()
        if not isinstance(model, Weighs):
            raise ModelError(
                "importance-weighted objectives need a posterior and a decoder that states a density: set "
                "bottleneck=gaussian and likelihood=bernoulli (data.binarise=dynamic), or another density."
            )
        assert isinstance(model, nn.Module)
        if getattr(getattr(model, "likelihood", None), "whole", False):
            raise ModelError(
                "a σ that is fitted to each batch is none that weights of draws can be compared under: set "
                "likelihood.sigma=learned, or fixed."
            )
        if getattr(getattr(model, "corruption", None), "active", False):
            raise ModelError("importance-weighted objectives score the image itself: set corruption=none.")
        self.weighing, self.groups, self.samples, self.mix = model, groups, samples, mix
        if parted:
            self.players = {"encoder": _Half(model.recognition()), "decoder": _Half(model.generation())}
            self.turns: Sequence[Turn] = [Turn("encoder", self.score), Turn("decoder", self.score_all)]
        else:
            self.players = {"model": model}
            self.turns = [Turn("model", self.score)]

    @property
    def model(self) -> nn.Module:
        assert isinstance(self.weighing, nn.Module)
        return self.weighing

    def score(self, batch: Batch, moment: Moment) -> LossTerms:
        """The mean of M bounds of k draws, with a share of the evidence's."""
        weights = self._weights(self.model, batch, moment)
        bound = log_mean_exp(weights.unflatten(0, (self.groups, self.samples)).movedim(1, 0)).mean(0)
        terms: dict[str, tuple[float | Tensor, Tensor]] = {}
        if self.mix < 1:
            terms[_name(self.samples)] = (1 - self.mix, -bound.mean())
        if self.mix:
            terms["−ELBO"] = (self.mix, -weights.mean())
        return LossTerms(terms, {} if self.mix else {"−ELBO": -weights.mean().detach()})

    def score_all(self, batch: Batch, moment: Moment) -> LossTerms:
        """One bound of all draws."""
        bound = log_mean_exp(self._weights(self.model, batch, moment))
        return LossTerms({_name(self.groups * self.samples): (1.0, -bound.mean())})

    def validate(self, model: nn.Module, batch: Batch, moment: Moment) -> LossTerms:
        """The bound of all draws, whatever training mixes: it is what every one of these objectives is after."""
        # A check shows many images at once, and every draw of each is one to decode.
        step = max(1, AT_ONCE // (self.groups * self.samples * batch.image[0].numel()))
        b = len(batch.image)
        parts = [self._weights(model, batch, moment, slice(i, i + step)) for i in range(0, b, step)]
        weights = torch.cat(parts, dim=1)
        bound = {_name(self.groups * self.samples): (1.0, -log_mean_exp(weights).mean())}
        return LossTerms(bound, {"−ELBO": -weights.mean()})

    def _weights(self, model: nn.Module, batch: Batch, moment: Moment, part: slice = slice(None)) -> LogWeights:
        assert isinstance(model, Weighs)
        k = self.groups * self.samples
        b = len(batch.image)

        def draw(use: str, *shape: int) -> Tensor:
            # Drawn for the images of the whole batch, of which this may be a part.
            return moment.normal(use, b, k, *shape).transpose(0, 1)[:, part]

        return model.log_weights(batch.image[part], draw)


def _name(k: int) -> str:
    return f"−log p ≤, k = {k}"


class IWAEConfig(ObjectiveConfig):
    """The importance-weighted bound of k draws (Burda et al. 2016); with one, the evidence lower bound by sampling."""

    kind: Literal["iwae"] = "iwae"
    samples: int = Field(default=5, ge=1)
    """k."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> ImportanceWeighted:
        return ImportanceWeighted(model, groups=1, samples=self.samples, mix=0.0, parted=False)


class MIWAEConfig(ObjectiveConfig):
    """The mean of M such bounds: the encoder's gradient is less noisy (Rainforth et al. 2018)."""

    kind: Literal["miwae"] = "miwae"
    groups: int = Field(default=8, ge=1)
    """M."""
    samples: int = Field(default=8, ge=1)
    """k."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> ImportanceWeighted:
        return ImportanceWeighted(model, groups=self.groups, samples=self.samples, mix=0.0, parted=False)


class PIWAEConfig(ObjectiveConfig):
    """The encoder climbs the mean of M bounds of k draws, the decoder one of M·k (Rainforth et al. 2018)."""

    kind: Literal["piwae"] = "piwae"
    groups: int = Field(default=8, ge=1)
    """M."""
    samples: int = Field(default=8, ge=1)
    """k."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> ImportanceWeighted:
        return ImportanceWeighted(model, groups=self.groups, samples=self.samples, mix=0.0, parted=True)


class CIWAEConfig(ObjectiveConfig):
    """β of the evidence lower bound beside 1 − β of the importance-weighted one (Rainforth et al. 2018)."""

    kind: Literal["ciwae"] = "ciwae"
    samples: int = Field(default=64, ge=1)
    """k."""
    mix: float = Field(default=0.5, ge=0, le=1)
    """β."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> ImportanceWeighted:
        return ImportanceWeighted(model, groups=1, samples=self.samples, mix=self.mix, parted=False)
