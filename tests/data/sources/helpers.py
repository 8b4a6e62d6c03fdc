"""Functions that the tests of sources share."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from ectype.core.errors import DataError
from ectype.data.decode import Spec
from ectype.data.decode_batch import decode_batch
from ectype.data.sources.open import open_source

__all__ = ["contents", "idx", "refuses"]


def contents(source) -> np.ndarray:
    """Decode all images to 8×8 with three channels."""
    return np.concatenate([decode_batch(chunk, Spec((8, 8), 3)).pixels for chunk in source.batches(3)])


def refuses(text: object, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        open_source(str(text)).listing()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )
