"""Files of arrays that may be missing, damaged or impossible to write, because what they hold can be found again."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ectype.core.files import atomic_file

__all__ = ["read_arrays", "write_arrays"]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in a file; none if it is missing or damaged."""
    damaged = (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
    # Opened here, since NumPy leaves a damaged file open.
    with contextlib.suppress(*damaged), path.open("rb") as file, np.load(file) as arrays:
        return dict(arrays)
    return {}


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a file completely or not at all; nothing where it cannot be written."""
    with contextlib.suppress(OSError), atomic_file(path) as scratch, scratch.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
