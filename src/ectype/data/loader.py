"""Batches of prepared images: gathered, augmented and binarized on the device, without a loop over images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.config.schema import Augment, DataConfig, DataInfo
from ectype.core.random import SeededStepContext, StepContext
from ectype.data.augment import color_jitter, geometric
from ectype.data.batch import Batch
from ectype.data.dataset import ImageSplit

__all__ = ["Loader", "evaluation_batches", "evenly_spaced"]

MAX_EVALUATION_BATCH = 256
"""Largest number of images in a batch outside of training."""
MAX_ELEMENTS_PER_BATCH = 1 << 23
"""Largest number of pixel values in such a batch."""


def evenly_spaced(count: int, max_count: int) -> Int[Tensor, " k"]:
    """Return at most `max_count` positions, evenly spaced over `count` items: sources may be sorted by class."""
    num_positions = min(count, max_count)
    return torch.arange(num_positions) * count // max(1, num_positions)


class Loader:
    """Batches of one split.

    Args:
        images: The split.
        config: How images are augmented and binarized.
        device: Device of the batches.
        training: Whether to augment. Binarization is part of the data and applies either way.
        seed: Seed of static binarization.
    """

    def __init__(
        self, images: ImageSplit, config: DataConfig, device: torch.device, *, training: bool, seed: int = 0
    ) -> None:
        self.images, self.config, self.device, self.seed = images, config, device, seed
        self.augment = config.augment if training else Augment()

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, index: Int[Tensor, " b"], context: StepContext) -> Batch:
        """Return the images at these positions of the split, with the random changes that the context draws."""
        pixels = self.images.gather(index).to(self.device, non_blocking=True)
        memory_format = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        image, target = self.images.separate_target(pixels)
        image = image.to(torch.float32, memory_format=memory_format).div_(255)
        image = color_jitter(geometric(image, self.augment, context), self.augment, context)
        if target is not None and self.images.has_masks:
            target = geometric(target.to(torch.float32), self.augment, context, nearest=True)[:, 0].long()
        elif target is not None:
            target = target.to(torch.float32, memory_format=memory_format).div_(255)
            target = geometric(target, self.augment, context)
        if self.config.binarise == "threshold":
            image = (image >= 0.5).float()
        elif self.config.binarise == "dynamic":
            image = (context.uniform("binarise", *image.shape) < image).float()
        elif self.config.binarise == "static":
            image = (_fixed_uniform(index, image[0].numel(), self.seed).view_as(image).to(image) < image).float()
        labels = self.images.labels
        return Batch(image, None if labels is None else labels.index_select(0, index).to(self.device), target)

    def batches(
        self, batch_size: int, context: Callable[[int, int], StepContext], *, max_images: int | None = None
    ) -> Iterator[tuple[Batch, StepContext]]:
        """Yield batches in the order of the split, with the context that each was drawn with.

        Args:
            batch_size: Images in a batch.
            context: Called with the position of a batch's first image and the number of all images, so that the draws
                for an image need not depend on the batch size.
            max_images: Take at most this many images, evenly spaced over the split.
        """
        chosen = evenly_spaced(len(self), len(self) if max_images is None else max_images)
        for start in range(0, len(chosen), batch_size):
            batch_context = context(start, len(chosen))
            yield self(chosen[start : start + batch_size], batch_context), batch_context


def _fixed_uniform(index: Int[Tensor, " b"], num_elements: int, seed: int) -> Float[Tensor, "b n"]:
    """Return a number in [0, 1) for each pixel of each image that never changes: a hash of its position.

    The mixing steps are those of SplitMix64 (Steele et al. 2014), in wrapping 64-bit arithmetic.
    """

    def shift_right(x: Tensor, bits: int) -> Tensor:
        return (x >> bits) & ((1 << (64 - bits)) - 1)

    x = (index[:, None].long() * num_elements + torch.arange(num_elements)[None]) * -7046029254386353131 + seed
    x = (x ^ shift_right(x, 30)) * -4658895280553007687
    x = (x ^ shift_right(x, 27)) * -7723592293110705685
    x = x ^ shift_right(x, 31)
    return shift_right(x, 40).float() / 2**24


def evaluation_batches(
    info: DataInfo, seed: int, device: torch.device, use: str = "look"
) -> tuple[int, Callable[[int, int], SeededStepContext]]:
    """Return the batch size and the contexts for iterating over images outside of training.

    The draws for an image (binarization, corruption, posterior noise) depend only on the seed, the use and the image's
    position, so that two passes over a split see the same.

    Args:
        info: The images.
        seed: Seed of the draws.
        device: Device of the draws.
        use: Part of the seed: passes with different uses draw differently.

    Returns:
        The batch size, and a function of a batch's first position and the number of images.
    """
    batch_size = max(1, min(MAX_EVALUATION_BATCH, MAX_ELEMENTS_PER_BATCH // info.num_elements))

    def context(start: int, num_images: int) -> SeededStepContext:
        # Drawn per batch: the draws for a complete split of large images would not fit in memory.
        return SeededStepContext(seed, start, 0, use, 0, batch_size, device)

    return batch_size, context
