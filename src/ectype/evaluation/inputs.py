"""What every part of an evaluation works on: the model, the splits, and how test images are batched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import nn

from ectype.config.schema import DataInfo
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.data.loader import Loader, evaluation_batches

__all__ = ["EvaluationInputs"]


@dataclasses.dataclass(frozen=True)
class EvaluationInputs:
    """A model with the images that it is evaluated on.

    Attributes:
        model: The model, on `device`, in evaluation mode.
        train: Training images without augmentation.
        test: Held-out images.
        seed: Seed of the run.
        device: Where the model is.
        max_images: Number of test images that are used, spread evenly.
        batch_size: Images per batch.
        context: Returns the random draws of a batch, from the index of its first image and the number of all images.
    """

    model: nn.Module
    train: Loader
    test: Loader
    seed: int
    device: torch.device
    max_images: int
    batch_size: int
    context: Callable[[int, int], StepContext]

    @classmethod
    def of(
        cls, model: nn.Module, train: Loader, test: Loader, *, seed: int, device: torch.device, max_images: int | None
    ) -> EvaluationInputs:
        """Choose the batch size, and at most `max_images` test images; None for all."""
        info: DataInfo = model.info  # type: ignore[assignment]  # every model has one
        size, context = evaluation_batches(info, seed, device)
        n = len(test) if max_images is None else min(max_images, len(test))
        return cls(model, train, test, seed, device, n, size, context)

    @property
    def info(self) -> DataInfo:
        """Shape and classes of the images that the model was built for."""
        return self.model.info  # type: ignore[return-value]  # every model has one

    @property
    def labeled(self) -> bool:
        """Whether both splits have labels."""
        return self.train.images.labels is not None and self.test.images.labels is not None

    def batches(self, split: Loader, n: int) -> Iterator[tuple[Batch, StepContext]]:
        """Yield batches of at most n images of a split, spread evenly, each with its random draws."""
        return split.batches(self.batch_size, self.context, max_images=n)
