"""A critic with its losses, penalties and augmentation, for GANs and for adversarial terms of other objectives."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from ectype.config.schema import Count, DataInfo, Section
from ectype.core.errors import EctypeWarning, ModelError
from ectype.core.random import StepContext
from ectype.data.augment import cutout, random_color, random_crop, random_flip, random_shift
from ectype.losses.adversarial import ADVERSARIAL_LOSSES, squared_gradient_norm
from ectype.nets.critics import ConvCriticConfig, CriticConfig
from ectype.objectives.base import LossTerms

__all__ = ["Adversary", "AdversaryConfig", "Conditioning", "CriticAugment", "CriticAugmentConfig", "Penalty"]

Image = Float[Tensor, "b c h w"]

AUGMENTATIONS = {
    "flip": (0, random_flip),
    "translation": (2, lambda image, draw: random_shift(image, 0.125, draw)),
    "crop": (3, lambda image, draw: random_crop(image, 0.25, draw)),
    "colour": (3, lambda image, draw: random_color(image, 0.5, draw)),
    "cutout": (2, lambda image, draw: cutout(image, 0.5, draw)),
}
"""Name → (random values drawn per image, 0 for a single one; function). Translation, color and cutout are as strong as
in Zhao et al. 2020."""


class CriticAugmentConfig(Section):
    """Augmentations of the real and generated images that the critic sees, against memorizing a small dataset.

    With a fixed probability this is DiffAugment (Zhao et al. 2020), with an adaptive one the idea of ADA (Karras et al.
    2020).
    """

    policy: tuple[Literal["flip", "translation", "crop", "colour", "cutout"], ...] = ()
    """Augmentations to apply; none by default."""
    probability: Literal["adaptive"] | Annotated[float, Field(ge=0, le=1)] = 1.0
    """Probability of each augmentation for each image. adaptive: controlled so that the critic stays at `target`."""
    target: float = Field(default=0.6, gt=0, lt=1)
    """Mean sign of the critic's scores of real images above which it is considered to overfit."""
    adapt_moves: Annotated[Count, Field(gt=0)] = 8000
    """Updates of the critic in which an adaptive probability can rise from 0 to 1."""


class CriticAugment(nn.Module):
    """Differentiable augmentations, each applied with a probability.

    Args:
        config: Augmentations and their probability.
    """

    probability: Tensor

    def __init__(self, config: CriticAugmentConfig) -> None:
        super().__init__()
        self.config = config
        self.adaptive = config.probability == "adaptive"
        start = 0.0 if isinstance(config.probability, str) else config.probability
        self.register_buffer("probability", torch.tensor(start))

    def forward(self, image: Image, context: StepContext, use: str) -> Image:
        """Augment images.

        Args:
            image: Images in [0, 1].
            context: Current step; the source of all randomness.
            use: Prefix of the names of the random draws.

        Returns:
            Augmented images, which may leave [0, 1].
        """
        for name in self.config.policy:
            num_values, augment = AUGMENTATIONS[name]
            shape = (len(image), num_values) if num_values else (len(image),)
            augmented = augment(image, context.uniform(f"{use}.{name}", *shape).to(image.device))
            chosen = context.uniform(f"{use}.{name}?", len(image)).to(image.device) < self.probability
            image = torch.where(chosen[:, None, None, None], augmented, image)
        return image

    def adapt(self, sign: Tensor) -> None:
        """Move the probability by one update's step, up if the critic overfits and down if not.

        Args:
            sign: Mean sign of the critic's scores of real images.
        """
        step = torch.sign(sign - self.config.target) / self.config.adapt_moves
        self.probability.add_(step.to(self.probability)).clamp_(0, 1)


class Penalty(Section):
    """Penalties on the critic's gradient with respect to images in [−1, 1], as the norm over all their elements."""

    r1: float = Field(default=0.0, ge=0, le=1e6)
    """γ of γ/2 · ‖∇D(real)‖² (Mescheder et al. 2018)."""
    r2: float = Field(default=0.0, ge=0, le=1e6)
    """γ of γ/2 · ‖∇D(fake)‖²."""
    gradient: float = Field(default=0.0, ge=0, le=1e6)
    """λ of λ · (‖∇D(x)‖ − 1)² at random points x between real and fake images (Gulrajani et al. 2017)."""
    clip: float | None = Field(default=None, gt=0, le=1e6)
    """Largest absolute value of a critic's weight (Arjovsky et al. 2017); worse than the gradient penalty."""
    every: int = Field(default=1, ge=1, le=100_000)
    """Updates of the critic per penalty, whose weight is multiplied by this (Karras et al. 2020, "lazy")."""

    @property
    def needs_input_gradient(self) -> bool:
        """Whether a penalty differentiates the critic with respect to its input."""
        return self.r1 > 0 or self.r2 > 0 or self.gradient > 0


class AdversaryConfig(Section):
    """A critic, its losses and its regularization."""

    critic: CriticConfig = ConvCriticConfig()
    loss: Literal["relativistic", "non_saturating", "hinge", "least_squares", "wasserstein"] = "relativistic"
    penalty: Penalty = Penalty(r1=1.0, r2=1.0, every=4)
    pack: int = Field(default=1, ge=1, le=1000)
    """Images that the critic scores together (PacGAN, Lin et al. 2018)."""
    augment: CriticAugmentConfig = CriticAugmentConfig()

    @model_validator(mode="after")
    def _check_bound(self) -> AdversaryConfig:
        if self.loss == "wasserstein" and not self.penalty.gradient and self.penalty.clip is None:
            raise ValueError(
                "loss=wasserstein needs a bound on the critic's gradient: set penalty.gradient=10 (or "
                "penalty.clip=0.01)"
            )
        return self


class Conditioning(NamedTuple):
    """How a critic is conditioned on class labels."""

    method: Literal["concat", "embedding", "projection"]
    num_classes: int
    embedding_dim: int = 64


class Adversary(nn.Module):
    """The critic as a player: its network and all losses that involve it.

    Args:
        config: Critic, loss, penalties, packing and augmentation.
        info: Shape of the images.
        conditioning: How the critic is conditioned on labels; None for an unconditional one.
    """

    def __init__(self, config: AdversaryConfig, info: DataInfo, conditioning: Conditioning | None = None) -> None:
        super().__init__()
        self.config, self.conditioning = config, conditioning
        self.adversarial_loss = ADVERSARIAL_LOSSES[config.loss]
        method = None if conditioning is None else conditioning.method
        label_dim = 0 if conditioning is None else conditioning.num_classes * config.pack
        input_dim = label_dim
        self.embed = None
        self.project = None
        if conditioning is not None and method == "embedding":
            self.embed = nn.Linear(label_dim, conditioning.embedding_dim, bias=False)
            input_dim = conditioning.embedding_dim
        self.critic = config.critic.build(
            info.channels * config.pack, info.size, 0 if method == "projection" else input_dim
        )
        self.head = nn.Identity() if self.critic.returns_scores else nn.Linear(self.critic.num_features, 1)
        if method == "projection":
            self.project = nn.Linear(label_dim, self.critic.num_features, bias=False)
        self.augment = CriticAugment(config.augment)
        if config.penalty.clip is not None:
            warnings.warn(
                "penalty.clip bounds the critic by clipping its weights, which is worse than no Wasserstein loss at "
                "all (CIFAR-10 FID 107.7, against 48.3 of a DCGAN): set penalty.gradient=10 instead.",
                EctypeWarning,
                stacklevel=2,
            )

    @property
    def compilable(self) -> bool:
        """Whether `torch.compile` may be applied to the critic: it does not support second derivatives."""
        return not self.config.penalty.needs_input_gradient

    def score(
        self, image: Image, label: Int[Tensor, " b"] | None, context: StepContext, uses: tuple[str, ...]
    ) -> Float[Tensor, " n"]:
        """Compute the critic's scores: one for each `pack` images, or for each of their patches.

        Args:
            image: Images in [−1, 1], one set after the other, all of equal length.
            label: Class indices of the images; None for an unconditional critic.
            context: Current step; the source of the augmentation's randomness.
            uses: Names of the sets, such as real and fake, so that each gets random draws of its own.

        Raises:
            ModelError: The sets are not divisible by `pack`, or a conditional critic got no labels.
        """
        set_size = len(image) // len(uses)
        if set_size % self.config.pack:
            raise ModelError(
                f"pack={self.config.pack} does not divide the {set_size} images scored at once: "
                "choose train.batch (and run.micro_batch) as a multiple of it."
            )
        if self.config.augment.policy:
            sets = image.chunk(len(uses))
            augmented = [self.augment((x + 1) / 2, context, f"critic.{use}") for x, use in zip(sets, uses, strict=True)]
            image = torch.cat(augmented) * 2 - 1
        packed = image.reshape(-1, self.config.pack * image.shape[1], *image.shape[2:])
        one_hot = None
        if self.conditioning is not None:
            if label is None:
                raise ModelError("a conditional critic needs labels: put the images into one folder per class.")
            one_hot = F.one_hot(label, self.conditioning.num_classes).to(image.dtype).view(len(packed), -1)
        label_input = one_hot if self.embed is None or one_hot is None else self.embed(one_hot)
        features = self.critic(packed, None if self.project is not None else label_input)
        scores = self.head(features).squeeze(-1)
        if self.project is not None and one_hot is not None:
            projection = self.project(one_hot).view(len(packed), *[1] * (features.ndim - 2), -1)
            scores = scores + (projection * features).sum(-1)
        return scores.flatten().float()

    def critic_loss(self, real: Image, fake: Image, label: Int[Tensor, " b"] | None, context: StepContext) -> LossTerms:
        """Compute the critic's loss, with the penalties that are due at this step.

        Args:
            real: Images in [0, 1].
            fake: Images in [0, 1], without gradients.
            label: Class indices of both.
            context: Current step.

        Returns:
            The terms "adversarial", "R1", "R2" and "gradient penalty", and the notes "D(real)" and "D(made)" (mean
            scores), "told apart" (fraction of pairs in which the real image has the higher score), "sign" (mean sign of
            the scores of real images) and "augmentation" (probability).
        """
        penalty = self.config.penalty
        due = penalty.needs_input_gradient and context.step % penalty.every == 0
        both = torch.cat([real, fake]).float() * 2 - 1
        labels = None if label is None else torch.cat([label, label])
        # What is differentiated twice is computed in single precision.
        with torch.autocast(both.device.type, enabled=False) if due else nullcontext():
            penalize_at_images = due and (penalty.r1 > 0 or penalty.r2 > 0)
            both.requires_grad_(penalize_at_images)
            scores = self.score(both, labels, context, ("real", "fake"))
            real_scores, fake_scores = scores.chunk(2)
            adversarial = self.adversarial_loss.critic(real_scores, fake_scores)
            terms: dict[str, tuple[float | Tensor, Tensor]] = {"adversarial": (1.0, adversarial)}
            if penalize_at_images:
                norms = squared_gradient_norm(scores, both, self.config.pack).chunk(2)
                for name, gamma, norm in (("R1", penalty.r1, norms[0]), ("R2", penalty.r2, norms[1])):
                    if gamma:
                        terms[name] = (0.5 * gamma * penalty.every, norm.mean())
            if due and penalty.gradient:
                value = self._gradient_penalty(both, label, context)
                terms["gradient penalty"] = (penalty.gradient * penalty.every, value)
        with torch.no_grad():
            margin = real_scores - fake_scores
            # Losses that only depend on differences of scores do not define a zero; then the margin's sign is used.
            relative = self.adversarial_loss.uses_pairs or self.config.loss == "wasserstein"
            notes = {
                "D(real)": real_scores.mean(),
                "D(made)": fake_scores.mean(),
                "told apart": (margin > 0).float().mean(),
                "sign": (margin if relative else real_scores).sign().mean(),
            }
            if self.config.augment.policy:
                notes["augmentation"] = self.augment.probability.clone()
        return LossTerms(terms, notes)

    def _gradient_penalty(self, both: Tensor, label: Tensor | None, context: StepContext) -> Tensor:
        """Return the mean of (‖∇D‖ − 1)² at a random point between each real image and a fake one."""
        real, fake = both.detach().chunk(2)
        fraction = context.uniform("between", len(real)).to(real.device)
        # Images that are scored together share one fraction.
        pack = self.config.pack
        fraction = fraction.view(-1, pack)[:, :1].expand(-1, pack).reshape(-1, 1, 1, 1)
        point = (fraction * real + (1 - fraction) * fake).requires_grad_()
        scores = self.score(point, label, context, ("between",))
        return (squared_gradient_norm(scores, point, pack).sqrt() - 1).square().mean()

    def generator_loss(self, fake: Image, real: Image, label: Int[Tensor, " b"] | None, context: StepContext) -> Tensor:
        """Compute the generator's loss, which is low when the critic mistakes fake images for real ones.

        Args:
            fake: Images in [0, 1], with gradients.
            real: Images in [0, 1]; used if the loss compares pairs.
            label: Class indices of both.
            context: Current step.
        """
        if not self.adversarial_loss.uses_pairs:
            return self.adversarial_loss.generator(self.score(fake.float() * 2 - 1, label, context, ("fake",)), None)
        both = torch.cat([fake, real]).float() * 2 - 1
        labels = None if label is None else torch.cat([label, label])
        fake_scores, real_scores = self.score(both, labels, context, ("fake", "real")).chunk(2)
        return self.adversarial_loss.generator(fake_scores, real_scores)

    @torch.no_grad()
    def after_update(self, notes: dict[str, Tensor]) -> None:
        """Clip weights and adapt the augmentation after each update of the critic.

        Args:
            notes: Notes of `critic_loss`, averaged over the global batch.
        """
        if (limit := self.config.penalty.clip) is not None:
            for parameter in self.parameters():
                parameter.clamp_(-limit, limit)
        if self.augment.adaptive:
            self.augment.adapt(notes["sign"])
