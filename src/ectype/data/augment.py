"""Random changes to training images, on whole batches.

Every draw comes from the moment, for each image by its place in the batch: nothing here has a generator of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.batch import Moment
from ectype.sections import Augment

__all__ = ["augment"]


def augment(image: Float[Tensor, "b c h w"], config: Augment, moment: Moment) -> Float[Tensor, "b c h w"]:
    """Images changed as the configuration asks.

    Args:
        image: In [0, 1].
        config: What may change and how far.
        moment: Where the draws come from.

    Returns:
        In [0, 1], of the same shape; the argument itself where nothing is asked for.
    """
    if config.flip:
        image = _flip(image, moment)
    if config.shift > 0:
        image = _shift(image, config.shift, moment)
    if config.crop > 0:
        image = _crop(image, config.crop, moment)
    if config.colour > 0:
        image = _colour(image, config.colour, moment)
    return image


def _flip(image: Float[Tensor, "b c h w"], moment: Moment) -> Float[Tensor, "b c h w"]:
    turned = moment.uniform("augment.flip", len(image)).to(image.device) < 0.5
    return torch.where(turned[:, None, None, None], image.flip(3), image)


def _shift(image: Float[Tensor, "b c h w"], share: float, moment: Moment) -> Float[Tensor, "b c h w"]:
    """By whole pixels, so that nothing is blurred."""
    height, width = image.shape[2:]
    draw = moment.uniform("augment.shift", len(image), 2).to(image.device)
    rows = _mirrored(height, _steps(draw[:, 0], int(share * height)))
    columns = _mirrored(width, _steps(draw[:, 1], int(share * width)))
    which = torch.arange(len(image), device=image.device)[:, None, None]
    return image.movedim(1, 3)[which, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def _steps(draw: Float[Tensor, " b"], most: int) -> Int[Tensor, " b"]:
    """Whole numbers from −most to most, all alike likely."""
    return (draw * (2 * most + 1)).long() - most


def _mirrored(length: int, step: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
    """Which pixel comes to stand at each place; beyond the border it is the one as far inside."""
    place = torch.arange(length, device=step.device)[None] + step[:, None]
    place = place.abs()
    return torch.where(place >= length, 2 * (length - 1) - place, place)


def _crop(image: Float[Tensor, "b c h w"], share: float, moment: Moment) -> Float[Tensor, "b c h w"]:
    """A window at full size; its corners lie inside the image, so nothing has to be made up."""
    draw = moment.uniform("augment.crop", len(image), 3).to(image)
    scale = 1 - share * draw[:, 0]
    theta = image.new_zeros(len(image), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = (2 * draw[:, 1:] - 1) * (1 - scale)[:, None]
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _colour(image: Float[Tensor, "b c h w"], share: float, moment: Moment) -> Float[Tensor, "b c h w"]:
    """Brightness, then contrast about the image's mean, then saturation about its grey."""
    draw = moment.uniform("augment.colour", len(image), 3).to(image)
    light, contrast, saturation = (1 + share * (2 * draw - 1)).T[:, :, None, None, None]
    image = image * light
    mean = image.mean((1, 2, 3), keepdim=True)
    image = mean + (image - mean) * contrast
    if image.shape[1] == 3:
        grey = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        image = grey + (image - grey) * saturation
    return image.clamp(0, 1)
