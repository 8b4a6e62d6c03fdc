"""The interface of networks that predict values for every pixel of an image."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.config.schema import Choice, DataInfo

__all__ = ["DensePredictor", "DensePredictorConfig", "reflect_pad_to_multiple"]


class DensePredictor(nn.Module):
    """Base class of networks that map images of any size to k values per pixel.

    Attributes:
        multiple: The sides of images are padded to multiples of this number by reflection, and the output is cropped.
    """

    multiple: int = 1

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return unbounded values for each pixel."""
        height, width = image.shape[2:]
        return self.body(reflect_pad_to_multiple(image, self.multiple))[0][:, :, :height, :width]

    def forward_levels(self, image: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b k _ _"]]:
        """Return the output and those of the lower levels, each with half the size, for deep supervision.

        The outputs are not cropped: they are larger than the image where a side is not a multiple of `multiple`.
        """
        return self.body(reflect_pad_to_multiple(image, self.multiple), deep=True)

    def body(self, image: Tensor, *, deep: bool = False) -> list[Tensor]:
        """Return the outputs for an image whose sides are multiples of `multiple`, the largest output first.

        Args:
            image: Images [b, c, h, w].
            deep: Whether to return the outputs of the lower levels too.
        """
        raise NotImplementedError(f"{type(self).__name__} must define body(image, deep=…)")

    @property
    def heads(self) -> nn.ModuleList:
        """The last layers, 1×1 convolutions: that of the output first, then those of the lower levels."""
        raise NotImplementedError(f"{type(self).__name__} must define heads")

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last layer of the output."""
        weight = self.heads[0].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def zero_init_heads(self) -> None:
        """Set the last layers to 0, so that all outputs are 0 at first."""
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def start_at(self, values: Float[Tensor, " k"]) -> None:
        """Initialize the last layers so that all outputs are these values, one for each of the output's channels."""
        self.zero_init_heads()
        for head in self.heads:
            assert isinstance(head.bias, nn.Parameter)
            # The channels that become the pixels of one block are neighbors.
            head.bias.copy_(values.repeat_interleave(len(head.bias) // len(values)))


class DensePredictorConfig(Choice):
    """Base class of the configurations of a network that predicts values for every pixel."""

    family: ClassVar[str] = "net"

    def build(self, info: DataInfo, channels: int, *, deep: bool) -> DensePredictor:
        """Build the network.

        Args:
            info: Describes the images.
            channels: Values k per pixel.
            deep: Whether the lower levels have outputs too.
        """
        raise TypeError(f"{type(self).__name__} must define build(info, channels, deep=…)")


def reflect_pad_to_multiple(image: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c h2 w2"]:
    """Pad images at the bottom and right by reflection until both sides are multiples of a number.

    Images that are too small to be reflected once are reflected repeatedly; a side of one pixel is repeated.

    Example:
        >>> import torch
        >>> padded = reflect_pad_to_multiple(torch.tensor([[[[1.0, 2.0, 3.0]]]]), 4)
        >>> padded.shape, padded[0, 0, 0]
        (torch.Size([1, 1, 4, 4]), tensor([1., 2., 3., 2.]))
    """
    bottom, right = -image.shape[2] % multiple, -image.shape[3] % multiple
    while bottom or right:
        # A single reflection can add at most the side's length minus one.
        step_bottom, step_right = min(bottom, image.shape[2] - 1), min(right, image.shape[3] - 1)
        if max(step_bottom, step_right) == 0:
            return F.pad(image, (0, right, 0, bottom), mode="replicate")
        image = F.pad(image, (0, step_right, 0, step_bottom), mode="reflect")
        bottom, right = bottom - step_bottom, right - step_right
    return image
