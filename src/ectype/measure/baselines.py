"""What a reconstruction has to beat: the mean image, the nearest training image, a small version of the image, and the
best linear codes of as many numbers and of more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ectype.data.batch import Moment
from ectype.data.feed import Feed
from ectype.measure.reconstruction import baseline_images, closeness
from ectype.nets.linear import Linear, fit_pca
from ectype.sections import DataInfo

__all__ = ["LARGER", "NEAREST", "Baselines", "named", "shrunken"]

LARGER = (2, 4)
"""How many times the numbers of the code other linear codes have: what more room would give."""
NEAREST = "nearest training image"
LEAST = 3
"""Pixels of a side of the smallest version of an image that says anything of it."""
EXACT, FEW = 2048, 256
"""Numbers of an image up to which principal components are exact and quick, and how many are found elsewhere."""


def shrunken(size: tuple[int, int], channels: int) -> str:
    """What going by way of a small version is called beside a figure."""
    return f"bicubic by way of {channels * size[0] * size[1]:,} numbers"


def named(numbers: int) -> str:
    """What a linear code is called beside a figure."""
    return f"PCA of {numbers:,} numbers"


class Baselines:
    """Fitted on training images alone.

    Args:
        train: Training images without augmentation.
        info: Of the images.
        size: Images at a time.
        moment: Where each batch draws from.
        numbers: Of the code; None where there is none.

    Attributes:
        fitted_on: Training images.
        mean: The mean image [1, c, h, w].
        linear: Linear codes by how many numbers they have, that of the model's code first; empty if it cannot be
            fitted.
        small: Height and width of a version of an image that has at most as many numbers as the code; None where that
            would be too small, or no smaller than the image.
        remark: Why there is no linear code, empty if there is one or none was asked for.
    """

    def __init__(
        self, train: Feed, info: DataInfo, size: int, moment: Callable[[int, int], Moment], numbers: int | None
    ) -> None:
        n = baseline_images(len(train), info.numbers)
        pixels = torch.cat([batch.image.flatten(1).cpu() for batch, _ in train.sequence(size, moment, most=n)])
        self.fitted_on, self.remark = len(pixels), ""
        self.mean = pixels.mean(0).view(1, *info.shape)
        self.pixels, self.squares = pixels, pixels.square().sum(1)
        self.linear: dict[int, Linear] = {}
        self.small: tuple[int, int] | None = None
        if numbers is None:
            return
        scale = (numbers / info.numbers) ** 0.5
        height, width = (int(scale * side) for side in info.size)
        self.small = (height, width) if scale < 1 and min(height, width) >= LEAST else None
        most = min(len(pixels), info.numbers) - 1
        cheap = most if info.numbers <= EXACT else FEW
        sizes = [numbers, *(k for times in LARGER if (k := times * numbers) <= min(most, cheap))]
        try:
            largest = fit_pca(pixels, sizes[-1])
        except ValueError as error:
            self.remark = f"PCA not shown: {error}"
            return
        self.linear = {k: largest.first(k) for k in sizes}

    def see(self, image: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, " b"]]:
        """How close each comes to each image: `NAME mse`, `NAME psnr` and `NAME ssim`.

        Of linear codes larger than the model's, the error alone.
        """
        simple = {"mean image": self.mean.expand_as(image).to(image.device), NEAREST: self._nearest(image)}
        if self.small is not None:
            small = interpolate(image, self.small, mode="bicubic", antialias=True)
            back = interpolate(small, image.shape[2:], mode="bicubic", antialias=True)
            simple[shrunken(self.small, image.shape[1])] = back.clamp(0, 1)
        found = {f"{name} {k}": v for name, made in simple.items() for k, v in _close(made, image).items()}
        for place, (numbers, linear) in enumerate(self.linear.items()):
            back = linear.reconstruct(image)
            if place == 0:
                found |= {f"{named(numbers)} {k}": v for k, v in _close(back, image).items()}
            else:
                found[f"{named(numbers)} mse"] = ((back - image) ** 2).flatten(1).mean(1).cpu()
        return found

    def _nearest(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        flat = image.flatten(1).cpu()
        chosen = (self.squares - 2 * flat @ self.pixels.T).argmin(1)
        return self.pixels[chosen].view_as(image).to(image.device)


def _close(made: Tensor, image: Tensor) -> dict[str, Tensor]:
    return closeness(made, image)._asdict()
