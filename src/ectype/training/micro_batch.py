"""Choose how many images are processed at a time, from the memory that a training step takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ectype.core.errors import EctypeError
from ectype.core.memory import free_memory, half_micro_batch, release_memory
from ectype.core.random import SeededStepContext
from ectype.training.tensor_memory import LiveTensors

if TYPE_CHECKING:
    from ectype.training.trainer import Trainer

__all__ = ["find_micro_batch", "free_memory", "half_micro_batch", "release_memory"]

GUESSED_BYTES_PER_ELEMENT = 4000
"""Upper bound of the bytes that a step needs per element of an image. A batch that fits by this bound is not measured.
Most networks need 200 to 700; a U-Net of width 64 or a perceptual loss several times that."""
USABLE_SHARE = {"cuda": 0.85, "cpu": 0.6}
"""Fraction of the free memory that a step may use. On a CPU, the workspace of convolutions is not measured and adds up
to a third; checks and other programs need some as well."""
USABLE_SHARE_UNSPLIT = 0.9
"""The same, if splitting a batch would change the result."""


class _Meter:
    """Measures the peak memory of tensors created since it was entered."""

    def __init__(self, device: torch.device, live: LiveTensors | None) -> None:
        self.device, self.live = device, live
        self.base = torch.cuda.memory_allocated(device) if live is None else 0

    def restart(self) -> None:
        """Reset the peak to what is allocated now."""
        if self.live is None:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self.live.peak = self.live.live

    def read(self) -> int:
        """Return the peak in bytes."""
        return torch.cuda.max_memory_allocated(self.device) - self.base if self.live is None else self.live.peak


@contextmanager
def _metered(device: torch.device) -> Iterator[_Meter]:
    if device.type == "cuda":
        yield _Meter(device, None)
    else:
        with LiveTensors() as live:
            yield _Meter(device, live)


def find_micro_batch(trainer: Trainer) -> int | None:
    """Return the micro-batch of a recipe; for `auto`, the largest repeated halving of a batch that fits into memory.

    Steps with a few images are measured on a copy, with all turns due. Nothing is measured if the batch is small
    compared with the free memory, or if the system does not report that. A batch whose splitting would change the
    result is split only if it does not fit otherwise.

    Returns:
        Images at a time; None for all of them.
    """
    asked = trainer.recipe.run.micro_batch
    if asked != "auto":
        return asked
    world, device, share = trainer.world, trainer.device, trainer.max_local_batch
    free = free_memory(device)
    usable = USABLE_SHARE.get(device.type, 0.0)
    context = SeededStepContext(trainer.recipe.train.seed, 0, 0, "size", 0, 1, device)
    first = trainer.loader(trainer.order.take(0, 1), context)
    elements = (first.image if first.code is None else first.code).numel()
    if not world.any(free is not None and share * elements * GUESSED_BYTES_PER_ELEMENT > usable * free):
        return None
    sizes = [share]
    while sizes[-1] > 1:
        sizes.append(half_micro_batch(sizes[-1]))
    found = _measure_steps(trainer, sizes[::-1])
    release_memory(device)
    if len(found) < 2:
        return min(found, default=None) if share > 1 else None
    (small, small_bytes), (large, large_bytes) = found.items()
    per_image = (large_bytes - small_bytes) / (large - small)

    def fits(size: int) -> bool:
        limit = USABLE_SHARE_UNSPLIT if size == share and trainer.objective.batch_dependent else usable
        return free is None or small_bytes + per_image * (size - small) <= limit * free

    chosen = next((size for size in sizes if not world.any(not fits(size))), small)
    return None if chosen == share else max(chosen, small)


def _measure_steps(trainer: Trainer, sizes: list[int]) -> dict[int, int]:
    """Return the peak bytes of a step, with gradients and optimizer state, at the two smallest sizes that work."""
    copy = trainer.dry_run_copy()
    found: dict[int, int] = {}
    with _metered(trainer.device) as meter:
        for size in sizes:
            copy.batch = size * trainer.world.size
            try:
                for _ in range(1 if found else 2):  # the first step creates the optimizer state
                    meter.restart()
                    # At the end of the budget every turn has started, and at step 0 each is due.
                    copy.seen, copy.step_count = copy.budget, 0
                    copy.step()
            except (EctypeError, ValueError):  # BatchNorm needs more than one image, a packed critic several
                continue
            if copy.micro_batch is not None:  # it ran out of memory and halved its micro-batch
                return {copy.micro_batch: 0}
            found[size] = meter.read()
            if len(found) == 2:
                break
    return found
