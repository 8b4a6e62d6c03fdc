"""Models from image to image: segmentation, translation to other images, and restoration of degraded images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ModelConfig
from ectype.core.errors import ModelError, RecipeError
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.data.masks import IGNORE_INDEX
from ectype.models.base import Model
from ectype.models.degradations import Amount, check_degradations, degrade
from ectype.nets.dense_predictor import DensePredictorConfig
from ectype.nets.param_groups import ParameterGroup, parameter_groups_of
from ectype.nets.unet import UNetConfig

__all__ = ["ImageTranslator", "Restorer", "Segmenter", "Translator", "TranslatorConfig"]

Image = Float[Tensor, "b c h w"]
COLOR_MARGIN = 0.01
"""A mean color is kept this far inside of [0, 1] before its logit is taken."""


def _check(degradations: dict[str, Amount]) -> dict[str, Amount]:
    try:
        return check_degradations(degradations)
    except RecipeError as error:
        raise ValueError(str(error)) from None


class TranslatorConfig(ModelConfig):
    """A network from image to image; its output follows from the targets of the images, or from their degradation."""

    kind: Literal["translator"] = "translator"
    net: DensePredictorConfig = UNetConfig()
    output: Literal["sigmoid", "linear"] = "sigmoid"
    """How an output image is brought to [0, 1]: by a sigmoid, or by clamping. Masks always have a softmax."""
    residual: bool = False
    """Whether the network's output is added to its input; needs output=linear and as many channels as the input."""
    degrade: Annotated[dict[str, Amount], AfterValidator(_check)] = Field(default_factory=dict)
    """Degradations of the input, the target being the clean image, such as {noise: 0.2, blur: [0, 2]}: see
    `ectype.models.degradations`."""
    deep: bool = False
    """Whether the network's lower levels have outputs too, for deep supervision."""
    start_at_mean: bool = False
    """Whether an untrained model returns the mean color of the training targets at every pixel. Masks have no color."""

    @model_validator(mode="after")
    def _check_residual(self) -> TranslatorConfig:
        if self.residual and self.output != "linear":
            raise ValueError(
                f"residual=true adds to pixels, which output={self.output} would distort: set output=linear"
            )
        if self.residual and self.start_at_mean:
            raise ValueError("residual=true starts at the input, not at the mean color: set start_at_mean=false")
        return self

    def build(self, info: DataInfo) -> Translator:
        if self.degrade:
            if info.target is not None:
                raise ModelError("degrade is for images without targets: set data.pairs=none, or leave degrade out.")
            return Restorer(self, info, info.channels)
        if info.target is None:
            raise ModelError(
                "these images have no targets to be translated to: set data.pairs=masks or data.pairs=images, or "
                "degrade them, as in model.degrade='{noise: 0.2}'."
            )
        if info.target.kind == "masks":
            return Segmenter(self, info, len(info.target.classes))
        return ImageTranslator(self, info, info.target.channels)


class Translator(Model):
    """Base class of models from image to image.

    Args:
        config: Network and output.
        info: Shape of the images.
        channels: Channels of the output.
    """

    def __init__(self, config: TranslatorConfig, info: DataInfo, channels: int) -> None:
        super().__init__(info)
        self.config, self.channels = config, channels
        self.net = config.net.build(info, channels, deep=config.deep)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last layer, where the gradients of losses are compared."""
        return self.net.last_layer

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return the parameter groups, with the learning rates that submodules such as pretrained encoders ask for."""
        return parameter_groups_of(self)

    def input_and_target(self, batch: Batch, context: StepContext) -> tuple[Image, Tensor]:
        """Return the input that the model gets for a batch, and the output that it should produce.

        Raises:
            ModelError: The batch has no targets.
        """
        if batch.target is None:
            raise ModelError("these images have no targets to learn from or compare with: set data.pairs.")
        return batch.image, batch.target

    def to_rgb(self, output: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Return an output or a target as RGB images in [0, 1], for display."""
        return output.expand(-1, 3, -1, -1)

    def translate(self, image: Image) -> Float[Tensor, "b k h w"]:
        """Translate images of any size in [0, 1] to maps of the same size in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define translate(image)")


class Segmenter(Translator):
    """Predicts the class of every pixel."""

    def translate(self, image: Image) -> Float[Tensor, "b k h w"]:
        """Return the probability of each class."""
        return self.net(image).float().softmax(1)

    def to_rgb(self, output: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Return class indices or probabilities in the colors of the classes; ignored pixels are gray."""
        assert self.info.target is not None
        indices = output.argmax(1) if output.ndim == 4 else output
        colors = torch.full((IGNORE_INDEX + 1, 3), 0.5)
        colors[: self.channels] = torch.tensor(self.info.target.colours) / 255
        return colors[indices.cpu().long()].movedim(-1, 1)


class ImageTranslator(Translator):
    """Predicts another image."""

    def __init__(self, config: TranslatorConfig, info: DataInfo, channels: int) -> None:
        super().__init__(config, info, channels)
        if config.residual and info.channels not in (channels, 1):
            raise ModelError(
                f"residual=true adds the output's {channels} channels to the input's {info.channels}: set "
                "residual=false."
            )
        if config.residual:
            self.net.zero_init_heads()  # so that an untrained model returns its input

    def initialize_from_data(
        self, mean: Float[Tensor, "c h w"], get_images: Callable[[], Float[Tensor, "n c h w"]]
    ) -> None:
        """Initialize the last layers so that an untrained model returns the mean color, if `start_at_mean` is set.

        Args:
            mean: Mean training image in [0, 1], with the channels of its target last.
            get_images: Not used.
        """
        if self.config.start_at_mean:
            color = mean[-self.channels :].mean((1, 2))
            linear = self.config.output == "linear"
            self.net.start_at(color if linear else torch.logit(color, COLOR_MARGIN))

    def translate_unclamped(self, image: Image) -> Float[Tensor, "b k h w"]:
        """Return the output image before it is clamped to [0, 1], as it is trained."""
        return self.postprocess(self.net(image), image)

    def postprocess(self, output: Float[Tensor, "b k h w"], image: Image) -> Float[Tensor, "b k h w"]:
        """Return the image that an output of the network stands for, not clamped.

        Args:
            output: Output of the network.
            image: Input of the network, in [0, 1].
        """
        output = output.float()
        if self.config.residual:
            output = output + image
        return output if self.config.output == "linear" else output.sigmoid()

    def translate(self, image: Image) -> Float[Tensor, "b k h w"]:
        """Return the output image."""
        return self.translate_unclamped(image).clamp(0, 1)


class Restorer(ImageTranslator):
    """Restores degraded images."""

    accepts_noise = True

    def input_and_target(self, batch: Batch, context: StepContext) -> tuple[Image, Tensor]:
        """Return degraded images, with noise not clipped, and the clean ones."""
        return degrade(batch.image, self.config.degrade, context), batch.image
