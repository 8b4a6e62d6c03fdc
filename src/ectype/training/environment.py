"""What a run was computed with: recorded at its start, compared when it goes on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

from ectype.recipe import Recipe

__all__ = ["EXACT", "environment", "multiplies_bf16", "numerics"]

EXACT = ("torch", "device", "threads", "machine")
"""What must be the same for a resumed run to be bit-equal."""


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine, device, threads and command."""
    return {
        "ectype": version("ectype"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "pillow": version("pillow"),
        "platform": platform.platform(),
        "machine": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "command": sys.argv,
    }


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a CPU multiplies matrices of bf16 in units of their own (AMX); False where PyTorch does not tell."""
    tell = getattr(torch.cpu, "get_capabilities", None)  # not in the oldest PyTorch we support
    return device.type == "cpu" and tell is not None and bool(tell().get("amx_bf16", False))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def numerics(recipe: Recipe) -> Iterator[None]:
    """How numbers are computed: on how many threads, without denormals, by kernels that repeat exactly if asked for.

    Weights of pixels that never change leave squared gradients below 1e-38 behind. A processor computes with such
    numbers many times more slowly, and an optimizer's step is soon spent on them; rounded to zero they change nothing.
    """
    flushed = sys.float_info.min / 2 == 0  # torch can set this and not tell it
    torch.set_flush_denormal(True)
    threads = torch.get_num_threads()
    if recipe.run.threads is not None:
        torch.set_num_threads(recipe.run.threads)
    before = torch.are_deterministic_algorithms_enabled()
    if recipe.train.deterministic:
        # cuBLAS reads this once, when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)
