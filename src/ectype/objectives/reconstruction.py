"""Reconstruct the input: autoencoders, plain, denoising and variational."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.errors import ModelError
from ectype.losses.mixture import Mixture
from ectype.models.autoencoder import Autoencoder, GaussianAutoencoder, Pass
from ectype.objectives.base import LossTerms
from ectype.objectives.critic_term import CriticTerm, CriticTermConfig
from ectype.objectives.judged import Judged
from ectype.sections import DataInfo, ObjectiveConfig, Section, Weights

__all__ = ["Elbo", "ElboConfig", "Reconstruction", "ReconstructionConfig"]


class Equivariance(Section):
    """A small version of a code map should decode to a small version of the image (EQ-VAE, Kouzelis et al. 2025).

    Codes are then as smooth as images, and of large models far easier to generate; minutes on small images gain nothing
    (`benchmarks/easier.py`).
    """

    weight: float = Field(default=0.0, ge=0)
    """Of the loss on small versions, per number of the image as the loss on the whole one; 0 for none."""
    scales: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.25, 0.5, 0.75), min_length=1)
    """Sides of the small maps, as shares; one after the other, a step each."""
    every: int = Field(default=2, ge=1)
    """Steps between two that ask for it, each then weighted so many times."""


class Reconstruction(Judged):
    """The model's turn: the likelihood's loss or a mixture of others, and what the bottleneck costs at fixed weights.

    With a critic there is a second player, who joins when the rest has settled.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: dict[str, float],
        *,
        mixture: Mixture | None = None,
        equivariance: Equivariance | None = None,
        critic: CriticTerm | None = None,
    ) -> None:
        if not isinstance(model, Autoencoder):
            raise ModelError(f"{type(self).__name__} trains autoencoders: choose model=autoencoder.")
        for name in weights:
            if name not in model.bottleneck.costs:
                have = ", ".join(model.bottleneck.costs) or "none"
                raise ModelError(
                    f"weights={{{name}: {weights[name]:g}}}: this bottleneck has no such cost (it has {have}): correct "
                    "the name, or leave it out."
                )
        if equivariance is not None and len(model.code_shape) != 3:
            raise ModelError(
                f"equivariance.weight={equivariance.weight:g} scales code maps, this model's code is a vector of "
                f"{model.code_shape[0]}: set latent='[channels, height, width]', or equivariance.weight=0."
            )
        likelihood = model.likelihood
        if mixture is not None and (likelihood.heads > 1 or any(p.requires_grad for p in likelihood.parameters())):
            raise ModelError(
                f"objective.loss takes the place of '{likelihood.loss_name}', by which alone its scale is learnt: "
                "leave it out, or set likelihood.sigma=optimal or fixed, or another likelihood."
            )
        super().__init__(model, critic)
        # A mixture's losses are means over the image's numbers; the weights are meant beside sums.
        per = model.info.numbers if mixture is not None else 1
        self.weights = {name: weight / per for name, weight in {**model.bottleneck.weights, **weights}.items()}
        self.autoencoder, self.mixture, self.equivariance = model, mixture, equivariance

    @property
    def model(self) -> Autoencoder:
        return self.autoencoder

    @property
    def whole(self) -> str | None:
        fitted = f"'{self.model.likelihood.loss_name}' is fitted to a whole batch"
        return super().whole or (fitted if self.model.likelihood.whole else None)

    def score(self, batch: Batch, moment: Moment) -> LossTerms:
        """The model's turn on a training batch."""
        found, done = self.terms(self.model, batch, moment, self.weights)
        if self.equivariance is not None and moment.step % self.equivariance.every == 0:
            small = self.small(done, batch.image, moment, self.equivariance)
            found = LossTerms(
                {**found.terms, "equivariance": (self.equivariance.weight * self.equivariance.every, small)},
                found.notes,
            )
        if self.critic is not None:
            made = self.model.likelihood.mean(done.raw)
            found = self.critic.join(found, made, batch.image, self.model.last_layer, moment)
        return found

    def score_critic(self, batch: Batch, moment: Moment) -> LossTerms:
        """The critic's turn on the same images and what the model makes of them."""
        assert self.critic is not None
        with torch.no_grad():
            made = self.model.likelihood.mean(self.model.run(batch.image, moment).raw)
        return self.critic.score(batch.image, made, moment)

    def validate(self, model: nn.Module, batch: Batch, moment: Moment) -> LossTerms:
        """The terms of any such model, as they are weighted at the end of training; a critic is not asked."""
        assert isinstance(model, Autoencoder)
        return self.terms(model, batch, moment, self.weights)[0]

    def losses(
        self, model: Autoencoder, raw: Float[Tensor, "b kc h w"], image: Float[Tensor, "b c h w"]
    ) -> dict[str, tuple[float | Tensor, Tensor]]:
        """How far what the decoder gave is from an image, of any size: named terms."""
        if self.mixture is None:
            return {model.likelihood.loss_name: (1.0, model.likelihood.loss(raw, image).mean())}
        found = self.mixture(model.likelihood.mean(raw), image)
        return {name: (self.mixture.weights[name], value.mean()) for name, value in found.items()}

    def terms(
        self, model: Autoencoder, batch: Batch, moment: Moment, weights: dict[str, float]
    ) -> tuple[LossTerms, Pass]:
        """Losses and costs, averaged over the images, and the pass they were found in.

        The likelihood's loss and costs are summed over everything else; losses of a mixture are means, as their names
        say.
        """
        done = model.run(batch.image, moment)
        terms = self.losses(model, done.raw, batch.image)
        for name, cost in done.coded.penalties.items():
            terms[name] = (weights.get(name, 0.0), cost.flatten(1).sum(1).mean())
        notes = {**model.likelihood.notes(done.raw.detach(), batch.image), **done.coded.notes}
        return LossTerms(terms, notes), done

    def small(self, done: Pass, image: Float[Tensor, "b c h w"], moment: Moment, config: Equivariance) -> Tensor:
        """The loss of a small image decoded from a small code map, per number as of a whole one."""
        # By the step alone: a draw would differ between the parts of a batch.
        scale = config.scales[moment.step // config.every % len(config.scales)]
        height, width = (max(1, round(scale * side)) for side in done.coded.code.shape[2:])
        code = F.interpolate(done.coded.code, (height, width), mode="bilinear", antialias=True, align_corners=False)
        raw = self.model.decoder(code).float()
        target = F.interpolate(image, tuple(raw.shape[2:]), mode="bilinear", antialias=True, align_corners=False)
        found = self.losses(self.model, raw, target)
        total = LossTerms(found).total()
        return total if self.mixture is not None else total * (image[0].numel() / target[0].numel())

    def observe(self, notes: dict[str, Tensor]) -> None:
        """After each of the model's moves: what is followed in buffers."""
        self.model.likelihood.observe(notes)
        self.model.bottleneck.observe(notes)
        super().observe(notes)


class ReconstructionConfig(ObjectiveConfig):
    """The likelihood's loss or others, plus fixed weights on what the bottleneck costs, such as {KL: 1e-6}."""

    kind: Literal["reconstruction"] = "reconstruction"
    loss: Weights = Field(default_factory=dict)
    """Losses by weight instead of the likelihood's, such as {l1: 1, perceptual: 0.5}: see `ectype.losses.mixture`."""
    network: str = "auto"
    """What the perceptual and style losses compare features by; auto takes the best that is at hand."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Of the bottleneck's costs, which are summed over the code, beside losses that are summed over the image. Beside
    losses that are means over its numbers, they are divided by how many there are."""
    equivariance: Equivariance = Equivariance()
    adversary: CriticTermConfig = CriticTermConfig()

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Reconstruction:
        return Reconstruction(
            model,
            self.weights,
            mixture=Mixture(self.loss, channels=info.channels, network=self.network) if self.loss else None,
            equivariance=self.equivariance if self.equivariance.weight else None,
            critic=CriticTerm(self.adversary, info, images=images) if self.adversary.weight else None,
        )


class Elbo(Reconstruction):
    """The evidence lower bound: the likelihood's loss plus β · KL, both summed per image and averaged over images.

    With free bits λ, each number of the code has Σ max(λ, mean KL over the batch) as its cost, so that λ nats of it are
    free (Kingma et al. 2016, eq. 15). Where the likelihood states a density the true −ELBO, at β = 1 and constants
    included, is noted beside.
    """

    def __init__(self, model: nn.Module, config: ElboConfig, warmup: float) -> None:
        if isinstance(model, Autoencoder) and not isinstance(model, GaussianAutoencoder):
            raise ModelError("objective=elbo needs a posterior: set bottleneck=gaussian, or objective=reconstruction.")
        super().__init__(model, {"KL": config.beta})
        self.beta, self.warmup, self.free_bits = config.beta, warmup, config.free_bits

    @property
    def whole(self) -> str | None:
        return super().whole or ("free bits average the KL over the batch" if self.free_bits else None)

    def score(self, batch: Batch, moment: Moment) -> LossTerms:
        risen = min(1.0, moment.seen / self.warmup) if self.warmup else 1.0
        return self.terms(self.model, batch, moment, {"KL": self.beta * risen})[0]

    def terms(
        self, model: Autoencoder, batch: Batch, moment: Moment, weights: dict[str, float]
    ) -> tuple[LossTerms, Pass]:
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
        return LossTerms(terms, notes), done


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
