"""Data-parallel training: each process takes a slice of every batch, and gradients are summed once per update.

Processes are started by torchrun. Without it there is a single process, and everything here is free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from ectype.core.errors import TrainingError

__all__ = ["World", "choose_device", "process_group"]

T = TypeVar("T")

TIMEOUT = timedelta(days=1)
"""How long processes wait for the first one, which prepares and evaluates images while they do."""


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        TrainingError: The device is not available.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        name = found.type if found is not None and found.type in ("cuda", "mps") else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"device={name} cannot be used here ({reason}): choose cpu or auto.") from None
    return device


class World:
    """The processes of a run.

    Args:
        rank: The rank of this process.
        size: The number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        """Whether this process prints, evaluates and saves on behalf of all."""
        return self.rank == 0

    def local_indices(self, batch: int) -> range:
        """Return which images of a global batch belong to this process."""
        return range(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, with one message for all of them."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def average_buffers(self, module: nn.Module) -> None:
        """Average floating-point buffers over all processes: BatchNorm's statistics differ between them."""
        if self.size > 1:
            buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
            self.sum(buffers)
            for buffer in buffers:
                buffer.div_(self.size)

    def broadcast(self, value: T) -> T:
        """Return the value that the first process has, in all of them."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        if self.size == 1:
            return flag
        maximum = torch.tensor(float(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(maximum, dist.ReduceOp.MAX)
        return bool(maximum)


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """Yield the processes that torchrun started, or a single one; close their connections at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, _ = next(rendezvous("env://", timeout=TIMEOUT))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield World(rank, size)
        store.set(f"ended {rank}", "")
        # A process that exits while another still reads its last message would break the connection.
        store.wait([f"ended {other}" for other in range(size)])
        if backend == "gloo" and rank + 1 < size:
            # Two that close at the same time can abort (pytorch/gloo#155), so each one waits for the next. The first,
            # which may host the store, closes last.
            store.wait([f"left {rank + 1}"])
    finally:
        dist.destroy_process_group()
    store.set(f"left {rank}", "")
