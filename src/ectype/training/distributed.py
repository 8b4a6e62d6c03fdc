"""Several processes as one: each takes a slice of every batch, and sums are taken once per move.

Processes are started by torchrun; without it there is one, and nothing here costs anything.
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

from ectype.errors import TrainingError

__all__ = ["World", "choose_device", "launched"]

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long processes wait for the first, which prepares images and measures while they do."""


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        TrainingError: No such device here.
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
        raise TrainingError(f"device={name} cannot be used here ({reason}): choose cpu, or leave it auto.") from None
    return device


class World:
    """The processes of a run, and this one's place among them."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this process speaks, draws and saves for all."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Which images of a global batch are this process's."""
        return range(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes: one message for all of them."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def average_buffers(self, module: nn.Module) -> None:
        """Average floating buffers, which BatchNorm fills differently in each process."""
        if self.size > 1:
            buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
            self.sum(buffers)
            for buffer in buffers:
                buffer.div_(self.size)

    def agree(self, value: T) -> T:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return flag
        said = torch.tensor(float(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return bool(said)


@contextmanager
def launched(device: torch.device) -> Iterator[World]:
    """The world that torchrun started this process in, or a world of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, _ = next(rendezvous("env://", timeout=PATIENCE))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield World(rank, size)
        store.set(f"ended {rank}", "")
        # Who leaves while another still reads its last message breaks it off.
        store.wait([f"ended {other}" for other in range(size)])
        if backend == "gloo" and rank + 1 < size:
            # Two that close at once can abort (pytorch/gloo#155), so each waits for the next; the first, which may
            # hold the store, goes last.
            store.wait([f"left {rank + 1}"])
    finally:
        dist.destroy_process_group()
    store.set(f"left {rank}", "")
