"""Files that promise or expand to more than a machine has are refused within a second and with little memory."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ectype.core.errors import DataError
from ectype.data.labels import read_labels
from ectype.data.raw_image import Unreadable
from ectype.data.sources.open import open_source

PNG = b"\x89PNG\r\n\x1a\n"


def npy(shape: str, descr: str = "|u1") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)


def lying_npz(place: Path) -> None:
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy("(4294967295, 65535, 65535)"))


IDX = struct.pack(">IIII", 0x00000803, 0xFFFFFFFF, 65535, 65535) + bytes(100)


@pytest.mark.parametrize(
    "name, write",
    [
        ("lying-idx3-ubyte", lambda place: place.write_bytes(IDX)),
        ("lying-idx3-ubyte.gz", lambda place: place.write_bytes(gzip.compress(IDX))),
        ("lying.npy", lambda place: place.write_bytes(npy("(4294967295, 65535, 65535)"))),
        ("negative.npy", lambda place: place.write_bytes(npy("(-1, 28, 28)"))),
        ("labels.npy", lambda place: place.write_bytes(npy("(99999999999,)", "<i8"))),
        ("large.npy", lambda place: place.write_bytes(npy("(1, 30000, 30000)") + bytes(30000**2 // 1000))),
        ("lying.npz", lying_npz),
    ],
)
def test_a_header_that_promises_too_much(name: str, write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"damaged.*(more than the file can hold)") as caught:
            open_source(str(tmp_path / name)).listing()
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_an_image_of_an_array_has_a_largest_size(tmp_path: Path) -> None:
    with (tmp_path / "large.npy").open("wb") as file:
        file.write(npy("(1, 30000, 30000)"))
        file.truncate(1_000_000_000)  # sparse
    with pytest.raises(DataError, match="larger than 256 MiB"):
        open_source(str(tmp_path / "large.npy"))


def test_members_of_archives_that_expand_like_bombs(tmp_path: Path) -> None:
    zeros, large = bytes(32 << 20), PNG + bytes(32 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", zeros)
        archive.writestr("large.png", large)
        archive.writestr("small.png", PNG + b"content")
    found = list(open_source(str(tmp_path / "a.zip")).read())
    assert [each.reason if isinstance(each, Unreadable) else each for each in found] == [
        "not an image",
        "expands more than 200-fold when unpacked (a bomb?)",
        PNG + b"content",
    ]
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("large.png")
        member.size = len(large)
        archive.addfile(member, io.BytesIO(large))
    source = open_source(str(tmp_path / "a.tar.gz"))
    with pytest.raises(DataError, match="it expands more than 200-fold: unpack it if that is right"):
        list(source.read())


def test_arrays_that_compress_well_are_read(tmp_path: Path) -> None:
    blank = np.zeros((500, 28, 28), np.uint8)
    np.savez_compressed(tmp_path / "blank.npz", x=blank)
    assert len(open_source(str(tmp_path / "blank.npz")).listing().names) == 500


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar", "a.npy", "a.parquet", "a-idx3-ubyte"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=r"is a (pipe|device|socket), not a file"):
            open_source(str(tmp_path / name))
    with pytest.raises(DataError, match="'/dev/zero' is a device, not a file"):
        read_labels("/dev/zero", ["a.png"], str(tmp_path))
