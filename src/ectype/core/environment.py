"""What a run is computed with: recorded at its start and compared when it is resumed."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

__all__ = ["BIT_EXACT_KEYS", "environment", "has_bf16_units", "numerics", "set_threads"]

BIT_EXACT_KEYS = ("torch", "device", "threads", "machine", "processes")
"""Keys of the environment that must be equal for a resumed run to be bit-equal."""


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, machine, device, number of threads, and the command line."""
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


def has_bf16_units(device: torch.device) -> bool:
    """Return whether the device is a CPU with units for bf16 products (AVX-512, AMX); False if PyTorch cannot tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # not in the oldest PyTorch that is supported
    if device.type != "cpu" or capabilities is None:
        return False
    found = capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def numerics(threads: int | None, *, deterministic: bool) -> Iterator[None]:
    """Set the number of threads, flush denormals to zero, and use deterministic kernels if requested.

    Weights of pixels that never change leave squared gradients below 1e-38. CPUs compute many times slower with such
    denormals, and most of an optimizer's step would be spent on them; flushing them to zero does not change results.

    Args:
        threads: Number of CPU threads; None leaves it as it is.
        deterministic: Whether to use deterministic kernels only.
    """
    flush_before = sys.float_info.min / 2 == 0  # torch can set this flag, but not read it
    torch.set_flush_denormal(True)
    threads_before = torch.get_num_threads()
    set_threads(threads)
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        # cuBLAS reads this once, when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic_before)
        torch.set_num_threads(threads_before)
        torch.set_flush_denormal(flush_before)


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads, inside of `numerics`; None leaves it as it is."""
    if threads is not None:
        torch.set_num_threads(threads)
