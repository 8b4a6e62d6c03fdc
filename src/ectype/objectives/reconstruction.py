"""Reconstruct the input: objectives of plain, denoising and variational autoencoders."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ObjectiveConfig, Section, Weight, Weights
from ectype.core.errors import ModelError
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.losses.weighted import WeightedLoss
from ectype.models.autoencoder import Autoencoder, AutoencoderOutput, GaussianAutoencoder
from ectype.objectives.base import LossTerms
from ectype.objectives.critic_term import CriticTerm, CriticTermConfig
from ectype.objectives.with_critic import WithCritic

__all__ = ["Elbo", "ElboConfig", "Reconstruction", "ReconstructionConfig"]


class Equivariance(Section):
    """Require that a downscaled code map decodes to the downscaled image (EQ-VAE, Kouzelis et al. 2025).

    This makes codes as smooth as images, and those of large models much easier to generate; short trainings on small
    images gain nothing (`benchmarks/easier.py`).
    """

    weight: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of the loss on downscaled images, which is normalized to the size of a full image; 0 for none."""
    scales: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.25, 0.5, 0.75), min_length=1)
    """Factors by which the sides of maps are scaled; used in turn, one per step."""
    every: int = Field(default=2, ge=1, le=100_000)
    """Steps between two with this loss, whose weight is multiplied by this."""


class Reconstruction(WithCritic):
    """Minimize the likelihood's loss, or other image losses, plus weighted penalties of the bottleneck.

    With a critic there is a second player, which joins when the reconstruction loss has settled.

    Args:
        model: An `Autoencoder`.
        weights: Weights of the bottleneck's penalties that differ from its defaults.
        losses: Image losses to use instead of the likelihood's.
        equivariance: Settings of the equivariance loss; None for none.
        critic: An adversarial term; None for none.

    Raises:
        ModelError: The model is no autoencoder, or does not support one of the options.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: dict[str, float],
        *,
        losses: WeightedLoss | None = None,
        equivariance: Equivariance | None = None,
        critic: CriticTerm | None = None,
    ) -> None:
        if not isinstance(model, Autoencoder):
            raise ModelError(f"{type(self).__name__} trains autoencoders: choose model=autoencoder.")
        for name in weights:
            if name not in model.bottleneck.costs:
                available = ", ".join(model.bottleneck.costs) or "none"
                raise ModelError(
                    f"weights={{{name}: {weights[name]:g}}}: this bottleneck has no such penalty (it has {available}): "
                    "correct the name, or leave it out."
                )
        if equivariance is not None and len(model.code_shape) != 3:
            raise ModelError(
                f"equivariance.weight={equivariance.weight:g} needs a code map, and the code of this model is a vector "
                f"of {model.code_shape[0]}: set latent='[channels, height, width]', or equivariance.weight=0."
            )
        likelihood = model.likelihood
        has_scale = likelihood.params_per_element > 1 or any(p.requires_grad for p in likelihood.parameters())
        if losses is not None and has_scale:
            raise ModelError(
                f"objective.loss replaces '{likelihood.loss_name}', without which the scale of the likelihood is not "
                "learned: leave objective.loss out, set likelihood.sigma=optimal or fixed, or take another likelihood."
            )
        super().__init__(model, critic)
        # The weights are meant for losses that are summed over an image; `losses` are means over its elements.
        divisor = model.info.num_elements if losses is not None else 1
        self.weights = {name: weight / divisor for name, weight in {**model.bottleneck.weights, **weights}.items()}
        self.mixture = losses  # the name is part of saved state dicts
        self.autoencoder, self.equivariance = model, equivariance

    @property
    def model(self) -> Autoencoder:
        return self.autoencoder

    @property
    def batch_dependent(self) -> str | None:
        fitted = f"'{self.model.likelihood.loss_name}' is fitted to a whole batch"
        return super().batch_dependent or (fitted if self.model.likelihood.batch_dependent else None)

    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the loss of the model's turn."""
        loss, output = self.loss_terms(self.model, batch, context, self.weights)
        if self.equivariance is not None and context.step % self.equivariance.every == 0:
            value = self.equivariance_loss(output, batch.image, context, self.equivariance)
            weight = self.equivariance.weight * self.equivariance.every
            loss = LossTerms({**loss.terms, "equivariance": (weight, value)}, loss.notes)
        if self.critic is not None:
            fake = self.model.likelihood.mean(output.raw)
            loss = self.critic.add_to_loss(loss, fake, batch.image, self.model.last_layer, context)
        return loss

    def score_critic(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the loss of the critic's turn, on the same images and their reconstructions."""
        assert self.critic is not None
        with torch.no_grad():
            fake = self.model.likelihood.mean(self.model.forward_train(batch.image, context).raw)
        return self.critic.score(batch.image, fake, context)

    def validate(self, model: nn.Module, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the loss of a model with the weights of the end of training, without a critic."""
        assert isinstance(model, Autoencoder)
        return self.loss_terms(model, batch, context, self.weights)[0]

    def image_losses(
        self, model: Autoencoder, raw: Float[Tensor, "b kc h w"], image: Float[Tensor, "b c h w"]
    ) -> dict[str, tuple[float | Tensor, Tensor]]:
        """Compute the losses between a decoder's output and images, as terms.

        Args:
            model: The autoencoder.
            raw: Output of its decoder, of any size.
            image: Target images of that size.
        """
        if self.mixture is None:
            return {model.likelihood.loss_name: (1.0, model.likelihood.loss(raw, image).mean())}
        values = self.mixture(model.likelihood.mean(raw), image)
        return {name: (self.mixture.weights[name], value.mean()) for name, value in values.items()}

    def loss_terms(
        self, model: Autoencoder, batch: Batch, context: StepContext, weights: dict[str, float]
    ) -> tuple[LossTerms, AutoencoderOutput]:
        """Run a training pass and compute its losses and penalties, averaged over the images.

        The likelihood's loss and the penalties are summed over an image; other losses are means over its elements.

        Args:
            model: The autoencoder.
            batch: Images in [0, 1].
            context: Current step.
            weights: Weights of the penalties.

        Returns:
            The loss, and the output of the pass.
        """
        output = model.forward_train(batch.image, context)
        terms = self.image_losses(model, output.raw, batch.image)
        for name, penalty in output.bottleneck.penalties.items():
            terms[name] = (weights.get(name, 0.0), penalty.flatten(1).sum(1).mean())
        statistics = model.likelihood.batch_statistics(output.raw.detach(), batch.image)
        return LossTerms(terms, {**statistics, **output.bottleneck.notes}), output

    def equivariance_loss(
        self, output: AutoencoderOutput, image: Float[Tensor, "b c h w"], context: StepContext, config: Equivariance
    ) -> Tensor:
        """Compute the loss of a downscaled image decoded from a downscaled code map, normalized to a full image.

        Args:
            output: Output of a training pass on full images.
            image: The full images.
            context: Current step, which determines the scale.
            config: Scales and weight.
        """
        # The scale depends on the step only: a random one would differ between the micro-batches of a batch.
        scale = config.scales[context.step // config.every % len(config.scales)]
        full_code = output.bottleneck.code
        height, width = (max(1, round(scale * side)) for side in full_code.shape[2:])
        code = F.interpolate(full_code, (height, width), mode="bilinear", antialias=True, align_corners=False)
        raw = self.model.decoder(code).float()
        target = F.interpolate(image, tuple(raw.shape[2:]), mode="bilinear", antialias=True, align_corners=False)
        total = LossTerms(self.image_losses(self.model, raw, target)).total()
        return total if self.mixture is not None else total * (image[0].numel() / target[0].numel())

    def after_model_update(self, notes: dict[str, Tensor]) -> None:
        """Update the buffers of likelihood, bottleneck and critic after each update of the model."""
        self.model.likelihood.update_buffers(notes)
        self.model.bottleneck.update_buffers(notes)
        super().after_model_update(notes)


class ReconstructionConfig(ObjectiveConfig):
    """The likelihood's loss or others, plus fixed weights of the bottleneck's penalties, such as {KL: 1e-6}."""

    kind: Literal["reconstruction"] = "reconstruction"
    loss: Weights = Field(default_factory=dict)
    """Weights of losses to use instead of the likelihood's, such as {l1: 1, perceptual: 0.5}: see
    `ectype.losses.weighted`."""
    network: str = "auto"
    """Network whose features the perceptual and style losses compare; auto takes the best available."""
    weights: dict[str, Weight] = Field(default_factory=dict)
    """Weights of the bottleneck's penalties, which are sums over the code, relative to losses that are sums over the
    image. For losses that are means over its elements, they are divided by the number of elements."""
    equivariance: Equivariance = Equivariance()
    adversary: CriticTermConfig = CriticTermConfig()

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Reconstruction:
        return Reconstruction(
            model,
            self.weights,
            losses=WeightedLoss(self.loss, channels=info.channels, network=self.network) if self.loss else None,
            equivariance=self.equivariance if self.equivariance.weight else None,
            critic=CriticTerm(self.adversary, info, images=images) if self.adversary.weight else None,
        )


class Elbo(Reconstruction):
    """Minimize the negative evidence lower bound: the likelihood's loss plus β · KL, summed over each image.

    With free bits λ, the KL becomes the sum of max(λ, mean KL over the batch) over the code dimensions, so that the
    first λ nats of each are free (Kingma et al. 2016, eq. 15). If the likelihood is a density, the notes contain the
    true −ELBO with β = 1 and all constants.

    Args:
        model: A `GaussianAutoencoder`.
        config: β and free bits.
        warmup: Images over which β rises from 0.

    Raises:
        ModelError: The model has no posterior.
    """

    def __init__(self, model: nn.Module, config: ElboConfig, warmup: float) -> None:
        if isinstance(model, Autoencoder) and not isinstance(model, GaussianAutoencoder):
            raise ModelError("objective=elbo needs a posterior: set bottleneck=gaussian, or objective=reconstruction.")
        super().__init__(model, {"KL": config.beta})
        self.beta, self.warmup, self.free_bits = config.beta, warmup, config.free_bits

    @property
    def batch_dependent(self) -> str | None:
        return super().batch_dependent or ("free bits average the KL over the batch" if self.free_bits else None)

    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        warmup_factor = min(1.0, context.seen / self.warmup) if self.warmup else 1.0
        return self.loss_terms(self.model, batch, context, {"KL": self.beta * warmup_factor})[0]

    def loss_terms(
        self, model: Autoencoder, batch: Batch, context: StepContext, weights: dict[str, float]
    ) -> tuple[LossTerms, AutoencoderOutput]:
        likelihood = model.likelihood
        output = model.forward_train(batch.image, context)
        kl_per_dim = output.bottleneck.penalties["KL"].flatten(1)
        loss, kl = likelihood.loss(output.raw, batch.image).mean(), kl_per_dim.sum(1).mean()
        notes = likelihood.batch_statistics(output.raw.detach(), batch.image)
        if self.free_bits:
            clamped = kl_per_dim.mean(0).clamp(min=self.free_bits).sum()
            terms = {likelihood.loss_name: (1.0, loss), f"KL, {self.free_bits:g} nats free": (weights["KL"], clamped)}
            notes["KL"] = kl.detach()
        else:
            terms = {likelihood.loss_name: (1.0, loss), "KL": (weights["KL"], kl)}
        if likelihood.density_name is not None:
            omitted = likelihood.omitted_constant * batch.image[0].numel()
            notes[f"−ELBO ({likelihood.density_name})"] = loss.detach() + kl.detach() + omitted
        return LossTerms(terms, notes), output


class ElboConfig(ObjectiveConfig):
    """The likelihood's loss plus β · KL."""

    kind: Literal["elbo"] = "elbo"
    beta: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of the KL."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the budget over which β rises from 0."""
    free_bits: float = Field(default=0.0, ge=0, le=1e6)
    """Nats per code dimension that cost nothing."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Elbo:
        return Elbo(model, self, self.warmup * images)
