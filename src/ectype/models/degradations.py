"""Degradations of images by name and amount, which a restoration network learns to undo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image as Pillow
from torch import Tensor

from ectype.config.schema import Factor
from ectype.core.errors import RecipeError, did_you_mean
from ectype.core.random import StepContext

__all__ = ["DEGRADATIONS", "Amount", "blur", "check_degradations", "degrade"]

Image = Float[Tensor, "b c h w"]
Amount = Factor | tuple[Factor, Factor]
"""One amount for all images, or the limits between which the amount of each image is drawn."""


class Degradation(NamedTuple):
    """One way to degrade images."""

    apply: Callable[[Image, Float[Tensor, " b"], StepContext], Image]
    """Called with images in [0, 1] and an amount for each; returns images, which may leave [0, 1] by noise."""
    minimum: float
    maximum: float
    unit: str


def _noise(image: Image, amount: Tensor, context: StepContext) -> Image:
    # The same draw as a denoising autoencoder's corruption, so that both get the same noise.
    return image + amount[:, None, None, None] * context.normal("corruption", *image.shape)


def _mask(image: Image, amount: Tensor, context: StepContext) -> Image:
    draw = context.uniform("degrade.mask", len(image), 1, *image.shape[2:]).to(image.device)
    return image * (draw >= amount[:, None, None, None])


def blur(image: Image, amount: Float[Tensor, " b"]) -> Image:
    """Blur each image with a Gaussian of its own width, with replicated borders.

    Args:
        image: Images.
        amount: Standard deviation of each image's Gaussian in pixels.
    """
    radius = max(1, int(np.ceil(3 * float(amount.max()))))
    offset = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-(offset**2) / (2 * amount[:, None].clamp(min=1e-3) ** 2))
    # Cut each kernel at its own radius, so that an image does not depend on the others in its batch.
    kernel = kernel * (offset.abs()[None] <= (3 * amount[:, None]).ceil().clamp(min=1))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(image.shape[1], 0)
    b, c, h, w = image.shape
    flat = image.reshape(1, b * c, h, w)
    for vertical in (True, False):
        shape = (b * c, 1, -1, 1) if vertical else (b * c, 1, 1, -1)
        pad = (0, 0, radius, radius) if vertical else (radius, radius, 0, 0)
        flat = F.conv2d(F.pad(flat, pad, mode="replicate"), kernel.view(shape), groups=b * c)
    return flat.view(b, c, h, w)


def _downscale(image: Image, amount: Tensor, context: StepContext) -> Image:
    result = []
    for one, factor in zip(image[:, None], amount.tolist(), strict=True):
        small = [max(1, round(side / factor)) for side in image.shape[2:]]
        down = F.interpolate(one, small, mode="bicubic", antialias=True)
        result.append(F.interpolate(down, image.shape[2:], mode="bicubic"))
    return torch.cat(result).clamp(0, 1)


def _grey(image: Image, amount: Tensor, context: StepContext) -> Image:
    if image.shape[1] == 1:
        return image
    grey = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    return image.lerp(grey.expand_as(image), amount[:, None, None, None])


def _jpeg(image: Image, amount: Tensor, context: StepContext) -> Image:
    result = []
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().cpu().numpy()
    for one, quality in zip(pixels, amount.tolist(), strict=True):
        file = BytesIO()
        picture = one[0] if len(one) == 1 else one.transpose(1, 2, 0)
        Pillow.fromarray(picture).save(file, "JPEG", quality=round(quality))
        decoded = np.array(Pillow.open(file))
        result.append(torch.from_numpy(decoded[None] if decoded.ndim == 2 else decoded.transpose(2, 0, 1).copy()))
    return (torch.stack(result).float() / 255).to(image)


DEGRADATIONS = {
    "blur": Degradation(
        lambda image, amount, context: blur(image, amount), 0, 64, "standard deviation of a Gaussian in pixels"
    ),
    "downscale": Degradation(_downscale, 1, 64, "factor of downscaling, before bicubic upscaling to the old size"),
    "grey": Degradation(_grey, 0, 1, "fraction of the color that is removed"),
    "noise": Degradation(_noise, 0, 10, "standard deviation of Gaussian noise, for pixels in [0, 1]"),
    "mask": Degradation(_mask, 0, 1, "fraction of the pixels set to 0"),
    "jpeg": Degradation(_jpeg, 1, 95, "quality"),
}
"""Degradations by name, in the order in which they are applied: as a camera and then a file would."""


def check_degradations(degradations: Mapping[str, Amount]) -> dict[str, Amount]:
    """Return the degradations in the order of `DEGRADATIONS`.

    Args:
        degradations: Amounts by name.

    Raises:
        RecipeError: A name is unknown, or an amount is out of range.
    """
    for name, amount in degradations.items():
        if name not in DEGRADATIONS:
            raise RecipeError(f"no degradation '{name}'; {did_you_mean(name, DEGRADATIONS)}")
        known = DEGRADATIONS[name]
        low, high = amount if isinstance(amount, tuple) else (amount, amount)
        if not known.minimum <= low <= high <= known.maximum:
            raise RecipeError(
                f"degrade={{{name}: {amount}}} is out of range: give the {known.unit}, from {known.minimum:g} to "
                f"{known.maximum:g}, or two of these, the smaller first, to draw a value between them for each image."
            )
    return {name: degradations[name] for name in DEGRADATIONS if name in degradations}


def degrade(image: Image, degradations: Mapping[str, Amount], context: StepContext) -> Image:
    """Degrade images.

    Noise is not clipped to [0, 1], because clipping would weaken it.

    Args:
        image: Images in [0, 1].
        degradations: Amounts by name; all are applied.
        context: Current step; the source of all randomness.
    """
    with torch.autocast(image.device.type, enabled=False):
        for name, amount in degradations.items():
            if isinstance(amount, tuple):
                draw = context.uniform(f"degrade.{name}.amount", len(image)).to(image)
                amounts = amount[0] + (amount[1] - amount[0]) * draw
            else:
                amounts = image.new_full((len(image),), amount)
            image = DEGRADATIONS[name].apply(image, amounts, context)
        return image
