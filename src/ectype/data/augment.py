"""Random changes to batches of images, differentiable in the pixels.

Training images pass through `augment`. Critics see real and generated images through the same functions. Every random
draw comes from the step context, one per image by its position in the batch; this module has no generator of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ectype.config.schema import Augment
from ectype.core.random import StepContext

__all__ = [
    "augment",
    "color_jitter",
    "cutout",
    "geometric",
    "random_color",
    "random_crop",
    "random_flip",
    "random_quarter_turn",
    "random_shift",
]

Image = Float[Tensor, "b c h w"]
LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the gray value (ITU-R BT.601)."""


def augment(image: Image, config: Augment, context: StepContext) -> Image:
    """Apply the changes of a configuration.

    Args:
        image: Values in [0, 1].
        config: Which changes to make, and how large they may be.
        context: Source of the random draws.

    Returns:
        Images of the same shape in [0, 1]; the argument itself if the configuration has no changes.
    """
    return color_jitter(geometric(image, config, context), config, context)


def color_jitter(image: Image, config: Augment, context: StepContext) -> Image:
    """Apply only the color changes of a configuration. In pairs, they apply to the image and not to its target.

    Args:
        image: Values in [0, 1].
        config: Which changes to make, and how large they may be.
        context: Source of the random draws.

    Returns:
        Images of the same shape in [0, 1].
    """
    if config.colour > 0:
        draw = context.uniform("augment.colour", len(image), 3).to(image.device)
        image = random_color(image, config.colour, draw).clamp(0, 1)
    return image


def geometric(image: Image, config: Augment, context: StepContext, *, nearest: bool = False) -> Image:
    """Apply only the geometric changes of a configuration. Two calls with one context apply the same changes.

    Args:
        image: Any values.
        config: Which changes to make, and how large they may be.
        context: Source of the random draws.
        nearest: Take the nearest pixel instead of interpolating, for class indices.

    Returns:
        Images of the same shape.
    """

    def draw(use: str, *shape: int) -> Tensor:
        return context.uniform(f"augment.{use}", len(image), *shape).to(image.device)

    if config.flip:
        image = random_flip(image, draw("flip"))
    if config.shift > 0:
        image = random_shift(image, config.shift, draw("shift", 2))
    if config.turn:
        image = random_quarter_turn(image, draw("turn"))
    if config.crop > 0:
        image = random_crop(image, config.crop, draw("crop", 3), nearest=nearest)
    return image


def random_flip(image: Image, draw: Float[Tensor, " b"]) -> Image:
    """Mirror left and right the images whose draw is below ½.

    Args:
        image: Any values.
        draw: Uniform in [0, 1).
    """
    return torch.where((draw < 0.5)[:, None, None, None], image.flip(3), image)


def random_quarter_turn(image: Image, draw: Float[Tensor, " b"]) -> Image:
    """Rotate square images by 0°, 90°, 180° or 270° with equal probability, and other images by 0° or 180°.

    Args:
        image: Any values.
        draw: Uniform in [0, 1).
    """
    if image.shape[2] == image.shape[3]:
        quarters = (4 * draw).long()
        image = torch.where((quarters % 2 == 1)[:, None, None, None], image.rot90(1, (2, 3)), image)
        return torch.where((quarters >= 2)[:, None, None, None], image.rot90(2, (2, 3)), image)
    return torch.where((draw < 0.5)[:, None, None, None], image.rot90(2, (2, 3)), image)


def random_shift(image: Image, fraction: float, draw: Float[Tensor, "b 2"]) -> Image:
    """Shift images by whole pixels, which blurs nothing. The border is filled by reflection.

    Args:
        image: Any values.
        fraction: Largest shift, as a fraction of each side.
        draw: Uniform in [0, 1).
    """
    height, width = image.shape[2:]
    rows = _reflected_index(height, _integer_offsets(draw[:, 0], int(fraction * height)))
    columns = _reflected_index(width, _integer_offsets(draw[:, 1], int(fraction * width)))
    batch_index = torch.arange(len(image), device=image.device)[:, None, None]
    return image.movedim(1, 3)[batch_index, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def random_crop(image: Image, fraction: float, draw: Float[Tensor, "b 3"], *, nearest: bool = False) -> Image:
    """Enlarge a random window to the size of the image. The window lies inside the image, so nothing has to be filled.

    Args:
        image: Any values.
        fraction: The window's sides are shorter than the image's by up to this fraction.
        draw: Uniform in [0, 1).
        nearest: Take the nearest pixel instead of interpolating.
    """
    draw = draw.to(image)
    scale = 1 - fraction * draw[:, 0]
    theta = image.new_zeros(len(image), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = (2 * draw[:, 1:] - 1) * (1 - scale)[:, None]
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)


def random_color(image: Image, strength: float, draw: Float[Tensor, "b 3"]) -> Image:
    """Scale the brightness, then the contrast around the image's mean, then the saturation around its gray values.

    Args:
        image: Values in [0, 1].
        strength: Each factor lies between 1 − strength and 1 + strength.
        draw: Uniform in [0, 1).

    Returns:
        Images of the same shape, whose values may lie outside [0, 1].
    """
    brightness, contrast, saturation = (1 + strength * (2 * draw.to(image) - 1)).T[:, :, None, None, None]
    image = image * brightness
    mean = image.mean((1, 2, 3), keepdim=True)
    image = mean + (image - mean) * contrast
    if image.shape[1] == 3:
        gray = (image * image.new_tensor(LUMA_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
        image = gray + (image - gray) * saturation
    return image


def cutout(image: Image, fraction: float, draw: Float[Tensor, "b 2"]) -> Image:
    """Paint a rectangle in mid-gray. Its center lies anywhere in the image.

    Args:
        image: Values in [0, 1].
        fraction: The rectangle's sides as a fraction of the image's.
        draw: Uniform in [0, 1).
    """
    within = []
    for length, center in zip(image.shape[2:], draw.T, strict=True):
        distance = (torch.arange(length, device=image.device) + 0.5)[None] - (center * length)[:, None]
        within.append(distance.abs() < fraction * length / 2)
    hidden = within[0][:, None, :, None] & within[1][:, None, None, :]
    return torch.where(hidden, image.new_tensor(0.5), image)


def _integer_offsets(draw: Float[Tensor, " b"], maximum: int) -> Int[Tensor, " b"]:
    """Map uniform draws to integers from −maximum to maximum with equal probability."""
    return (draw * (2 * maximum + 1)).long() - maximum


def _reflected_index(length: int, offset: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
    """Return the index of the pixel that is shown at each position; beyond the border it is reflected."""
    index = torch.arange(length, device=offset.device)[None] + offset[:, None]
    index = index.abs()
    return torch.where(index >= length, 2 * (length - 1) - index, index)
