"""Many images at once: decoded, hashed, measured. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ectype.data.decode import GREY_TOLERANCE, Rejected, Spec, decode, size_of
from ectype.data.decode_pairs import decode_pair
from ectype.data.raw import Halves, Pair, Raw

__all__ = ["DIGEST", "Outcome", "decode_chunk", "measure"]

DIGEST = 16
"""Bytes of the hash of an image's pixels."""


class Outcome(NamedTuple):
    """A chunk of images: pixels uint8 [k, c, h, w], zeros for rejects; a reason or None for each; hashes [k, 16]."""

    pixels: np.ndarray
    reasons: list[str | None]
    digests: np.ndarray
    notes: Counter[str]
    coloured: bool = False
    brightest: int = 0


def decode_chunk(chunk: Sequence[Raw] | np.ndarray, spec: Spec) -> Outcome:
    """Many images at once: a list of raw items, or a block [k, h, w, c] of pixels."""
    count = len(chunk)
    if isinstance(chunk, np.ndarray) and (quick := _copy(chunk, spec)) is not None:
        return quick
    pixels = np.zeros((count, spec.depth, *spec.size), np.uint8)
    reasons: list[str | None] = [None] * count
    notes: Counter[str] = Counter()
    coloured, brightest = False, 0
    for i, raw in enumerate(chunk):
        try:
            if isinstance(raw, np.ndarray) and min(raw.shape[:2]) < spec.min_size:
                raise Rejected(f"too small ({raw.shape[1]}×{raw.shape[0]} pixels)")
            one = decode_pair(raw, spec) if isinstance(raw, Pair | Halves) else decode(raw, spec)
        except Rejected as rejection:
            reasons[i] = str(rejection)
            continue
        pixels[i] = one.pixels
        notes.update(one.notes)
        coloured |= one.coloured
        brightest = max(brightest, one.brightest)
    return Outcome(pixels, reasons, _digests(pixels), notes, coloured, brightest)


def _copy(block: np.ndarray, spec: Spec) -> Outcome | None:
    """A block that needs no more than its axes turned, without a loop; None where there is more to do."""
    count, height, width, channels = block.shape
    if (height, width) != spec.size or channels not in (1, 3) or min(height, width) < spec.min_size:
        return None
    coloured = False
    if channels == 3 and spec.channels == 1:
        if not spec.guess:
            return None
        coloured = bool((block.max(3) - block.min(3)).max(initial=0) > GREY_TOLERANCE)
        block = block[..., :1]
    pixels = np.ascontiguousarray(
        np.broadcast_to(block.transpose(0, 3, 1, 2), (count, spec.channels, height, width)), dtype=np.uint8
    )
    return Outcome(pixels, [None] * count, _digests(pixels), Counter(), coloured)


def _digests(pixels: np.ndarray) -> np.ndarray:
    # SHA-256 has instructions of its own on most processors: twice as fast there as BLAKE2.
    joined = b"".join(hashlib.sha256(image).digest()[:DIGEST] for image in pixels)
    return np.frombuffer(joined, np.uint8).reshape(len(pixels), DIGEST)


def measure(chunk: Sequence[Raw] | np.ndarray) -> list[tuple[int, int] | None]:
    """Height and width of each image as it would be seen, from its header alone; None for rejects."""
    if isinstance(chunk, np.ndarray):
        return [(chunk.shape[1], chunk.shape[2])] * len(chunk)
    sizes: list[tuple[int, int] | None] = []
    for raw in chunk:
        first = raw.file if isinstance(raw, Halves) else raw.image if isinstance(raw, Pair) else raw
        sizes.append(size_of(first))
        if isinstance(raw, Halves) and sizes[-1] is not None:
            across = raw.first in ("left", "right")
            height, width = sizes[-1]
            sizes[-1] = (height, width // 2) if across else (height // 2, width)
    return sizes
