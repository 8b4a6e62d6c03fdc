"""Decoding, hashing and measuring several images at once. Nothing here imports PyTorch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ectype.data.decode import GRAY_TOLERANCE, Spec, decode
from ectype.data.decode_pairs import decode_pair
from ectype.data.image_file import image_size
from ectype.data.raw_image import Pair, Raw, Rejected, SideBySide

__all__ = ["DIGEST_BYTES", "DecodedBatch", "decode_batch", "measure_batch"]

DIGEST_BYTES = 16
"""Bytes of the hash of an image's pixels."""


class DecodedBatch(NamedTuple):
    """Several decoded images."""

    pixels: np.ndarray
    """[k, c, h, w] uint8; zeros for rejected images."""
    reasons: list[str | None]
    """Why each image was rejected; None for the others."""
    digests: np.ndarray
    """[k, DIGEST_BYTES] uint8 hash of the pixels of each image."""
    mark_counts: Counter[str]
    """Number of images with each mark of `Decoded`."""
    is_color: bool = False
    """Whether any image that was assumed to be gray has color."""
    max_16_bit_value: int = 0
    """Largest value of the 16-bit images before they were reduced."""
    max_value: int = 0
    """Largest value of 8 bits in all images; see `Decoded`."""


def decode_batch(items: Sequence[Raw] | np.ndarray, spec: Spec) -> DecodedBatch:
    """Decode several images.

    Args:
        items: A list of raw items, or pixels [k, h, w, c].
        spec: What to decode to.
    """
    count = len(items)
    if isinstance(items, np.ndarray) and (converted := _convert_block(items, spec)) is not None:
        return converted
    pixels = np.zeros((count, spec.stored_channels, *spec.size), np.uint8)
    reasons: list[str | None] = [None] * count
    mark_counts: Counter[str] = Counter()
    is_color, max_16_bit_value, max_value = False, 0, 0
    for i, raw in enumerate(items):
        try:
            if isinstance(raw, np.ndarray) and min(raw.shape[:2]) < spec.min_size:
                raise Rejected(f"too small ({raw.shape[1]}×{raw.shape[0]} pixels)")
            decoded = decode_pair(raw, spec) if isinstance(raw, Pair | SideBySide) else decode(raw, spec)
        except Rejected as rejection:
            reasons[i] = str(rejection)
            continue
        pixels[i] = decoded.pixels
        mark_counts.update(decoded.marks)
        is_color |= decoded.is_color
        max_16_bit_value = max(max_16_bit_value, decoded.max_16_bit_value)
        max_value = max(max_value, decoded.max_value)
    return DecodedBatch(pixels, reasons, _digests(pixels), mark_counts, is_color, max_16_bit_value, max_value)


def _convert_block(block: np.ndarray, spec: Spec) -> DecodedBatch | None:
    """Convert pixels that need no more than a transpose, without a loop; return None if they need more."""
    count, height, width, channels = block.shape
    if (height, width) != spec.size or channels not in (1, 3) or min(height, width) < spec.min_size:
        return None
    is_color = False
    if channels == 3 and spec.channels == 1:
        if not spec.assume_gray:
            return None
        is_color = bool((block.max(3) - block.min(3)).max(initial=0) > GRAY_TOLERANCE)
        block = block[..., :1]
    pixels = np.ascontiguousarray(
        np.broadcast_to(block.transpose(0, 3, 1, 2), (count, spec.channels, height, width)), dtype=np.uint8
    )
    max_value = int(pixels.max(initial=0))
    return DecodedBatch(pixels, [None] * count, _digests(pixels), Counter(), is_color, max_value=max_value)


def _digests(pixels: np.ndarray) -> np.ndarray:
    # Most processors have instructions for SHA-256, which makes it twice as fast as BLAKE2.
    joined = b"".join(hashlib.sha256(image).digest()[:DIGEST_BYTES] for image in pixels)
    return np.frombuffer(joined, np.uint8).reshape(len(pixels), DIGEST_BYTES)


def measure_batch(items: Sequence[Raw] | np.ndarray) -> list[tuple[int, int] | None]:
    """Return height and width of each upright image, None for what is not an image. Only headers are read."""
    if isinstance(items, np.ndarray):
        return [(items.shape[1], items.shape[2])] * len(items)
    sizes: list[tuple[int, int] | None] = []
    for raw in items:
        single = raw.file if isinstance(raw, SideBySide) else raw.image if isinstance(raw, Pair) else raw
        size = image_size(single)
        if isinstance(raw, SideBySide) and size is not None:
            height, width = size
            size = (height, width // 2) if raw.image_half in ("left", "right") else (height // 2, width)
        sizes.append(size)
    return sizes
