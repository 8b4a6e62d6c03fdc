"""Supervised training on pairs: masks, other images, and images that were degraded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ObjectiveConfig, Weights
from ectype.core.errors import ModelError, RecipeError, did_you_mean
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.losses.segmentation import cross_entropy, dice, focal
from ectype.losses.weighted import WeightedLoss
from ectype.models.translator import ImageTranslator, Segmenter, Translator
from ectype.nets.dense_predictor import reflect_pad_to_multiple
from ectype.objectives.base import LossTerms
from ectype.objectives.critic_term import CriticTerm, CriticTermConfig
from ectype.objectives.with_critic import WithCritic

__all__ = ["Supervised", "SupervisedConfig"]

DEFAULT_MASK_LOSSES = {"cross_entropy": 1.0, "dice": 1.0}
DEFAULT_IMAGE_LOSSES = {"l1": 1.0}


class SupervisedConfig(ObjectiveConfig):
    """Losses between a model's output and the target of each image."""

    kind: Literal["supervised"] = "supervised"
    loss: Weights = Field(default_factory=dict)
    """Losses by weight. For masks: cross_entropy, dice and focal; by default the first two. For images: those of
    `ectype.losses.weighted`; by default l1."""
    network: str = "auto"
    """Network whose features the perceptual and style losses compare; auto takes the best available."""
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(ge=0, le=1e6)], ...] = "none"
    """Weights of a mask's classes. balanced: the inverse square root of their fraction of the training pixels, scaled
    to mean 1."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of the cross-entropy."""
    gamma: float = Field(default=2.0, ge=0, le=100)
    """γ of the focal loss."""
    deep: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the lower levels' losses (deep supervision); that of the n-th is this to the power of n. A value above
    0 needs model.deep=true."""
    adversary: CriticTermConfig = CriticTermConfig()
    """A critic that sees input and output together, as in pix2pix (Isola et al. 2017)."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Supervised:
        return Supervised(model, self, info, images=images)


class Supervised(WithCritic):
    """Minimize losses between outputs and targets, with an adversarial term if there is a critic.

    Args:
        model: A `Translator`.
        config: Losses and critic.
        info: Shape of the images and their targets.
        images: Training budget in images.

    Raises:
        ModelError: The model is no translator, or does not support one of the options.
        RecipeError: A loss is unknown.
    """

    weights: Tensor | None

    def __init__(self, model: nn.Module, config: SupervisedConfig, info: DataInfo, *, images: int) -> None:
        if not isinstance(model, Translator):
            raise ModelError(f"{type(self).__name__} trains networks from image to image: choose model=translator.")
        if (config.deep > 0) != model.config.deep:
            raise ModelError(
                f"objective.deep={config.deep:g} does not fit model.deep={str(model.config.deep).lower()}: deep "
                "supervision needs a weight of its losses and outputs of the lower levels: set both, or neither."
            )
        masks, critic = isinstance(model, Segmenter), None
        if config.adversary.weight:
            if masks:
                raise ModelError("a critic scores images, not masks: set objective.adversary.weight=0.")
            critic_info = info._replace(channels=info.channels + model.channels)
            critic = CriticTerm(config.adversary, critic_info, images=images)
        super().__init__(model, critic)
        self.translator, self.config, self.mixture = model, config, None
        self.losses: Mapping[str, float] = config.loss or (DEFAULT_MASK_LOSSES if masks else DEFAULT_IMAGE_LOSSES)
        if masks:
            for name in self.losses:
                if name not in ("cross_entropy", "dice", "focal"):
                    hint = did_you_mean(name, ["cross_entropy", "dice", "focal"])
                    raise RecipeError(f"objective.loss: no loss '{name}' of masks; {hint}")
            self.register_buffer("weights", self._class_weights(info), persistent=False)
        else:
            self.mixture = WeightedLoss(self.losses, channels=model.channels, network=config.network)

    def _class_weights(self, info: DataInfo) -> Tensor | None:
        assert info.target is not None
        weights, num_classes = self.config.class_weights, len(info.target.classes)
        if weights == "none":
            return None
        if weights == "balanced":
            balanced = torch.tensor(info.target.shares).clamp(min=1e-4).rsqrt()
            return balanced / balanced.mean()
        if len(weights) != num_classes:
            raise ModelError(
                f"objective.class_weights has {len(weights)} values for {num_classes} classes "
                f"({', '.join(info.target.classes)}): give one for each, in this order."
            )
        return torch.tensor(weights)

    @property
    def model(self) -> Translator:
        return self.translator

    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the loss of the model's turn."""
        inputs, target = self.model.input_and_target(batch, context)
        loss, output = self.loss_terms(self.model, inputs, target, deep=self.config.deep)
        if self.critic is not None:
            fake, real = (torch.cat([inputs, image], 1) for image in (output, target))
            loss = self.critic.add_to_loss(loss, fake, real, self.model.last_layer, context)
        return loss

    def score_critic(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the loss of the critic's turn, on inputs with their targets and inputs with the model's outputs."""
        assert self.critic is not None
        assert isinstance(self.model, ImageTranslator)
        inputs, target = self.model.input_and_target(batch, context)
        with torch.no_grad():
            output = self.model.translate_unclamped(inputs)
        return self.critic.score(torch.cat([inputs, target], 1), torch.cat([inputs, output], 1), context)

    def validate(self, model: nn.Module, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the loss of a model's full-size output, without a critic."""
        assert isinstance(model, Translator)
        return self.loss_terms(model, *model.input_and_target(batch, context))[0]

    def loss_terms(
        self, model: Translator, inputs: Float[Tensor, "b c h w"], target: Tensor, deep: float = 0.0
    ) -> tuple[LossTerms, Tensor]:
        """Run a model and compute its losses, averaged over the images.

        Args:
            model: The model.
            inputs: Input images.
            target: Class indices [b, h, w], or images [b, k, h, w] in [0, 1].
            deep: Weight of the lower levels' losses, which are averaged with those of the full-size output; 0 to ignore
                the lower levels.

        Returns:
            The loss, and the full-size output.
        """
        outputs = model.net.forward_levels(inputs) if deep else [model.net(inputs)]
        full_size = outputs[0][:, :, : inputs.shape[2], : inputs.shape[3]]
        terms = self._losses(model, full_size, inputs, target)
        total_weight = 1.0
        for level, output in enumerate(outputs[1:], 1):
            level_inputs, level_target = _resize_to_level(inputs, target, output, model.net.multiple)
            total_weight += deep**level
            for name, value in self._losses(model, output, level_inputs, level_target).items():
                terms[name] = terms[name] + deep**level * value
        image = model.postprocess(full_size, inputs) if isinstance(model, ImageTranslator) else full_size
        return LossTerms({name: (self.losses[name], value / total_weight) for name, value in terms.items()}), image

    def _losses(self, model: Translator, output: Tensor, inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        if isinstance(model, ImageTranslator):
            assert self.mixture is not None
            values = self.mixture(model.postprocess(output, inputs), target)
            return {name: value.mean() for name, value in values.items()}
        output = output.float()
        weights = None if self.weights is None else self.weights.to(output)
        losses = {
            "cross_entropy": lambda: cross_entropy(output, target, weights, self.config.smoothing),
            "dice": lambda: dice(output, target, weights),
            "focal": lambda: focal(output, target, weights, self.config.gamma),
        }
        return {name: losses[name]().mean() for name in self.losses}


def _resize_to_level(inputs: Tensor, target: Tensor, output: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Resize input and target to a lower level's output, after the padding that the network applies.

    Images are downscaled with antialiasing, masks by nearest neighbor.
    """
    size = (output.shape[2], output.shape[3])
    inputs = F.interpolate(reflect_pad_to_multiple(inputs, multiple), size, mode="bilinear", antialias=True)
    if target.is_floating_point():
        padded = reflect_pad_to_multiple(target, multiple)
        return inputs, F.interpolate(padded, size, mode="bilinear", antialias=True)
    padded = reflect_pad_to_multiple(target[:, None].to(torch.float32), multiple)
    return inputs, F.interpolate(padded, size, mode="nearest-exact")[:, 0].to(target.dtype)
