"""Frames: what is packed is unpacked, also by the page; bytes from anyone are refused and allocate nothing."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from ectype.ui.frames import DTYPES, pack, unpack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2, 0, 4)])
def test_arrays_come_back_as_they_were(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    head, arrays = unpack(pack({"name": "é", "n": 3}, {"a": values, "b": np.float32([1.5])}))
    assert head == {"name": "é", "n": 3}
    assert arrays["a"].dtype == dtype
    assert arrays["a"].shape == shape
    assert (arrays["a"] == values).all()
    assert arrays["b"].tolist() == [1.5]


def framed(head: Any, body: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + body


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\0\0",
        b"\xff\xff\xff\xff",
        framed([]),
        framed({}),
        framed({"arrays": 3}),
        framed({"arrays": [3]}),
        framed({"arrays": [{"name": "a", "dtype": "object", "shape": [1]}]}, b"12345678"),
        framed({"arrays": [{"name": "a", "dtype": "uint8", "shape": [-1]}]}, b"12345678"),
        framed({"arrays": [{"name": "a", "dtype": "uint8", "shape": [True]}]}, b"12345678"),
        framed({"arrays": [{"name": "a", "dtype": "float32", "shape": [1e9]}]}, b"12345678"),
        framed({"arrays": [{"name": "a", "dtype": "float32", "shape": [3]}]}, b"12345678"),
        framed({"arrays": [{"name": "a", "dtype": "float32", "shape": [20, 20, 20, 20, 20, 20, 20, 20]}]}, b"1" * 64),
        framed({"arrays": [{"name": str(i), "dtype": "uint8", "shape": [0]} for i in range(99)]}),
        struct.pack("<I", 100_000) + b"[" * 100_000,
    ],
)
def test_bytes_that_are_no_frame_are_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"array|head|shape|frame"):
        unpack(frame)
