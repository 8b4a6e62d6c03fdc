"""Importance-weighted objectives: tighter bounds of the log-likelihood than the ELBO, and variants of them.

All are computed from log w = log p(x, z) − log q(z|x) at several draws of z for each image. IWAE is the logarithm of
the mean of k weights (Burda et al. 2016). More draws make the bound tighter and the encoder's gradient noisier; MIWAE,
CIWAE and PIWAE are three remedies (Rainforth et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ObjectiveConfig
from ectype.core.errors import ModelError
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.models.base import ImportanceWeighted
from ectype.nets.param_groups import ParameterGroup, parameter_groups_of
from ectype.objectives.base import LossTerms, Objective, Turn

__all__ = ["CIWAEConfig", "IWAEConfig", "ImportanceWeightedObjective", "MIWAEConfig", "PIWAEConfig", "log_mean_exp"]

LogWeights = Float[Tensor, "k b"]


MAX_ELEMENTS_PER_VALIDATION_DECODE = 2**22
"""Image elements that validation decodes at once, about 1 GB with the activations of a convolutional decoder."""


class _PlayerModules(nn.ModuleList):
    """One half of a model as a player; its submodules keep the learning rates that they ask for."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__([part])

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return the parameter groups, each parameter once."""
        return parameter_groups_of(self)


def log_mean_exp(values: Float[Tensor, " k *rest"]) -> Float[Tensor, " *rest"]:
    """Compute log 1/k Σ exp over the first dimension."""
    return torch.logsumexp(values, 0) - math.log(len(values))


class ImportanceWeightedObjective(Objective):
    """Maximize bounds computed from log weights.

    Args:
        model: A model that returns log weights of draws of its code.
        groups: Number of bounds that are averaged, M.
        samples: Draws in each bound, k.
        elbo_weight: Weight of the ELBO, β of CIWAE; the importance-weighted bound has 1 − β.
        split_players: Whether encoder and decoder are separate players: the encoder maximizes the mean of M bounds with
            k draws, and the decoder one bound with all M·k draws (PIWAE).

    Raises:
        ModelError: The model has no log weights, or they could not be compared.
    """

    def __init__(self, model: nn.Module, *, groups: int, samples: int, elbo_weight: float, split_players: bool) -> None:
        super().__init__()
        if not isinstance(model, ImportanceWeighted):
            raise ModelError(
                "importance-weighted objectives need a posterior and a likelihood that is a density: set "
                "bottleneck=gaussian and likelihood=bernoulli (data.binarise=dynamic), or another density."
            )
        assert isinstance(model, nn.Module)
        if getattr(getattr(model, "likelihood", None), "batch_dependent", False):
            raise ModelError(
                "importance weights cannot be compared when σ is fitted to each batch: set likelihood.sigma=learned or "
                "fixed."
            )
        if getattr(getattr(model, "corruption", None), "active", False):
            raise ModelError("importance-weighted objectives score the image itself: set corruption=none.")
        self.weighing = model  # the name is part of saved state dicts
        self.groups, self.samples, self.elbo_weight = groups, samples, elbo_weight
        if split_players:
            self.players = {
                "encoder": _PlayerModules(model.inference_network()),
                "decoder": _PlayerModules(model.generative_network()),
            }
            self.turns: Sequence[Turn] = [Turn("encoder", self.score), Turn("decoder", self.score_all_draws)]
        else:
            self.players = {"model": model}
            self.turns = [Turn("model", self.score)]

    @property
    def model(self) -> nn.Module:
        assert isinstance(self.weighing, nn.Module)
        return self.weighing

    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the negative mean of M bounds with k draws, mixed with the negative ELBO."""
        log_weights = self._log_weights(self.model, batch, context)
        bound = log_mean_exp(log_weights.unflatten(0, (self.groups, self.samples)).movedim(1, 0)).mean(0)
        terms: dict[str, tuple[float | Tensor, Tensor]] = {}
        if self.elbo_weight < 1:
            terms[_bound_name(self.samples)] = (1 - self.elbo_weight, -bound.mean())
        if self.elbo_weight:
            terms["−ELBO"] = (self.elbo_weight, -log_weights.mean())
        return LossTerms(terms, {} if self.elbo_weight else {"−ELBO": -log_weights.mean().detach()})

    def score_all_draws(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute one negative bound with all M·k draws."""
        bound = log_mean_exp(self._log_weights(self.model, batch, context))
        return LossTerms({_bound_name(self.groups * self.samples): (1.0, -bound.mean())})

    def validate(self, model: nn.Module, batch: Batch, context: StepContext) -> LossTerms:
        """Compute one negative bound with all M·k draws, which all of these objectives aim at in the end."""
        # In chunks: validation batches are large, and every draw of every image is decoded.
        chunk = max(1, MAX_ELEMENTS_PER_VALIDATION_DECODE // (self.groups * self.samples * batch.image[0].numel()))
        b = len(batch.image)
        parts = [self._log_weights(model, batch, context, slice(i, i + chunk)) for i in range(0, b, chunk)]
        log_weights = torch.cat(parts, dim=1)
        bound = {_bound_name(self.groups * self.samples): (1.0, -log_mean_exp(log_weights).mean())}
        return LossTerms(bound, {"−ELBO": -log_weights.mean()})

    def _log_weights(
        self, model: nn.Module, batch: Batch, context: StepContext, part: slice = slice(None)
    ) -> LogWeights:
        assert isinstance(model, ImportanceWeighted)
        k = self.groups * self.samples
        b = len(batch.image)

        def draw(use: str, *shape: int) -> Tensor:
            # Drawn for the whole batch and then sliced, so that the noise does not depend on the chunks.
            return context.normal(use, b, k, *shape).transpose(0, 1)[:, part]

        return model.log_weights(batch.image[part], draw)


def _bound_name(k: int) -> str:
    return f"−log p ≤, k = {k}"


class IWAEConfig(ObjectiveConfig):
    """The importance-weighted bound with k draws (Burda et al. 2016); with one draw, an estimate of the ELBO."""

    kind: Literal["iwae"] = "iwae"
    samples: int = Field(default=5, ge=1, le=100_000)
    """Draws k."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> ImportanceWeightedObjective:
        return ImportanceWeightedObjective(model, groups=1, samples=self.samples, elbo_weight=0.0, split_players=False)


class MIWAEConfig(ObjectiveConfig):
    """The mean of M importance-weighted bounds: the encoder's gradient is less noisy (Rainforth et al. 2018)."""

    kind: Literal["miwae"] = "miwae"
    groups: int = Field(default=8, ge=1, le=16_384)
    """Bounds M."""
    samples: int = Field(default=8, ge=1, le=100_000)
    """Draws k of each bound."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> ImportanceWeightedObjective:
        return ImportanceWeightedObjective(
            model, groups=self.groups, samples=self.samples, elbo_weight=0.0, split_players=False
        )


class PIWAEConfig(ObjectiveConfig):
    """The encoder maximizes the mean of M bounds of k draws, the decoder one of M·k (Rainforth et al. 2018)."""

    kind: Literal["piwae"] = "piwae"
    groups: int = Field(default=8, ge=1, le=16_384)
    """Bounds M."""
    samples: int = Field(default=8, ge=1, le=100_000)
    """Draws k of each bound."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> ImportanceWeightedObjective:
        return ImportanceWeightedObjective(
            model, groups=self.groups, samples=self.samples, elbo_weight=0.0, split_players=True
        )


class CIWAEConfig(ObjectiveConfig):
    """A mixture of β times the ELBO and 1 − β times the importance-weighted bound (Rainforth et al. 2018)."""

    kind: Literal["ciwae"] = "ciwae"
    samples: int = Field(default=64, ge=1, le=100_000)
    """Draws k."""
    mix: float = Field(default=0.5, ge=0, le=1)
    """Weight of the ELBO, β."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> ImportanceWeightedObjective:
        return ImportanceWeightedObjective(
            model, groups=1, samples=self.samples, elbo_weight=self.mix, split_players=False
        )
