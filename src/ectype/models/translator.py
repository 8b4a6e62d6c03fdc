"""Models from image to image: masks, other pictures, or what an image was before it was spoiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.data.masks import IGNORED
from ectype.errors import ModelError, RecipeError
from ectype.models.base import Model
from ectype.models.degradations import Amount, check_degradations, degrade
from ectype.nets.groups import Group, grouped
from ectype.nets.mapper import MapperConfig
from ectype.nets.unet import UNetConfig
from ectype.sections import DataInfo, ModelConfig

__all__ = ["Painter", "Restorer", "Segmenter", "Translator", "TranslatorConfig"]

Image = Float[Tensor, "b c h w"]


def _checked(wanted: dict[str, Amount]) -> dict[str, Amount]:
    try:
        return check_degradations(wanted)
    except RecipeError as error:
        raise ValueError(str(error)) from None


class TranslatorConfig(ModelConfig):
    """A network from image to image; what it makes is decided by what images come in pairs with, or are spoiled by."""

    kind: Literal["translator"] = "translator"
    net: MapperConfig = UNetConfig()
    output: Literal["sigmoid", "linear"] = "sigmoid"
    """How a picture is kept in [0, 1]: by a sigmoid, or by cutting off what leaves it. Masks are always softmax."""
    residual: bool = False
    """Whether the network says what to add to its input; for output=linear, and pictures of as many channels."""
    degrade: Annotated[dict[str, Amount], AfterValidator(_checked)] = Field(default_factory=dict)
    """How an image is spoiled that is then its own target, such as {noise: 0.2, blur: [0, 2]}: see
    `ectype.models.degradations`."""
    deep: bool = False
    """Whether the network's lower levels give outputs too, for an objective that supervises them."""

    @model_validator(mode="after")
    def _adds(self) -> TranslatorConfig:
        if self.residual and self.output != "linear":
            raise ValueError(f"residual=true adds to pixels, which output={self.output} would bend: set output=linear")
        return self

    def build(self, info: DataInfo) -> Translator:
        if self.degrade:
            if info.target is not None:
                raise ModelError("degrade spoils images without partners: set data.pairs=none, or leave degrade out.")
            return Restorer(self, info, info.channels)
        if info.target is None:
            raise ModelError(
                "images without partners have nothing to be translated to: set data.pairs=masks or data.pairs=images, "
                "or spoil them, model.degrade='{noise: 0.2}'."
            )
        if info.target.kind == "masks":
            return Segmenter(self, info, len(info.target.classes))
        return Painter(self, info, info.target.channels)


class Translator(Model):
    """A network and what its numbers mean."""

    def __init__(self, config: TranslatorConfig, info: DataInfo, channels: int) -> None:
        super().__init__(info)
        self.config, self.channels = config, channels
        self.net = config.net.build(info, channels, deep=config.deep)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weights that all outputs come through."""
        return self.net.last_layer

    def parameter_groups(self) -> Sequence[Group]:
        """What parts ask for, such as a pretrained encoder; all the rest moves at the full rate."""
        return grouped(self)

    def pair(self, batch: Batch, moment: Moment) -> tuple[Image, Tensor]:
        """What the model is shown of a batch, and what it should make of it. Raises `ModelError` without partners."""
        if batch.target is None:
            raise ModelError("these images have no partners to learn from or compare with: set data.pairs.")
        return batch.image, batch.target

    def picture(self, found: Tensor) -> Float[Tensor, "b 3 h w"]:
        """What was found, or should have been, as it is shown to people: in [0, 1]."""
        return found.expand(-1, 3, -1, -1)

    def translate(self, image: Image) -> Float[Tensor, "b k h w"]:
        """Images of any size in [0, 1] to maps of their size in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define translate(image)")


class Segmenter(Translator):
    """Gives every pixel a class."""

    def translate(self, image: Image) -> Float[Tensor, "b k h w"]:
        """The probability of each class."""
        return self.net(image).float().softmax(1)

    def picture(self, found: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Class indices, or the probabilities of classes, in the classes' colours; ignored pixels are grey."""
        assert self.info.target is not None
        named = found.argmax(1) if found.ndim == 4 else found
        colours = torch.full((IGNORED + 1, 3), 0.5)
        colours[: self.channels] = torch.tensor(self.info.target.colours) / 255
        return colours[named.cpu().long()].movedim(-1, 1)


class Painter(Translator):
    """Makes another picture."""

    def __init__(self, config: TranslatorConfig, info: DataInfo, channels: int) -> None:
        super().__init__(config, info, channels)
        if config.residual and info.channels not in (channels, 1):
            raise ModelError(
                f"residual=true adds to the input's {info.channels} channels, the picture has {channels}: set "
                "residual=false."
            )
        if config.residual:
            self.net.start_silent()  # a fresh model leaves its input as it is

    def paint(self, image: Image) -> Float[Tensor, "b k h w"]:
        """The picture before it is cut to [0, 1], which is how it is trained."""
        return self.finish(self.net(image), image)

    def finish(self, numbers: Float[Tensor, "b k h w"], image: Image) -> Float[Tensor, "b k h w"]:
        """What unbounded numbers stand for, given the image they were made of."""
        numbers = numbers.float()
        if self.config.residual:
            numbers = numbers + image
        return numbers if self.config.output == "linear" else numbers.sigmoid()

    def translate(self, image: Image) -> Float[Tensor, "b k h w"]:
        """The picture."""
        return self.paint(image).clamp(0, 1)


class Restorer(Painter):
    """Makes of a spoiled image what it was."""

    def pair(self, batch: Batch, moment: Moment) -> tuple[Image, Tensor]:
        """Images spoiled, noise not clipped, and as they were."""
        return degrade(batch.image, self.config.degrade, moment), batch.image
