"""A critic and all that belongs to playing against it: one piece for GANs and for adversarial terms elsewhere."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from ectype.data.augment import colour, crop, cutout, flip, shift
from ectype.data.batch import Moment
from ectype.errors import EctypeWarning, ModelError
from ectype.losses.adversarial import GAMES, slope
from ectype.nets.critics import ConvCriticConfig, CriticConfig
from ectype.objectives.base import LossTerms
from ectype.sections import Count, DataInfo, Section

__all__ = ["Adversary", "AdversaryConfig", "CriticAugment", "CriticAugmentConfig", "Given", "Penalty"]

Image = Float[Tensor, "b c h w"]

CHANGES = {
    "flip": (0, flip),
    "translation": (2, lambda image, draw: shift(image, 0.125, draw)),
    "crop": (3, lambda image, draw: crop(image, 0.25, draw)),
    "colour": (3, lambda image, draw: colour(image, 0.5, draw)),
    "cutout": (2, lambda image, draw: cutout(image, 0.5, draw)),
}
"""Name → numbers drawn for it, and what it does: translation, colour and cutout as far as in Zhao et al. 2020."""


class CriticAugmentConfig(Section):
    """Changes that the critic sees real and made images through, so that it cannot learn few images by heart.

    With a fixed probability this is DiffAugment (Zhao et al. 2020), with an adaptive one the idea of ADA (Karras et al.
    2020).
    """

    policy: tuple[Literal["flip", "translation", "crop", "colour", "cutout"], ...] = ()
    """Which changes; none by default."""
    probability: Literal["adaptive"] | Annotated[float, Field(ge=0, le=1)] = 1.0
    """Of each change, for each image; adaptive: as much as it takes to hold the critic at `target`."""
    target: float = Field(default=0.6, gt=0, lt=1)
    """Mean sign of the critic's verdict on real images above which it is taken to know them by heart."""
    adapt_moves: Annotated[Count, Field(gt=0)] = 8000
    """The critic's moves in which an adaptive probability can go from 0 to 1."""


class CriticAugment(nn.Module):
    """The changes, and how often each is made."""

    probability: Tensor

    def __init__(self, config: CriticAugmentConfig) -> None:
        super().__init__()
        self.config = config
        self.adaptive = config.probability == "adaptive"
        start = 0.0 if isinstance(config.probability, str) else config.probability
        self.register_buffer("probability", torch.tensor(start))

    def forward(self, image: Image, moment: Moment, use: str) -> Image:
        """Images in [0, 1], changed; may leave the range."""
        for name in self.config.policy:
            numbers, change = CHANGES[name]
            shape = (len(image), numbers) if numbers else (len(image),)
            changed = change(image, moment.uniform(f"{use}.{name}", *shape).to(image.device))
            chosen = moment.uniform(f"{use}.{name}?", len(image)).to(image.device) < self.probability
            image = torch.where(chosen[:, None, None, None], changed, image)
        return image

    def adapt(self, sign: Tensor) -> None:
        """Change an adaptive probability by one move's worth, given the critic's mean sign on real images."""
        step = torch.sign(sign - self.config.target) / self.config.adapt_moves
        self.probability.add_(step.to(self.probability)).clamp_(0, 1)


class Penalty(Section):
    """What keeps the critic's slope in check: with respect to images in [−1, 1], summed over their numbers."""

    r1: float = Field(default=0.0, ge=0)
    """γ of γ/2 · ‖∇D(real)‖² (Mescheder et al. 2018)."""
    r2: float = Field(default=0.0, ge=0)
    """γ of γ/2 · ‖∇D(made)‖²."""
    gradient: float = Field(default=0.0, ge=0)
    """λ of λ · (‖∇D(between)‖ − 1)² at points between real and made images (Gulrajani et al. 2017)."""
    clip: float | None = Field(default=None, gt=0)
    """Largest size of a critic's weight (Arjovsky et al. 2017); worse than the gradient penalty."""
    every: int = Field(default=1, ge=1)
    """Critic's moves between two penalties, each then weighted so many times (Karras et al. 2020, "lazy")."""

    @property
    def differentiates(self) -> bool:
        """Whether the critic's slope is needed."""
        return self.r1 > 0 or self.r2 > 0 or self.gradient > 0


class AdversaryConfig(Section):
    """A critic and its rules."""

    critic: CriticConfig = ConvCriticConfig()
    loss: Literal["relativistic", "non_saturating", "hinge", "least_squares", "wasserstein"] = "relativistic"
    penalty: Penalty = Penalty(r1=1.0, r2=1.0, every=4)
    pack: int = Field(default=1, ge=1)
    """Images that the critic judges together (PacGAN, Lin et al. 2018)."""
    augment: CriticAugmentConfig = CriticAugmentConfig()

    @model_validator(mode="after")
    def _bounded(self) -> AdversaryConfig:
        if self.loss == "wasserstein" and not self.penalty.gradient and self.penalty.clip is None:
            raise ValueError(
                "loss=wasserstein needs a bound on the critic's slope: penalty.gradient=10 (or penalty.clip=0.01)"
            )
        return self


class Given(NamedTuple):
    """How a critic is told what an image should show."""

    how: Literal["concat", "embedding", "projection"]
    classes: int
    embedding: int = 64
    """Numbers of an embedding."""


class Adversary(nn.Module):
    """The player that judges.

    Args:
        config: Critic, loss, penalties, packing, augmentation.
        info: Of the images judged.
        given: Whether and how labels are told.
    """

    def __init__(self, config: AdversaryConfig, info: DataInfo, given: Given | None = None) -> None:
        super().__init__()
        self.config, self.given, self.game = config, given, GAMES[config.loss]
        known = 0 if given is None else given.classes * config.pack
        extra = known
        self.embed = None
        self.project = None
        if given is not None and given.how == "embedding":
            self.embed = nn.Linear(known, given.embedding, bias=False)
            extra = given.embedding
        self.critic = config.critic.build(
            info.channels * config.pack, info.size, 0 if given is not None and given.how == "projection" else extra
        )
        self.head = nn.Linear(self.critic.numbers, 1)
        if given is not None and given.how == "projection":
            self.project = nn.Linear(known, self.critic.numbers, bias=False)
        self.augment = CriticAugment(config.augment)
        if config.penalty.clip is not None:
            warnings.warn(
                "penalty.clip bounds the critic by cutting its weights, which is worse than no Wasserstein loss at all "
                "(CIFAR-10 FID 107.7 against 48.3 of a DCGAN): take penalty.gradient=10 instead.",
                EctypeWarning,
                stacklevel=2,
            )

    @property
    def compiles(self) -> bool:
        """Whether `torch.compile` may be used: it refuses to differentiate a gradient."""
        return not self.config.penalty.differentiates

    def judge(
        self, image: Image, label: Int[Tensor, " b"] | None, moment: Moment, uses: tuple[str, ...]
    ) -> Float[Tensor, " n"]:
        """Scores of images in [−1, 1], `pack` at a time; of each patch where the critic judges patches.

        Args:
            image: As many equally large sets as there are `uses`, one after the other.
            label: Of each.
            moment: Where augmentation draws from.
            uses: Names of the sets, so that their draws differ.
        """
        if len(image) // len(uses) % self.config.pack:
            raise ModelError(
                f"pack={self.config.pack} does not divide the {len(image) // len(uses)} images judged at once: "
                "choose train.batch (and run.micro_batch) as a multiple of it."
            )
        if self.config.augment.policy:
            sets = image.chunk(len(uses))
            seen = [self.augment((x + 1) / 2, moment, f"critic.{use}") for x, use in zip(sets, uses, strict=True)]
            image = torch.cat(seen) * 2 - 1
        packed = image.reshape(-1, self.config.pack * image.shape[1], *image.shape[2:])
        told = None
        if self.given is not None:
            if label is None:
                raise ModelError("a conditional critic needs labels: put the images into one folder per class.")
            told = F.one_hot(label, self.given.classes).to(image.dtype).view(len(packed), -1)
        joined = told if self.embed is None or told is None else self.embed(told)
        features = self.critic(packed, None if self.project is not None else joined)
        scores = self.head(features).squeeze(-1)
        if self.project is not None and told is not None:
            wanted = self.project(told).view(len(packed), *[1] * (features.ndim - 2), -1)
            scores = scores + (wanted * features).sum(-1)
        return scores.flatten().float()

    def against(self, real: Image, fake: Image, label: Int[Tensor, " b"] | None, moment: Moment) -> LossTerms:
        """The critic's turn.

        Args:
            real: In [0, 1].
            fake: In [0, 1], without gradients.
            label: Of both.
            moment: Now.
        """
        penalty = self.config.penalty
        due = penalty.differentiates and moment.step % penalty.every == 0
        both = torch.cat([real, fake]).float() * 2 - 1
        labels = None if label is None else torch.cat([label, label])
        # What is differentiated twice is computed in single precision.
        with torch.autocast(both.device.type, enabled=False) if due else nullcontext():
            sloped = due and (penalty.r1 > 0 or penalty.r2 > 0)
            both.requires_grad_(sloped)
            scores = self.judge(both, labels, moment, ("real", "fake"))
            of_real, of_fake = scores.chunk(2)
            terms: dict[str, tuple[float | Tensor, Tensor]] = {"adversarial": (1.0, self.game.critic(of_real, of_fake))}
            if sloped:
                slopes = slope(scores, both, self.config.pack).chunk(2)
                for name, gamma, found in (("R1", penalty.r1, slopes[0]), ("R2", penalty.r2, slopes[1])):
                    if gamma:
                        terms[name] = (0.5 * gamma * penalty.every, found.mean())
            if due and penalty.gradient:
                terms["gradient penalty"] = (penalty.gradient * penalty.every, self._between(both, label, moment))
        with torch.no_grad():
            # Differences have no zero of their own: there the sign is that of each pair.
            margin = of_real - of_fake
            verdict = margin if self.game.pairs or self.config.loss == "wasserstein" else of_real
            notes = {
                "D(real)": of_real.mean(),
                "D(made)": of_fake.mean(),
                "told apart": (margin > 0).float().mean(),
                "sign": verdict.sign().mean(),
            }
            if self.config.augment.policy:
                notes["augmentation"] = self.augment.probability.clone()
        return LossTerms(terms, notes)

    def _between(self, both: Tensor, label: Tensor | None, moment: Moment) -> Tensor:
        """(‖∇D‖ − 1)² at a random point between each real image and a made one."""
        real, fake = both.detach().chunk(2)
        share = moment.uniform("between", len(real)).to(real.device)
        # Images that are judged together lie at one place.
        share = share.view(-1, self.config.pack)[:, :1].expand(-1, self.config.pack).reshape(-1, 1, 1, 1)
        point = (share * real + (1 - share) * fake).requires_grad_()
        scores = self.judge(point, label, moment, ("between",))
        return (slope(scores, point, self.config.pack).sqrt() - 1).square().mean()

    def fooled_by(self, fake: Image, real: Image, label: Int[Tensor, " b"] | None, moment: Moment) -> Tensor:
        """The generator's loss: how little the critic is fooled.

        Args:
            fake: In [0, 1], with gradients.
            real: In [0, 1]; used where images are judged in pairs.
            label: Of both.
            moment: Now.
        """
        if not self.game.pairs:
            return self.game.generator(self.judge(fake.float() * 2 - 1, label, moment, ("fake",)), None)
        both = torch.cat([fake, real]).float() * 2 - 1
        labels = None if label is None else torch.cat([label, label])
        of_fake, of_real = self.judge(both, labels, moment, ("fake", "real")).chunk(2)
        return self.game.generator(of_fake, of_real)

    @torch.no_grad()
    def moved(self, notes: dict[str, Tensor]) -> None:
        """After each of the critic's moves, with the averaged notes of `against`: cut weights, adapt augmentation."""
        if (limit := self.config.penalty.clip) is not None:
            for parameter in self.parameters():
                parameter.clamp_(-limit, limit)
        if self.augment.adaptive:
            self.augment.adapt(notes["sign"])
