"""Networks that learn the residual of a linear code: PCA of image patches for maps, PCA of whole images for vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.config.schema import DataInfo
from ectype.nets.param_groups import ParameterGroup
from ectype.nets.pca import fit_pca
from ectype.nets.resampling import halved_size, pad_and_unshuffle, pad_or_crop_channels, scale_down_layer

__all__ = [
    "ImagePCADecoder",
    "ImagePCAEncoder",
    "LinearCode",
    "PCADecoderResidual",
    "PCAEncoderResidual",
    "PatchPCADecoder",
    "PatchPCAEncoder",
    "fit_linear_code",
    "image_patches",
]

LINEAR_LR_SCALE = 0.1
"""Factor on the learning rate of the linear maps, which start at the optimal linear code. Their weights are small, and
updates of full size would destroy it."""
MIN_STD = 1e-4
"""Lower limit of a component's standard deviation when it is scaled to variance 1, for patches that are constant."""
MAX_LINEAR_ELEMENTS = 3 * 64 * 64
"""Larger images are shrunk for a linear code of whole images. Their first components are smooth, so that little is
lost, and the linear maps have at most this many rows or columns."""
LOGIT_MARGIN = 0.01
"""Linear reconstructions are kept this far inside of [0, 1] before their logit is taken."""


def image_patches(images: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "m d"]:
    """Return all non-overlapping square patches of images, flattened; sides that are not multiples are padded.

    Example:
        >>> image_patches(torch.zeros(2, 3, 8, 8), side=4).shape
        torch.Size([8, 48])
    """
    return pad_and_unshuffle(images, side).movedim(1, -1).flatten(0, 2)


class LinearCode(NamedTuple):
    """A linear code and its inverse: code = weight · x + offset, x = inverse · code + mean.

    Args:
        mean: Mean of the flattened patches or images.
        weight: Rows of the encoder.
        offset: What the encoder adds.
        inverse: Columns of the decoder.
        log_variance: Logarithm of each code element's posterior variance; None for a deterministic code.
    """

    mean: Float[Tensor, " d"]
    weight: Float[Tensor, "k d"]
    offset: Float[Tensor, " k"]
    inverse: Float[Tensor, "d k"]
    log_variance: Float[Tensor, " k"] | None

    def restoring(self, corrupted: Float[Tensor, "n d"], clean: Float[Tensor, "n d"]) -> LinearCode:
        """Return the code whose encoder predicts each element of a clean code from the same element of a corrupted one.

        For white noise of variance σ² this is the best linear code, Wiener's filter along principal components: an
        element of variance λ is multiplied by λ / (λ + σ²).

        Args:
            corrupted: Corrupted patches or images.
            clean: The same ones before.
        """
        seen, wanted = (flat @ self.weight.T + self.offset for flat in (corrupted, clean))
        center = seen.mean(0)
        variance = (seen - center).square().mean(0).clamp(min=torch.finfo(torch.float32).tiny)
        slope = ((seen - center) * wanted).mean(0) / variance
        offset = wanted.mean(0) + slope * (self.offset - center)
        return self._replace(weight=slope[:, None] * self.weight, offset=offset)


def fit_linear_code(
    flat: Float[Tensor, "n d"], length: int, *, posterior: bool = False, whitened: bool = True
) -> LinearCode:
    """Fit the linear code with which a network starts, of mean 0 and variance 1 per element.

    Without a posterior it is PCA. With one it is probabilistic PCA, the optimum of a linear variational autoencoder
    whose σ² is the mean of the discarded variances (Tipping and Bishop 1999; Lucas et al. 2019, "Don't blame the
    ELBO!"): an element with variance λ has the posterior variance σ²/λ, and one with λ ≤ σ² is not used.

    Args:
        flat: Flattened image patches or images in [0, 1].
        length: k, the elements of the code. If there are fewer components than this, the last elements are 0.
        posterior: Whether the code has a Gaussian posterior.
        whitened: false: distances between codes without a posterior are those between linear reconstructions, so that
            elements have the variances of the principal components.
    """
    n_components = min(length, *(n - 1 for n in flat.shape))
    if n_components < 1:  # a single image or patch
        zeros = torch.zeros(length, flat.shape[1])
        return LinearCode(flat.mean(0), zeros, zeros[:, 0], zeros.T, torch.zeros(length) if posterior else None)
    pca = fit_pca(flat, n_components)
    missing = length - n_components
    components = F.pad(pca.components, (0, 0, 0, missing))
    variance = F.pad(pca.stds, (0, missing)).clamp(min=MIN_STD) ** 2
    noise, log_variance = torch.zeros(()), None
    if posterior:
        discarded = float(flat.var(0).sum() - (pca.stds**2).sum()) / (flat.shape[1] - n_components)
        noise = torch.tensor(max(discarded, MIN_STD**2))
        log_variance = (noise / variance).clamp(max=1).log()
    std = (variance - noise).clamp(min=0).sqrt()
    scale, inverse_scale = (std / variance, std) if whitened else (torch.ones(length), torch.ones(length))
    weight = components * scale[:, None]
    return LinearCode(pca.mean, weight, -weight @ pca.mean, components.T * inverse_scale, log_variance)


class _PCAResidual(nn.Module):
    """The sum of layers, whose last one starts near 0, and a linear map in float32 with a lower learning rate."""

    def __init__(self, layers: Sequence[nn.Module], line: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.line = line  # the linear map; the name is part of saved weights
        scale_down_layer(layers[-1])
        self.body = nn.Sequential(*layers)

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return one group: the parameters of the linear map."""
        return [ParameterGroup(list(self.line.parameters()), LINEAR_LR_SCALE)]

    def _apply_linear(self, x: Tensor) -> Tensor:
        # The device `meta`, where models are counted, has no autocast.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            return self.line(x.float())

    @torch.no_grad()
    def _set_linear(self, weight: Tensor, bias: Tensor) -> None:
        self.line.weight.copy_(weight.view_as(self.line.weight))
        self.line.bias.copy_(bias)  # pyright: ignore[reportOptionalMemberAccess]


class PCAEncoderResidual(_PCAResidual):
    """Base class of encoders that are the sum of layers and a linear code, which fills the first channels."""

    def flatten(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "m d"]:
        """Return what the linear code encodes, one row each: image patches, or images."""
        raise TypeError(f"{type(self).__name__} must define flatten(images)")

    def init_from_images(
        self,
        images: Float[Tensor, "n c h w"],
        corrupted: Float[Tensor, "n c h w"] | None = None,
        *,
        posterior: bool = False,
        whitened: bool = True,
    ) -> LinearCode:
        """Set the linear map to principal components.

        Args:
            images: Training images in [0, 1].
            corrupted: What the network sees of them, if that is not the images themselves.
            posterior: Whether the other channels are log variances of a posterior; see `fit_linear_code`.
            whitened: Whether each element of the code is scaled to variance 1.

        Returns:
            The linear code, from which `PCADecoderResidual.init_from_code` initializes the decoder.
        """
        flat, length = self.flatten(images).cpu(), self.line.weight.shape[0]
        code = fit_linear_code(flat, length, posterior=posterior, whitened=whitened)
        if corrupted is not None:
            code = code.restoring(self.flatten(corrupted).cpu(), flat)
        self._set_linear(code.weight, code.offset)
        if code.log_variance is not None:
            last = self.body[-1]
            assert isinstance(last, nn.Linear | nn.Conv2d)
            assert last.bias is not None
            with torch.no_grad():
                last.bias[len(code.log_variance) :] = code.log_variance
        return code


class PatchPCAEncoder(PCAEncoderResidual):
    """An encoder of maps, whose linear part is a code of the image patch at each position.

    Args:
        layers: Layers that map images to codes.
        channels: Channels of the images.
        code_channels: Channels of the code that the linear map fills, counted from the first.
        side: Side of a patch in pixels.
    """

    def __init__(self, layers: Sequence[nn.Module], channels: int, code_channels: int, side: int) -> None:
        super().__init__(layers, nn.Conv2d(channels * side**2, code_channels, 1))
        self.side = side

    def flatten(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "m d"]:
        return image_patches(images, self.side)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        residual = self.body(x).float()
        linear = self._apply_linear(pad_and_unshuffle(x, self.side))
        return residual + pad_or_crop_channels(linear, residual.shape[1])


class ImagePCAEncoder(PCAEncoderResidual):
    """An encoder of vectors, whose linear part is a code of the whole image.

    Args:
        layers: Layers that map images to codes.
        info: Shape of the images.
        latent_dim: Length of the code that the linear map fills, counted from the first element.
    """

    def __init__(self, layers: Sequence[nn.Module], info: DataInfo, latent_dim: int) -> None:
        shape = _shrunk_shape(info)
        super().__init__(layers, nn.Linear(math.prod(shape), latent_dim))
        self.shape = shape

    def flatten(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return _shrink(images, self.shape).flatten(1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        residual = self.body(x).float()
        linear = self._apply_linear(self.flatten(x))
        return residual + F.pad(linear, (0, residual.shape[1] - linear.shape[1]))


class PCADecoderResidual(_PCAResidual):
    """Base class of decoders that are the sum of layers and the linear reconstruction of a `PCAEncoderResidual`.

    Further channels that the layers return, such as scales, get no linear part.

    Attributes:
        output: How the linear reconstruction becomes the decoder's output: as it is, or as its logit if a sigmoid
            follows.
    """

    output: Literal["linear", "logit"] = "linear"

    def init_from_code(self, code: LinearCode) -> None:
        """Set the linear map to the inverse of the encoder's."""
        self._set_linear(code.inverse, code.mean)

    def _add(self, residual: Tensor, linear: Tensor) -> Tensor:
        if self.output == "logit":
            linear = torch.logit(linear, LOGIT_MARGIN)
        return residual + pad_or_crop_channels(linear, residual.shape[1])


class PatchPCADecoder(PCADecoderResidual):
    """The decoder of `PatchPCAEncoder`.

    Args:
        layers: Layers that map codes to images.
        code_channels: Channels of the code.
        channels: Channels of the images.
        side: Side of a patch in pixels.
    """

    def __init__(self, layers: Sequence[nn.Module], code_channels: int, channels: int, side: int) -> None:
        super().__init__(layers, nn.Conv2d(code_channels, channels * side**2, 1))
        self.side = side

    def forward(self, x: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b kc h w"]:
        residual = self.body(x).float()
        height, width = residual.shape[2:]
        return self._add(residual, F.pixel_shuffle(self._apply_linear(x), self.side)[:, :, :height, :width])


class ImagePCADecoder(PCADecoderResidual):
    """The decoder of `ImagePCAEncoder`.

    Args:
        layers: Layers that map codes to images.
        latent_dim: Length of the code.
        info: Shape of the images.
    """

    def __init__(self, layers: Sequence[nn.Module], latent_dim: int, info: DataInfo) -> None:
        shape = _shrunk_shape(info)
        super().__init__(layers, nn.Linear(latent_dim, math.prod(shape)))
        self.shape = shape

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b kc h w"]:
        residual = self.body(x).float()
        linear = self._apply_linear(x).view(len(x), *self.shape)
        if linear.shape[2:] != residual.shape[2:]:
            linear = F.interpolate(linear, residual.shape[2:], mode="bilinear")
        return self._add(residual, linear)


def _shrunk_shape(info: DataInfo) -> tuple[int, int, int]:
    """Return the shape of the images that a linear code of whole images sees: halved until they are small enough."""
    size = info.size
    while info.channels * math.prod(size) > MAX_LINEAR_ELEMENTS:
        size = halved_size(size)
    return info.channels, *size


def _shrink(x: Float[Tensor, "b c h w"], shape: tuple[int, int, int]) -> Float[Tensor, "b c h2 w2"]:
    return x if x.shape[1:] == shape else F.interpolate(x, shape[1:], mode="area")
