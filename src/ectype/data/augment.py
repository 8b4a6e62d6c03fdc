"""Random changes to images, on whole batches, differentiable in the pixels.

Training images go through `augment`; critics see real and made images through the same changes. Every draw comes from
the moment, for each image by its place in the batch: nothing here has a generator of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.batch import Moment
from ectype.sections import Augment

__all__ = ["augment", "colour", "crop", "cutout", "flip", "move", "recolour", "shift", "turn"]

Image = Float[Tensor, "b c h w"]


def augment(image: Image, config: Augment, moment: Moment) -> Image:
    """Images changed as the configuration asks.

    Args:
        image: In [0, 1].
        config: What may change and how far.
        moment: Where the draws come from.

    Returns:
        In [0, 1], of the same shape; the argument itself where nothing is asked for.
    """
    return recolour(move(image, config, moment), config, moment)


def recolour(image: Image, config: Augment, moment: Moment) -> Image:
    """The changes of colour alone: of a pair they are the image's, not its partner's."""
    if config.colour > 0:
        draw = moment.uniform("augment.colour", len(image), 3).to(image.device)
        image = colour(image, config.colour, draw).clamp(0, 1)
    return image


def move(image: Image, config: Augment, moment: Moment, *, nearest: bool = False) -> Image:
    """The changes of place alone, the same for all that is shown at a moment.

    Args:
        image: Any numbers.
        config: What may change and how far.
        moment: Where the draws come from.
        nearest: Whether numbers are indices, which must not be averaged.
    """

    def draw(use: str, *shape: int) -> Tensor:
        return moment.uniform(f"augment.{use}", len(image), *shape).to(image.device)

    if config.flip:
        image = flip(image, draw("flip"))
    if config.shift > 0:
        image = shift(image, config.shift, draw("shift", 2))
    if config.turn:
        image = turn(image, draw("turn"))
    if config.crop > 0:
        image = crop(image, config.crop, draw("crop", 3), nearest=nearest)
    return image


def flip(image: Image, draw: Float[Tensor, " b"]) -> Image:
    """Mirrored left and right where the draw is below ½."""
    return torch.where((draw < 0.5)[:, None, None, None], image.flip(3), image)


def turn(image: Image, draw: Float[Tensor, " b"]) -> Image:
    """Turned by a quarter, a half or three quarters, each as likely as not at all; oblong images by a half only."""
    if image.shape[2] == image.shape[3]:
        quarters = (4 * draw).long()
        image = torch.where((quarters % 2 == 1)[:, None, None, None], image.rot90(1, (2, 3)), image)
        return torch.where((quarters >= 2)[:, None, None, None], image.rot90(2, (2, 3)), image)
    return torch.where((draw < 0.5)[:, None, None, None], image.rot90(2, (2, 3)), image)


def shift(image: Image, share: float, draw: Float[Tensor, "b 2"]) -> Image:
    """Moved by up to a share of each side, by whole pixels, so that nothing is blurred; the border is mirrored in."""
    height, width = image.shape[2:]
    rows = _mirrored(height, _steps(draw[:, 0], int(share * height)))
    columns = _mirrored(width, _steps(draw[:, 1], int(share * width)))
    which = torch.arange(len(image), device=image.device)[:, None, None]
    return image.movedim(1, 3)[which, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def crop(image: Image, share: float, draw: Float[Tensor, "b 3"], *, nearest: bool = False) -> Image:
    """A window whose sides are shorter by up to a share, at full size; it lies inside: nothing has to be made up."""
    draw = draw.to(image)
    scale = 1 - share * draw[:, 0]
    theta = image.new_zeros(len(image), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = (2 * draw[:, 1:] - 1) * (1 - scale)[:, None]
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    how = "nearest" if nearest else "bilinear"
    return F.grid_sample(image, grid, mode=how, padding_mode="border", align_corners=False)


def colour(image: Image, share: float, draw: Float[Tensor, "b 3"]) -> Image:
    """Brightness, then contrast about the image's mean, then saturation about its grey, each by up to 1 ± share.

    May leave [0, 1].
    """
    light, contrast, saturation = (1 + share * (2 * draw.to(image) - 1)).T[:, :, None, None, None]
    image = image * light
    mean = image.mean((1, 2, 3), keepdim=True)
    image = mean + (image - mean) * contrast
    if image.shape[1] == 3:
        grey = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        image = grey + (image - grey) * saturation
    return image


def cutout(image: Image, share: float, draw: Float[Tensor, "b 2"]) -> Image:
    """A rectangle of a share of each side made mid-grey; its centre lies anywhere in the image."""
    inside = []
    for length, place in zip(image.shape[2:], draw.T, strict=True):
        distance = (torch.arange(length, device=image.device) + 0.5)[None] - (place * length)[:, None]
        inside.append(distance.abs() < share * length / 2)
    hidden = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(hidden, image.new_tensor(0.5), image)


def _steps(draw: Float[Tensor, " b"], most: int) -> Int[Tensor, " b"]:
    """Whole numbers from −most to most, all alike likely."""
    return (draw * (2 * most + 1)).long() - most


def _mirrored(length: int, step: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
    """Which pixel comes to stand at each place; beyond the border it is the one as far inside."""
    place = torch.arange(length, device=step.device)[None] + step[:, None]
    place = place.abs()
    return torch.where(place >= length, 2 * (length - 1) - place, place)
