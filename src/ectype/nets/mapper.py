"""What a network from image to image is: numbers for every pixel, and its insides for deep supervision."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.sections import Choice, DataInfo

__all__ = ["Mapper", "MapperConfig"]


class Mapper(nn.Module):
    """Images of any size to as many numbers as wanted for each pixel.

    Attributes:
        multiple: Both sides must be whole numbers of it inside. Others are filled up by reflection, and cut back.
    """

    multiple: int = 1

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """The numbers of each pixel, unbounded."""
        height, width = image.shape[2:]
        return self.body(reflected(image, self.multiple))[0][:, :, :height, :width]

    def levels(self, image: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b k _ _"]]:
        """The same, then what the levels below would give, each at half the size, for deep supervision.

        Larger by what was filled up where a side is not a multiple.
        """
        return self.body(reflected(image, self.multiple), deep=True)

    def body(self, image: Tensor, *, deep: bool = False) -> list[Tensor]:
        """Maps of an image whose sides are multiples: the whole one first."""
        raise NotImplementedError(f"{type(self).__name__} must define body(image, deep=…)")

    @property
    def heads(self) -> nn.ModuleList:
        """The last layers, 1×1 convolutions: that of the whole output first, then those of the lower levels."""
        raise NotImplementedError(f"{type(self).__name__} must define heads")

    @property
    def last_layer(self) -> nn.Parameter:
        """Weights that the whole output comes through."""
        weight = self.heads[0].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def start_silent(self) -> None:
        """Have all outputs begin at 0."""
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)


class MapperConfig(Choice):
    """A network from images to maps of their size."""

    family: ClassVar[str] = "net"

    def build(self, info: DataInfo, channels: int, *, deep: bool) -> Mapper:
        """A network from the images' channels to others; with `deep`, its lower levels have outputs of their own."""
        raise TypeError(f"{type(self).__name__} must define build(info, channels, deep=…)")


def reflected(image: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c h2 w2"]:
    """Filled up at the right and below until both sides are multiples, mirrored where there is enough to mirror."""
    down, right = -image.shape[2] % multiple, -image.shape[3] % multiple
    while down or right:
        # A reflection reaches as far as the image, without its border.
        some = (min(down, image.shape[2] - 1), min(right, image.shape[3] - 1))
        if max(some) == 0:
            return F.pad(image, (0, right, 0, down), mode="replicate")
        image = F.pad(image, (0, some[1], 0, some[0]), mode="reflect")
        down, right = down - some[0], right - some[1]
    return image
