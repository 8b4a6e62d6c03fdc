"""From prepared images to batches: gathered, augmented, binarised, on the device, without a loop over images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.augment import move, recolour
from ectype.data.batch import Batch, Moment
from ectype.data.store import Images
from ectype.sections import Augment, DataConfig

__all__ = ["Feed", "evenly"]


def evenly(n: int, most: int) -> Int[Tensor, " k"]:
    """Places of at most so many of `n` things, from first to last: sources may hold images class by class."""
    few = min(n, most)
    return torch.arange(few) * n // max(1, few)


class Feed:
    """Batches of one split.

    Args:
        images: The split.
        config: How images are augmented and binarised.
        device: Where batches go.
        training: Whether to augment. Binarisation is part of the data and happens either way.
        seed: Of static binarisation.
    """

    def __init__(
        self, images: Images, config: DataConfig, device: torch.device, *, training: bool, seed: int = 0
    ) -> None:
        self.images, self.config, self.device, self.seed = images, config, device, seed
        self.augment = config.augment if training else Augment()

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, index: Int[Tensor, " b"], moment: Moment) -> Batch:
        """The images of these indices, as they are shown at that moment."""
        pixels = self.images.gather(index).to(self.device, non_blocking=True)
        layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        image, target = self.images.parts(pixels)
        image = image.to(torch.float32, memory_format=layout).div_(255)
        image = recolour(move(image, self.augment, moment), self.augment, moment)
        if target is not None:
            masks = self.images.masks
            target = target.to(torch.float32) if masks else target.to(torch.float32, memory_format=layout).div_(255)
            target = move(target, self.augment, moment, nearest=masks)
            target = target[:, 0].long() if masks else target
        if self.config.binarise == "threshold":
            image = (image >= 0.5).float()
        elif self.config.binarise == "dynamic":
            image = (moment.uniform("binarise", *image.shape) < image).float()
        elif self.config.binarise == "static":
            image = (_fixed_uniform(index, image[0].numel(), self.seed).view_as(image).to(image) < image).float()
        labels = self.images.labels
        return Batch(image, None if labels is None else labels.index_select(0, index).to(self.device), target)

    def sequence(
        self, size: int, moment: Callable[[int, int], Moment], *, most: int | None = None
    ) -> Iterator[tuple[Batch, Moment]]:
        """Batches in the order of the split, or of `most` images spread evenly over it.

        Args:
            size: Images in a batch.
            moment: Called with the place of a batch's first image and the number of all, so that what is drawn for an
                image does not depend on the size of the batches.
            most: At most so many images.
        """
        chosen = evenly(len(self), len(self) if most is None else most)
        for start in range(0, len(chosen), size):
            here = moment(start, len(chosen))
            yield self(chosen[start : start + size], here), here


def _fixed_uniform(index: Int[Tensor, " b"], numbers: int, seed: int) -> Float[Tensor, "b n"]:
    """A number in [0, 1) for each pixel of each image that never changes: an integer hash of where it is.

    The mixing steps are those of SplitMix64 (Steele et al. 2014), in wrapping 64-bit arithmetic.
    """

    def shifted(x: Tensor, by: int) -> Tensor:
        return (x >> by) & ((1 << (64 - by)) - 1)

    x = (index[:, None].long() * numbers + torch.arange(numbers)[None]) * -7046029254386353131 + seed
    x = (x ^ shifted(x, 30)) * -4658895280553007687
    x = (x ^ shifted(x, 27)) * -7723592293110705685
    x = x ^ shifted(x, 31)
    return shifted(x, 40).float() / 2**24
