"""Random numbers by position: the order of images and all noise depend on the seed and the images seen, not on a state.

Nothing here has a state that has to be saved. A run that is resumed after the same number of images sees the same
images in the same order with the same noise.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["EpochOrder", "SeededStepContext", "StepContext", "derive_seed"]


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from any parts. It is a hash, so that neighboring seeds and positions are independent."""
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


class EpochOrder:
    """The order in which images are shown: epoch after epoch, each in another random order.

    Batches cross the ends of epochs, so that all have the same size and no image is dropped.

    Args:
        length: Number of images.
        seed: Seed of the run.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._epochs: dict[int, Tensor] = {}

    def epoch(self, number: int) -> Int[Tensor, " n"]:
        """Return the order of one epoch: a permutation of the images."""
        if number not in self._epochs:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", number))
            # A batch touches at most two epochs, unless there are fewer images than in a batch.
            self._epochs = {k: v for k, v in self._epochs.items() if k >= number - 1}
            self._epochs[number] = torch.randperm(self.length, generator=generator)
        return self._epochs[number]

    def take(self, seen: int, n: int) -> Int[Tensor, " n"]:
        """Return the indices of the `n` images that follow after `seen` images have been shown."""
        parts = []
        while n > 0:
            number, start = divmod(seen, self.length)
            parts.append(self.epoch(number)[start : start + n])
            seen, n = seen + len(parts[-1]), n - len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class SeededStepContext(NamedTuple):
    """A `StepContext` of a micro-batch, which derives its random numbers from the fields below."""

    seed: int
    seen: int
    step: int
    turn: str = ""
    """The turn; draws of different turns are independent."""
    start: int = 0
    """Index of the first image of the micro-batch in the global batch."""
    batch: int = 1
    """Number of images in the global batch."""
    device: torch.device = torch.device("cpu")

    def _generator(self, use: str) -> torch.Generator:
        seed = derive_seed(self.seed, self.seen, self.turn, use)
        return torch.Generator(self.device).manual_seed(seed)

    def _num_rows(self, requested: int) -> int:
        """Return how many rows to draw: the global batch, or more if more are requested than it has."""
        return max(self.batch, self.start + requested)

    def normal(self, use: str, *shape: int) -> Tensor:
        """Return standard normal numbers for this micro-batch, sliced from a draw for the global batch."""
        drawn = torch.randn(self._num_rows(shape[0]), *shape[1:], generator=self._generator(use), device=self.device)
        return drawn[self.start : self.start + shape[0]]

    def uniform(self, use: str, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1) for this micro-batch, sliced from a draw for the global batch."""
        drawn = torch.rand(self._num_rows(shape[0]), *shape[1:], generator=self._generator(use), device=self.device)
        return drawn[self.start : self.start + shape[0]]


@runtime_checkable
class StepContext(Protocol):
    """The position of a step in training, and the source of all its random numbers.

    A draw depends only on the run's seed, the images seen, the turn, and `use` (what the numbers are for). It is made
    for the global batch and sliced to this micro-batch and this process, so that their sizes do not change what is
    computed. The first number of `shape` is therefore the number of images in the micro-batch.
    """

    @property
    def seen(self) -> int:
        """Number of images shown before this step."""
        ...

    @property
    def step(self) -> int:
        """Number of updates made before this step."""
        ...

    def normal(self, use: str, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        ...

    def uniform(self, use: str, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1)."""
        ...
