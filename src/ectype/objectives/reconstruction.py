"""Reconstruct the input: autoencoders, plain, denoising and variational."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ectype.data.batch import Batch, Moment
from ectype.errors import ModelError
from ectype.models.autoencoder import Autoencoder, GaussianAutoencoder
from ectype.objectives.base import LossTerms, Objective, Turn
from ectype.sections import DataInfo, ObjectiveConfig

__all__ = ["Elbo", "ElboConfig", "Reconstruction", "ReconstructionConfig"]


class Reconstruction(Objective):
    """One player, one turn: the likelihood's loss, and what the bottleneck costs at fixed weights."""

    def __init__(self, model: nn.Module, weights: dict[str, float]) -> None:
        super().__init__()
        if not isinstance(model, Autoencoder):
            raise ModelError(f"{type(self).__name__} trains autoencoders: choose model=autoencoder.")
        self.weights = weights
        self.autoencoder = model
        self.players = {"model": model}
        self.turns = [Turn("model", self.score, after=model.likelihood.observe)]

    @property
    def model(self) -> Autoencoder:
        return self.autoencoder

    @property
    def whole(self) -> str | None:
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules()):
            return "BatchNorm takes its statistics over the part of a batch that it sees"
        return (
            f"'{self.model.likelihood.loss_name}' is fitted to a whole batch" if self.model.likelihood.whole else None
        )

    def score(self, batch: Batch, moment: Moment) -> LossTerms:
        """The terms of a training batch."""
        return self.terms(self.model, batch, moment, self.weights)

    def validate(self, model: nn.Module, batch: Batch, moment: Moment) -> LossTerms:
        """The terms of any such model, as they are weighted at the end of training."""
        assert isinstance(model, Autoencoder)
        return self.terms(model, batch, moment, self.weights)

    def terms(self, model: Autoencoder, batch: Batch, moment: Moment, weights: dict[str, float]) -> LossTerms:
        """Loss and costs, averaged over the images, summed over everything else."""
        done = model.run(batch.image, moment)
        terms: dict[str, tuple[float | torch.Tensor, torch.Tensor]] = {
            model.likelihood.loss_name: (1.0, model.likelihood.loss(done.raw, batch.image).mean())
        }
        for name, cost in done.coded.penalties.items():
            terms[name] = (weights.get(name, 0.0), cost.flatten(1).sum(1).mean())
        return LossTerms(terms, model.likelihood.notes(done.raw.detach(), batch.image))


class ReconstructionConfig(ObjectiveConfig):
    """The likelihood's loss, plus fixed weights on what the bottleneck costs, such as {KL: 1e-6}."""

    kind: Literal["reconstruction"] = "reconstruction"
    weights: dict[str, float] = Field(default_factory=dict)

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Reconstruction:
        return Reconstruction(model, self.weights)


class Elbo(Reconstruction):
    """The evidence lower bound: the likelihood's loss plus β · KL, both summed per image and averaged over images.

    With free bits λ, each number of the code has Σ max(λ, mean KL over the batch) as its cost, so that λ nats of it are
    free (Kingma et al. 2016, eq. 15). Where the likelihood states a density the true −ELBO, at β = 1 and constants
    included, is noted beside.
    """

    def __init__(self, model: nn.Module, config: ElboConfig, warmup: float) -> None:
        super().__init__(model, {"KL": config.beta})
        if not isinstance(self.model, GaussianAutoencoder):
            raise ModelError("objective=elbo needs a posterior: set bottleneck=gaussian, or objective=reconstruction.")
        self.beta, self.warmup, self.free_bits = config.beta, warmup, config.free_bits

    @property
    def whole(self) -> str | None:
        return super().whole or ("free bits average the KL over the batch" if self.free_bits else None)

    def score(self, batch: Batch, moment: Moment) -> LossTerms:
        risen = min(1.0, moment.seen / self.warmup) if self.warmup else 1.0
        return self.terms(self.model, batch, moment, {"KL": self.beta * risen})

    def terms(self, model: Autoencoder, batch: Batch, moment: Moment, weights: dict[str, float]) -> LossTerms:
        likelihood = model.likelihood
        done = model.run(batch.image, moment)
        cost = done.coded.penalties["KL"].flatten(1)
        loss, kl = likelihood.loss(done.raw, batch.image).mean(), cost.sum(1).mean()
        notes = likelihood.notes(done.raw.detach(), batch.image)
        if self.free_bits:
            held = cost.mean(0).clamp(min=self.free_bits).sum()
            terms = {likelihood.loss_name: (1.0, loss), f"KL, {self.free_bits:g} nats free": (weights["KL"], held)}
            notes["KL"] = kl.detach()
        else:
            terms = {likelihood.loss_name: (1.0, loss), "KL": (weights["KL"], kl)}
        if likelihood.density is not None:
            left_out = likelihood.constant * batch.image[0].numel()
            notes[f"−ELBO ({likelihood.density})"] = loss.detach() + kl.detach() + left_out
        return LossTerms(terms, notes)


class ElboConfig(ObjectiveConfig):
    """Loss + β · KL."""

    kind: Literal["elbo"] = "elbo"
    beta: float = Field(default=1.0, ge=0)
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the budget in which β rises from 0."""
    free_bits: float = Field(default=0.0, ge=0)
    """Nats per number of the code that cost nothing."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Elbo:
        return Elbo(model, self, self.warmup * images)
