"""Position, not state: which images come next and what is drawn derive from where the run stands.

Nothing here has a state to save, so nothing can be restored wrongly: a run resumed at the same count of images seen
sees the same images in the same order with the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ectype.sections import DataInfo

__all__ = ["Order", "Position", "derive", "looking"]


def derive(*parts: int | str) -> int:
    """A 63-bit seed from any parts: a hash, so that neighbouring seeds and positions share nothing."""
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


class Order:
    """The images in the order in which they are shown: epoch after epoch, each in an order of its own.

    Batches run across the ends of epochs, so that each has the same size and none is dropped.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._epochs: dict[int, Tensor] = {}

    def epoch(self, number: int) -> Int[Tensor, " n"]:
        """The order of one epoch."""
        if number not in self._epochs:
            generator = torch.Generator().manual_seed(derive(self.seed, "epoch", number))
            # A batch touches two epochs at most, unless the data are fewer than it.
            self._epochs = {k: v for k, v in self._epochs.items() if k >= number - 1}
            self._epochs[number] = torch.randperm(self.length, generator=generator)
        return self._epochs[number]

    def take(self, seen: int, n: int) -> Int[Tensor, " n"]:
        """The `n` images that follow after `seen` have been shown."""
        parts = []
        while n > 0:
            number, start = divmod(seen, self.length)
            parts.append(self.epoch(number)[start : start + n])
            seen, n = seen + len(parts[-1]), n - len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Position(NamedTuple):
    """A `Moment`: a run's place in its training, and in it this micro-batch's share of the global batch."""

    seed: int
    seen: int
    step: int
    turn: str = ""
    """Draws of one turn share nothing with those of another."""
    start: int = 0
    """First image of the micro-batch, counted in the global batch."""
    batch: int = 1
    """Images in the global batch."""
    device: torch.device = torch.device("cpu")

    def _generator(self, use: str) -> torch.Generator:
        seed = derive(self.seed, self.seen, self.turn, use)
        return torch.Generator(self.device).manual_seed(seed)

    def _rows(self, wanted: int) -> int:
        """Of a draw: the global batch's, or all that is asked for, where a handful of large images is looked at."""
        return max(self.batch, self.start + wanted)

    def normal(self, use: str, *shape: int) -> Tensor:
        """Standard normal numbers for this micro-batch, sliced from a draw for the global batch."""
        drawn = torch.randn(self._rows(shape[0]), *shape[1:], generator=self._generator(use), device=self.device)
        return drawn[self.start : self.start + shape[0]]

    def uniform(self, use: str, *shape: int) -> Tensor:
        """Numbers in [0, 1), likewise."""
        drawn = torch.rand(self._rows(shape[0]), *shape[1:], generator=self._generator(use), device=self.device)
        return drawn[self.start : self.start + shape[0]]


def looking(
    info: DataInfo, seed: int, device: torch.device, use: str = "look"
) -> tuple[int, Callable[[int, int], Position]]:
    """Batch size and moments for going through images outside of training.

    What is drawn for an image (binarisation, corruption, posterior noise) depends on the seed, the use and the image's
    place alone: two looks at one split see the same.
    """
    size = max(1, min(256, 2**23 // info.numbers))

    def moment(start: int, batch: int) -> Position:
        # Each batch is drawn for itself: draws for a whole split of large images would not fit into memory.
        return Position(seed, start, 0, use, 0, size, device)

    return size, moment
