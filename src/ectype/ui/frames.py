"""Packed frames: a JSON head and arrays in one body, as `static/frames.js` writes and reads them.

Four bytes with the length of the head, little-endian; the head, padded with spaces to a multiple of eight bytes; then
the arrays that it lists as name, dtype and shape, each padded to a multiple of eight bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["pack", "unpack"]

DTYPES = ("float32", "uint8", "uint16", "int32")
MAX_ARRAYS = 16


def pack(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Return a frame.

    Args:
        head: Plain values.
        arrays: Arrays by name, of one of `DTYPES`.

    >>> unpack(pack({"a": 1}, {"x": np.ones((2, 3), np.float32)}))[1]["x"].shape
    (2, 3)
    """
    held = {name: np.ascontiguousarray(values) for name, values in (arrays or {}).items()}
    listed = [{"name": name, "dtype": str(v.dtype), "shape": list(v.shape)} for name, v in held.items()]
    text = json.dumps({**head, "arrays": listed}, allow_nan=False).encode("ascii")
    start = _padded(4 + len(text))
    parts = [struct.pack("<I", start - 4), text.ljust(start - 4)]
    parts += [values.tobytes().ljust(_padded(values.nbytes), b"\0") for values in held.values()]
    return b"".join(parts)


def unpack(frame: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the head and the arrays of a frame, which may come from anyone.

    Raises:
        ValueError: It is no frame.
    """
    if len(frame) < 4:
        raise ValueError("a frame has at least four bytes")
    (length,) = struct.unpack_from("<I", frame)
    try:
        head = json.loads(frame[4 : 4 + length])
    except (ValueError, RecursionError) as error:
        raise ValueError("its head is not JSON") from error
    listed = head.pop("arrays", None) if isinstance(head, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_ARRAYS:
        raise ValueError("it lists no arrays")
    arrays, at = {}, 4 + length
    for each in listed:
        if not isinstance(each, dict) or each.get("dtype") not in DTYPES or not isinstance(each.get("shape"), list):
            raise ValueError("an array is not described by name, dtype and shape")
        dtype, shape = np.dtype(each["dtype"]), each["shape"]
        if not all(type(side) is int and 0 <= side <= len(frame) for side in shape) or len(shape) > 8:
            raise ValueError("the shape of an array is no list of lengths")
        count = math.prod(shape)
        if at + count * dtype.itemsize > len(frame):
            raise ValueError("an array is cut")
        arrays[str(each.get("name"))] = np.frombuffer(frame, dtype, count, at).reshape(shape)
        at += _padded(count * dtype.itemsize)
    return head, arrays


def _padded(length: int) -> int:
    return -(-length // 8) * 8
