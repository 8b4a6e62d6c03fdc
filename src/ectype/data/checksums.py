"""Checksums of prepared files, by which changed bits on a disk are found. Nothing here imports PyTorch.

CRC-32 finds every single flipped bit and every burst of up to 32 bits. zlib computes it at 1.7 GiB/s on one core where
BLAKE2b reaches 0.4 and SHA-256 0.9, and releases the interpreter lock meanwhile, so that threads share the work.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["first_mismatch", "file_checksums"]

BLOCK_BYTES = 64 << 20
"""Bytes that have one checksum, so that threads can share a large file."""
READ_BYTES = 1 << 20
"""Bytes that a thread reads at a time: few enough to stay in the processor's cache until they are summed."""
MAX_THREADS = 8


def file_checksums(files: Sequence[Path]) -> dict[str, list[int]]:
    """Return the CRC-32 of each block of 64 MiB of some files, by file name.

    Raises:
        OSError: A file cannot be read.
    """
    blocks = [(file, start) for file in files for start in range(0, max(1, file.stat().st_size), BLOCK_BYTES)]
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1, len(blocks) or 1)) as pool:
        sums = list(pool.map(_block_checksum, *zip(*blocks, strict=True))) if blocks else []
    found: dict[str, list[int]] = {}
    for (file, _), value in zip(blocks, sums, strict=True):
        found.setdefault(file.name, []).append(value)
    return found


def first_mismatch(folder: Path, expected: Mapping[str, Sequence[int]]) -> str | None:
    """Return the name of the first file of a folder whose checksums are not the expected ones; None if all agree.

    A file that cannot be read is a mismatch. Each file is read with `read`, not mapped, so that one that is cut
    meanwhile gives another checksum instead of a fatal signal.
    """
    try:
        found = file_checksums([folder / name for name in expected])
    except OSError as error:
        return Path(error.filename).name if error.filename else folder.name
    return next((name for name, sums in expected.items() if found[name] != list(sums)), None)


def _block_checksum(file: Path, start: int) -> int:
    buffer, checksum, remaining = memoryview(bytearray(READ_BYTES)), 0, BLOCK_BYTES
    with open(file, "rb", buffering=0) as opened:
        opened.seek(start)
        while remaining and (count := opened.readinto(buffer[:remaining])):
            checksum = zlib.crc32(buffer[:count], checksum)
            remaining -= count
    return checksum
