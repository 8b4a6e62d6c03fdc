"""How much memory a step takes, how many images at a time fit into what is free, and what to do where they do not."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ectype.errors import EctypeError
from ectype.training.position import Position

if TYPE_CHECKING:
    from ectype.training.trainer import Trainer

__all__ = ["fitting", "free_memory", "halved", "out_of_memory", "peak_memory", "release"]

GUESS = 4000
"""Bytes that a step needs for each number of an image, at the most: what fits by this guess is not measured. Ours need
200 to 700, a U-Net of width 64 or a perceptual loss some times that."""
ROOM = {"cuda": 0.85, "cpu": 0.6}
"""Share of the free memory that a step may fill. On a CPU, what convolutions need inside is not seen and adds up to a
third; checks and other programs want some too."""
TIGHT = 0.9
"""The same where splitting a batch would change what is computed."""

# cgroup v2, then v1: limit, use, and the line of memory.stat that counts what can be dropped at need.
_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or ("Allocator" in said and ("can't allocate" in said or "not enough memory" in said))
    )


def release(device: torch.device) -> None:
    """Give back what a failed step held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take on a device; None where the system does not tell.

    Args:
        device: Where tensors lie.
        root: Where the file system begins.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    try:
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    # Inside of a container that file speaks of the whole machine.
    for limit, used, droppable in _GROUPS:
        with contextlib.suppress(OSError, KeyError, ValueError):
            group = root / "sys/fs/cgroup"
            stat = dict(line.split() for line in (group / limit).with_name("memory.stat").read_text().splitlines())
            taken = int((group / used).read_text()) - int(stat[droppable])
            free = min(free, int((group / limit).read_text()) - taken)
    return max(0, free) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def peak_memory(device: torch.device) -> int | None:
    """Most bytes held at once so far: by tensors on CUDA, else by the whole process, mapped images included.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Of this process alone: to `getrusage` the peak of the one that started it counts too.
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors made while it is on. Unlike a process's size, that repeats exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                place = storage._cdata
                if place not in self._sizes:
                    self._sizes[place] = storage.nbytes()
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._gone, place)
        return made

    def _gone(self, place: int) -> None:
        self.live -= self._sizes.pop(place)


class _Meter:
    """The most bytes held by what was made since it was put up."""

    def __init__(self, device: torch.device, live: _Live | None) -> None:
        self.device, self.live = device, live
        self.base = torch.cuda.memory_allocated(device) if live is None else 0

    def restart(self) -> None:
        """Forget the peak so far, not what is held."""
        if self.live is None:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self.live.peak = self.live.live

    def read(self) -> int:
        """Bytes."""
        return torch.cuda.max_memory_allocated(self.device) - self.base if self.live is None else self.live.peak


@contextmanager
def _metered(device: torch.device) -> Iterator[_Meter]:
    if device.type == "cuda":
        yield _Meter(device, None)
    else:
        with _Live() as live:
            yield _Meter(device, live)


def halved(size: int) -> int:
    """The next smaller micro-batch."""
    return (size + 1) // 2


def fitting(trainer: Trainer) -> int | None:
    """The micro-batch of a recipe; where that is auto, the largest halving of a batch whose step fits into memory.

    Steps of a few images are measured on a copy that is thrown away, with all turns due. Nothing is measured where the
    batch is small beside what is free, or where the system does not tell what that is. A batch that may not be split
    without changing the result is split only if there is no other way.

    Returns:
        Images at a time; None for all of them.
    """
    asked = trainer.recipe.run.micro_batch
    if asked != "auto":
        return asked
    world, device, share = trainer.world, trainer.device, trainer.share
    free = free_memory(device)
    room = ROOM.get(device.type, 0.0)
    moment = Position(trainer.recipe.train.seed, 0, 0, "size", 0, 1, device)
    numbers = trainer.feed(trainer.order.take(0, 1), moment).image.numel()
    if not world.any(free is not None and share * numbers * GUESS > room * free):
        return None
    sizes = [share]
    while sizes[-1] > 1:
        sizes.append(halved(sizes[-1]))
    found = _measured(trainer, sizes[::-1])
    release(device)
    if len(found) < 2:
        return min(found, default=None) if share > 1 else None
    (small, least), (large, more) = found.items()
    each = (more - least) / (large - small)

    def fits(size: int) -> bool:
        limit = TIGHT if size == share and trainer.objective.whole else room
        return free is None or least + each * (size - small) <= limit * free

    chosen = next((size for size in sizes if not world.any(not fits(size))), small)
    return None if chosen == share else max(chosen, small)


def _measured(trainer: Trainer, sizes: list[int]) -> dict[int, int]:
    """Peak bytes of a step, gradients and the optimizers' state included, at the two smallest sizes that work."""
    copy = trainer.rehearsal()
    found: dict[int, int] = {}
    with _metered(trainer.device) as meter:
        for size in sizes:
            copy.batch = size * trainer.world.size
            try:
                for _ in range(1 if found else 2):  # the first step makes the optimizers' state
                    meter.restart()
                    # At the end of the budget every turn has begun, and at step 0 each is due.
                    copy.seen, copy.step_count = copy.budget, 0
                    copy.step()
            except (EctypeError, ValueError):  # BatchNorm wants more than one image, a packed critic several
                continue
            if copy.micro_batch is not None:  # it ran out of memory, and halved
                return {copy.micro_batch: 0}
            found[size] = meter.read()
            if len(found) == 2:
                break
    return found
