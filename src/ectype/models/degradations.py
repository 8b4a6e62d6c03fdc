"""What spoils an image, by name and amount: the input of a network that is to restore it."""

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

from ectype.data.batch import Moment
from ectype.errors import RecipeError, did_you_mean

__all__ = ["DEGRADATIONS", "Amount", "blur", "check_degradations", "degrade"]

Image = Float[Tensor, "b c h w"]
Amount = float | tuple[float, float]
"""One for all images, or the ends between which each image's is drawn."""


class Degradation(NamedTuple):
    """One way to spoil images."""

    apply: Callable[[Image, Float[Tensor, " b"], Moment], Image]
    """Images in [0, 1] and the amount of each to images; noise may leave [0, 1]."""
    least: float
    most: float
    unit: str


def _noise(image: Image, amount: Tensor, moment: Moment) -> Image:
    # The draw of a denoising autoencoder's corruption: twins see the same noise.
    return image + amount[:, None, None, None] * moment.normal("corruption", *image.shape)


def _mask(image: Image, amount: Tensor, moment: Moment) -> Image:
    draw = moment.uniform("degrade.mask", len(image), 1, *image.shape[2:]).to(image.device)
    return image * (draw >= amount[:, None, None, None])


def blur(image: Image, amount: Float[Tensor, " b"]) -> Image:
    """Each image averaged by a Gaussian of its own standard deviation in pixels; borders are carried on."""
    radius = max(1, int(np.ceil(3 * float(amount.max()))))
    place = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-(place**2) / (2 * amount[:, None].clamp(min=1e-3) ** 2))
    # To each image's own radius, whatever the others of its batch need.
    kernel = kernel * (place.abs()[None] <= (3 * amount[:, None]).ceil().clamp(min=1))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(image.shape[1], 0)
    b, c, h, w = image.shape
    flat = image.reshape(1, b * c, h, w)
    for vertical in (True, False):
        shape = (b * c, 1, -1, 1) if vertical else (b * c, 1, 1, -1)
        pad = (0, 0, radius, radius) if vertical else (radius, radius, 0, 0)
        flat = F.conv2d(F.pad(flat, pad, mode="replicate"), kernel.view(shape), groups=b * c)
    return flat.view(b, c, h, w)


def _downscale(image: Image, amount: Tensor, moment: Moment) -> Image:
    result = []
    for one, factor in zip(image[:, None], amount.tolist(), strict=True):
        small = [max(1, round(side / factor)) for side in image.shape[2:]]
        down = F.interpolate(one, small, mode="bicubic", antialias=True)
        result.append(F.interpolate(down, image.shape[2:], mode="bicubic"))
    return torch.cat(result).clamp(0, 1)


def _grey(image: Image, amount: Tensor, moment: Moment) -> Image:
    if image.shape[1] == 1:
        return image
    grey = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    return image.lerp(grey.expand_as(image), amount[:, None, None, None])


def _jpeg(image: Image, amount: Tensor, moment: Moment) -> Image:
    result = []
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().cpu().numpy()
    for one, quality in zip(pixels, amount.tolist(), strict=True):
        target = BytesIO()
        shown = one[0] if len(one) == 1 else one.transpose(1, 2, 0)
        Pillow.fromarray(shown).save(target, "JPEG", quality=round(quality))
        back = np.array(Pillow.open(target))
        result.append(torch.from_numpy(back[None] if back.ndim == 2 else back.transpose(2, 0, 1).copy()))
    return (torch.stack(result).float() / 255).to(image)


DEGRADATIONS = {
    "blur": Degradation(
        lambda image, amount, moment: blur(image, amount), 0, 64, "standard deviation of a Gaussian in pixels"
    ),
    "downscale": Degradation(_downscale, 1, 64, "times smaller, and back by bicubic"),
    "grey": Degradation(_grey, 0, 1, "share of the colour that is taken"),
    "noise": Degradation(_noise, 0, 10, "standard deviation of Gaussian noise, pixels being in [0, 1]"),
    "mask": Degradation(_mask, 0, 1, "share of the pixels set to 0"),
    "jpeg": Degradation(_jpeg, 1, 95, "quality"),
}
"""In the order in which they are applied, whatever the order they are named in: as a camera and a file would."""


def check_degradations(wanted: Mapping[str, Amount]) -> dict[str, Amount]:
    """The same, in the order of `DEGRADATIONS`.

    Raises:
        RecipeError: An unknown name, or an amount out of its range.
    """
    for name, amount in wanted.items():
        if name not in DEGRADATIONS:
            raise RecipeError(f"no degradation '{name}'; {did_you_mean(name, DEGRADATIONS)}")
        known = DEGRADATIONS[name]
        low, high = amount if isinstance(amount, tuple) else (amount, amount)
        if not known.least <= low <= high <= known.most:
            raise RecipeError(
                f"degrade={{{name}: {amount}}}: {known.unit}, from {known.least:g} to {known.most:g} (two of them, the "
                "smaller first, to draw in between)."
            )
    return {name: wanted[name] for name in DEGRADATIONS if name in wanted}


def degrade(image: Image, wanted: Mapping[str, Amount], moment: Moment) -> Image:
    """Images in [0, 1] spoiled in all the ways named, noise not clipped: clipping would hide how strong it is."""
    with torch.autocast(image.device.type, enabled=False):
        return _degraded(image, wanted, moment)


def _degraded(image: Image, wanted: Mapping[str, Amount], moment: Moment) -> Image:
    for name, amount in wanted.items():
        if isinstance(amount, tuple):
            draw = moment.uniform(f"degrade.{name}.amount", len(image)).to(image)
            each = amount[0] + (amount[1] - amount[0]) * draw
        else:
            each = image.new_full((len(image),), amount)
        image = DEGRADATIONS[name].apply(image, each, moment)
    return image
