"""A linear code of image patches, and networks that learn its residual."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.nets.param_groups import ParameterGroup
from ectype.nets.pca import PCA, fit_pca
from ectype.nets.resampling import pad_and_unshuffle, pad_or_crop_channels, scale_down_layer

__all__ = ["PCADecoderResidual", "PCAEncoderResidual", "image_patches"]

LINEAR_LR_SCALE = 0.1
"""Factor on the learning rate of the linear maps, which start at the optimal linear code. Their weights are small, and
updates of full size would destroy it."""
MIN_STD = 1e-4
"""Lower limit of a component's standard deviation when it is scaled to variance 1, for patches that are constant."""


def image_patches(images: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "m d"]:
    """Return all non-overlapping square patches of images, flattened; sides that are not multiples are padded.

    Example:
        >>> image_patches(torch.zeros(2, 3, 8, 8), side=4).shape
        torch.Size([8, 48])
    """
    return pad_and_unshuffle(images, side).movedim(1, -1).flatten(0, 2)


class _PCAResidual(nn.Module):
    """The sum of layers, whose last one starts near 0, and a linear map in float32 with a lower learning rate."""

    def __init__(self, layers: Sequence[nn.Module], in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.line = nn.Conv2d(in_channels, out_channels, 1)  # the linear map; the name is part of saved weights
        scale_down_layer(layers[-1])
        self.body = nn.Sequential(*layers)

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return one group: the parameters of the linear map."""
        return [ParameterGroup(list(self.line.parameters()), LINEAR_LR_SCALE)]

    def _apply_linear(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.line(x.float())

    @torch.no_grad()
    def _set_linear(self, weight: Tensor, bias: Tensor) -> None:
        self.line.weight.copy_(weight[:, :, None, None])
        assert self.line.bias is not None
        self.line.bias.copy_(bias)


class PCAEncoderResidual(_PCAResidual):
    """The sum of an encoder's layers and a linear code of the image patch at each position of the code.

    Args:
        layers: Layers that map images to codes.
        channels: Channels of the images.
        code_channels: Channels of the code that the linear map fills, counted from the first.
        side: Side of a patch in pixels.
    """

    def __init__(self, layers: Sequence[nn.Module], channels: int, code_channels: int, side: int) -> None:
        super().__init__(layers, channels * side**2, code_channels)
        self.side = side

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        residual = self.body(x).float()
        linear = self._apply_linear(pad_and_unshuffle(x, self.side))
        return residual + pad_or_crop_channels(linear, residual.shape[1])

    def init_from_images(self, images: Float[Tensor, "n c h w"]) -> PCA:
        """Set the linear map to the principal components of image patches, each scaled to variance 1.

        If there are fewer patches than components, the last components are set to 0.

        Returns:
            The fitted PCA, from which `PCADecoderResidual.init_from_pca` initializes the decoder.
        """
        patches, n_components = image_patches(images, self.side).cpu(), self.line.out_channels
        pca = fit_pca(patches, min(n_components, *(length - 1 for length in patches.shape)))
        missing = n_components - len(pca.components)
        pca = pca._replace(
            components=F.pad(pca.components, (0, 0, 0, missing)),
            stds=F.pad(pca.stds, (0, missing)).clamp(min=MIN_STD),
        )
        weight = pca.components / pca.stds[:, None]
        self._set_linear(weight, -weight @ pca.mean)
        return pca


class PCADecoderResidual(_PCAResidual):
    """The sum of a decoder's layers and the linear reconstruction of `PCAEncoderResidual`.

    Args:
        layers: Layers that map codes to images.
        code_channels: Channels of the code.
        channels: Channels of the images. Further channels that the layers return, such as scales, get no linear part.
        side: Side of a patch in pixels.
    """

    def __init__(self, layers: Sequence[nn.Module], code_channels: int, channels: int, side: int) -> None:
        super().__init__(layers, code_channels, channels * side**2)
        self.side = side

    def forward(self, x: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b kc h w"]:
        residual = self.body(x).float()
        height, width = residual.shape[2:]
        linear = F.pixel_shuffle(self._apply_linear(x), self.side)[:, :, :height, :width]
        return residual + pad_or_crop_channels(linear, residual.shape[1])

    def init_from_pca(self, pca: PCA) -> None:
        """Set the linear map to the inverse of the encoder's."""
        self._set_linear(pca.components.T * pca.stds, pca.mean)
