"""Learn from pairs: masks, pictures, and images that were spoiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.errors import ModelError, RecipeError, did_you_mean
from ectype.losses.mixture import Mixture
from ectype.losses.segmentation import cross_entropy, dice, focal
from ectype.models.translator import Painter, Segmenter, Translator
from ectype.nets.mapper import reflected
from ectype.objectives.base import LossTerms
from ectype.objectives.critic_term import CriticTerm, CriticTermConfig
from ectype.objectives.judged import Judged
from ectype.sections import DataInfo, ObjectiveConfig, Weights

__all__ = ["Supervised", "SupervisedConfig"]

MASK_LOSSES = {"cross_entropy": 1.0, "dice": 1.0}
PICTURE_LOSSES = {"l1": 1.0}
"""What is taken if the recipe names no losses."""


class SupervisedConfig(ObjectiveConfig):
    """Losses between what a model makes of an image and the image's partner, or what the image was."""

    kind: Literal["supervised"] = "supervised"
    loss: Weights = Field(default_factory=dict)
    """Losses by weight. Of masks: cross_entropy, dice, focal; both of the first by default. Of pictures: those of
    `ectype.losses.mixture`; l1 by default."""
    network: str = "auto"
    """What the perceptual and style losses compare features by."""
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(ge=0)], ...] = "none"
    """Of a mask's classes. balanced: the inverse of the square root of their shares of the training pixels, mean 1."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of the cross-entropy."""
    gamma: float = Field(default=2.0, ge=0)
    """Of the focal loss."""
    deep: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the lower levels' losses: the n-th counts this to the power of n. Above 0 it needs model.deep=true."""
    adversary: CriticTermConfig = CriticTermConfig()
    """A critic that is shown input and output together, as pix2pix has it (Isola et al. 2017)."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Supervised:
        return Supervised(model, self, info, images=images)


class Supervised(Judged):
    """The model's turn, and with a critic that one's."""

    weights: Tensor | None

    def __init__(self, model: nn.Module, config: SupervisedConfig, info: DataInfo, *, images: int) -> None:
        if not isinstance(model, Translator):
            raise ModelError(f"{type(self).__name__} trains networks from image to image: choose model=translator.")
        if (config.deep > 0) != model.config.deep:
            raise ModelError(
                f"objective.deep={config.deep:g} with model.deep={str(model.config.deep).lower()}: the lower levels "
                "need outputs to be judged by, and losses to learn from; set both, or neither."
            )
        masks, critic = isinstance(model, Segmenter), None
        if config.adversary.weight:
            if masks:
                raise ModelError("a critic judges pictures, not masks: set objective.adversary.weight=0.")
            both = info._replace(channels=info.channels + model.channels)
            critic = CriticTerm(config.adversary, both, images=images)
        super().__init__(model, critic)
        self.translator, self.config, self.mixture = model, config, None
        self.losses: Mapping[str, float] = config.loss or (MASK_LOSSES if masks else PICTURE_LOSSES)
        if masks:
            for name in self.losses:
                if name not in ("cross_entropy", "dice", "focal"):
                    near = did_you_mean(name, ["cross_entropy", "dice", "focal"])
                    raise RecipeError(f"objective.loss: no loss '{name}' of masks; {near}")
            self.register_buffer("weights", self._class_weights(info), persistent=False)
        else:
            self.mixture = Mixture(self.losses, channels=model.channels, network=config.network)

    def _class_weights(self, info: DataInfo) -> Tensor | None:
        assert info.target is not None
        wanted, count = self.config.class_weights, len(info.target.classes)
        if wanted == "none":
            return None
        if wanted == "balanced":
            found = torch.tensor(info.target.shares).clamp(min=1e-4).rsqrt()
            return found / found.mean()
        if len(wanted) != count:
            raise ModelError(
                f"objective.class_weights has {len(wanted)} numbers for {count} classes "
                f"({', '.join(info.target.classes)}): give one for each, in this order."
            )
        return torch.tensor(wanted)

    @property
    def model(self) -> Translator:
        return self.translator

    def score(self, batch: Batch, moment: Moment) -> LossTerms:
        """The model's turn."""
        given, wanted = self.model.pair(batch, moment)
        found, made = self.terms(self.model, given, wanted, deep=self.config.deep)
        if self.critic is not None:
            fake, real = (torch.cat([given, picture], 1) for picture in (made, wanted))
            found = self.critic.join(found, fake, real, self.model.last_layer, moment)
        return found

    def score_critic(self, batch: Batch, moment: Moment) -> LossTerms:
        """The critic's turn: inputs with their partners, and with what the model makes of them."""
        assert self.critic is not None
        assert isinstance(self.model, Painter)
        given, wanted = self.model.pair(batch, moment)
        with torch.no_grad():
            made = self.model.paint(given)
        return self.critic.score(torch.cat([given, wanted], 1), torch.cat([given, made], 1), moment)

    def validate(self, model: nn.Module, batch: Batch, moment: Moment) -> LossTerms:
        """The losses of the whole output of any such model; a critic is not asked."""
        assert isinstance(model, Translator)
        return self.terms(model, *model.pair(batch, moment))[0]

    def terms(
        self, model: Translator, given: Float[Tensor, "b c h w"], wanted: Tensor, deep: float = 0.0
    ) -> tuple[LossTerms, Tensor]:
        """Losses averaged over the images, and the output; those of lower levels are counted into them."""
        outputs = model.net.levels(given) if deep else [model.net(given)]
        whole = outputs[0][:, :, : given.shape[2], : given.shape[3]]
        terms = self._compared(model, whole, given, wanted)
        total = 1.0
        for level, output in enumerate(outputs[1:], 1):
            small, goal = _smaller(given, wanted, output, model.net.multiple)
            total += deep**level
            for name, value in self._compared(model, output, small, goal).items():
                terms[name] = terms[name] + deep**level * value
        made = model.finish(whole, given) if isinstance(model, Painter) else whole
        return LossTerms({name: (self.losses[name], value / total) for name, value in terms.items()}), made

    def _compared(self, model: Translator, output: Tensor, given: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        if isinstance(model, Painter):
            assert self.mixture is not None
            return {name: value.mean() for name, value in self.mixture(model.finish(output, given), wanted).items()}
        output = output.float()
        weights = None if self.weights is None else self.weights.to(output)
        found = {
            "cross_entropy": lambda: cross_entropy(output, wanted, weights, self.config.smoothing),
            "dice": lambda: dice(output, wanted, weights),
            "focal": lambda: focal(output, wanted, weights, self.config.gamma),
        }
        return {name: found[name]().mean() for name in self.losses}


def _smaller(given: Tensor, wanted: Tensor, output: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Input and goal at the size of a lower level, filled up as inside the network: means, of masks the nearest."""
    size = (output.shape[2], output.shape[3])
    small = F.interpolate(reflected(given, multiple), size, mode="bilinear", antialias=True)
    if wanted.is_floating_point():
        return small, F.interpolate(reflected(wanted, multiple), size, mode="bilinear", antialias=True)
    whole = reflected(wanted[:, None].to(torch.float32), multiple)
    return small, F.interpolate(whole, size, mode="nearest-exact")[:, 0].to(wanted.dtype)
