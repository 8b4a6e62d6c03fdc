"""Memory: how much is free, how much was used, and whether an error means that it ran out."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import sys
from pathlib import Path

import torch

__all__ = ["free_memory", "half_micro_batch", "out_of_memory", "peak_memory", "release_memory"]


# For cgroup v2, then v1: limit, usage, and the key in memory.stat of what can be dropped when memory runs low.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


OUT_OF_MEMORY = re.compile(
    r"out of memory"  # CUDA and MPS
    r"|can't allocate memory|not enough memory"  # PyTorch's allocator of the CPU
    r"|(could not|failed to) create a primitive|could not create a memory"  # oneDNN, which says no reason
    r"|std::bad_alloc|bad allocation|unable to allocate|cannot allocate memory",
    re.IGNORECASE,
)
"""How an allocation that failed is reported, by different libraries."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that an allocation failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def release_memory(device: torch.device) -> None:
    """Free the memory of tensors that are no longer used."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Return how many bytes this process can still allocate on a device; None if the system does not report it.

    If several processes share a machine, each gets an equal part.

    Args:
        device: The device.
        root: The root of the file system (for tests).
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
    # In a container, /proc/meminfo is about the host; the control group has the limit.
    for limit, usage, droppable in _CGROUP_FILES:
        with contextlib.suppress(OSError, KeyError, ValueError):
            cgroup = root / "sys/fs/cgroup"
            stat = dict(line.split() for line in (cgroup / limit).with_name("memory.stat").read_text().splitlines())
            used = int((cgroup / usage).read_text()) - int(stat[droppable])
            free = min(free, int((cgroup / limit).read_text()) - used)
    if (unused := _unused_address_space()) is not None:
        free = min(free, unused)
    return max(0, free) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _unused_address_space() -> int | None:
    """Return how much this process may still map (`ulimit -v`); None without a limit."""
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            return max(0, limit - pages * resource.getpagesize())
    return None


_highest_peak = 0
"""Bytes; the highest peak that `peak_memory` has read."""


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory so far in bytes: of tensors on CUDA, else of the whole process, with mapped images.

    None if the system does not report it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    global _highest_peak
    # `getrusage` would also count the peak of the process that started this one.
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        read = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
        # Linux counts pages per thread and adds them up now and then, so that a later reading may be a little lower.
        _highest_peak = max(_highest_peak, read)
        return _highest_peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def half_micro_batch(size: int) -> int:
    """Return half of a micro-batch, rounded up."""
    return (size + 1) // 2
