"""What a training step is given: a batch of images, and the moment it happens at."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Batch", "Moment"]


class Batch(NamedTuple):
    """Images and what is known of them."""

    image: Float[Tensor, "b c h w"]
    """In [0, 1], as every public image is."""
    label: Int[Tensor, " b"] | None = None
    """Class index."""
    target: Tensor | None = None
    """[b, …] mask or paired image."""


@runtime_checkable
class Moment(Protocol):
    """Where the run stands, and all its randomness.

    A draw depends on the run's seed, the images seen, the turn and `use`, and on nothing else: it is made for the
    global batch and sliced to this micro-batch and this process, so that neither changes what is computed. The first
    number of `shape` is therefore the number of images in the micro-batch.
    """

    @property
    def seen(self) -> int:
        """Images shown before this step."""
        ...

    @property
    def step(self) -> int:
        """Updates made before this step."""
        ...

    def normal(self, use: str, *shape: int) -> Tensor:
        """Standard normal numbers."""
        ...

    def uniform(self, use: str, *shape: int) -> Tensor:
        """Numbers in [0, 1)."""
        ...
