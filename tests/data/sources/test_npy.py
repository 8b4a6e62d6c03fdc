"""Images in NumPy files."""

from __future__ import annotations

import io
import re
import zipfile

import numpy as np
import pytest

from ectype.core.errors import DataError
from ectype.data.decode import Spec
from ectype.data.decode_batch import decode_batch
from ectype.data.sources.base import (
    TEST,
    TRAIN,
    VAL,
)
from ectype.data.sources.open import open_source
from tests.data.sources.helpers import contents, refuses


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_splits(tmp_path, save, fortran):
    rng = np.random.default_rng(0)
    arrays = {
        f"x_{s}": rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for s, n in (("test", 4), ("train", 5), ("val", 3))
    }
    if fortran:
        arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
    labels = {f"y_{s}": np.arange(n)[:, None] for s, n in (("test", 4), ("train", 5), ("val", 3))}
    save(tmp_path / "a.npz", **arrays, **labels)
    source = open_source(str(tmp_path / "a.npz"))
    found = source.listing()
    assert found.split_ids.tolist() == [TRAIN] * 5 + [VAL] * 3 + [TEST] * 4
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]
    joined = np.concatenate([arrays["x_train"], arrays["x_val"], arrays["x_test"]])
    np.testing.assert_array_equal(contents(source), joined.transpose(0, 3, 1, 2))
    assert len(source.sample(6)) == 6


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 1), (5, 1, 8, 8), (5, 3, 8, 8), (5, 8, 8, 3), (5, 4, 8, 8)])
def test_npy_layouts(tmp_path, shape):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if 4 in shape:
        values[:, 3] = 255
    np.save(tmp_path / "a.npy", values)
    expected = values if len(shape) == 4 else values[:, None]
    if shape[-1] in (1, 3) and len(shape) == 4:
        expected = values.transpose(0, 3, 1, 2)
    expected = np.broadcast_to(expected[:, :3] if expected.shape[1] > 1 else expected, (5, 3, 8, 8))
    np.testing.assert_array_equal(contents(open_source(str(tmp_path / "a.npy"))), expected)


@pytest.mark.parametrize("kind", ["float32", "float64", "uint16", "bool", "int64", ">u2"])
def test_npy_kinds_of_numbers(tmp_path, kind):
    grey = np.arange(0, 256, dtype=np.uint8).repeat(2).reshape(8, 8, 8)
    values = {"f": grey / 255, "u": grey.astype(np.uint32) * 257, "b": grey > 99, "i": grey}[np.dtype(kind).kind]
    np.save(tmp_path / "a.npy", values.astype(kind))
    source = open_source(str(tmp_path / "a.npy"))
    expected = np.where(grey > 99, 255, 0) if kind == "bool" else grey
    np.testing.assert_array_equal(contents(source)[:, 0], expected)
    assert source.num_16_bit == (8 if np.dtype(kind).kind == "u" else 0)


@pytest.mark.parametrize(
    "values, word",
    [
        (np.full((2, 8, 8), -1.0), "-1"),
        (np.full((2, 8, 8), 2.0), "2"),
        (np.full((2, 8, 8), np.nan), "nan"),
        (np.full((2, 8, 8), 999), "999"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, values, word):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=word):
        contents(open_source(str(tmp_path / "a.npy")))


def test_npz_labels(tmp_path):
    images = np.zeros((6, 8, 8), np.uint8)
    place = tmp_path / "a.npz"
    np.savez(place, images=images, y=np.array([2, 10, 2, 1, 1, 10]), weights=np.ones(6))
    assert open_source(str(place)).listing().classes == ("1", "2", "10")
    np.savez(place, images=images, which=np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]])
    assert open_source(str(place)).listing().labels.tolist() == [0, 1, 2, 0, 1, 2]
    np.savez(place, images=images, y=np.array(["dog", "cat", "dog"] * 2), weights=np.ones(6))
    assert open_source(str(place)).listing().classes == ("cat", "dog")
    np.savez(place, images=images, labels=np.array([2.0, 0.0] * 3))
    assert open_source(str(place)).listing().labels.tolist() == [1, 0] * 3


@pytest.mark.parametrize(
    "arrays, note",
    [
        ({"a": np.zeros(6, int), "b": np.ones(6, int)}, "a, b could be the labels of images: call one of them y"),
        ({"y": np.arange(5)}, "y has 5 rows, images has 6 images"),
        ({"y": np.array([0.5, 1, 2, 3, 4, 5])}, r"y \[6\] float64 does not hold one class of each image"),
        ({"y": np.ones((6, 2))}, r"y \[6, 2\] float64 does not hold one class"),
        ({"y": np.array(["a", None] * 3, dtype=object)}, "y holds Python objects, which are not read"),
        ({"y": np.full(6, 3)}, "all images have the same one, 3"),
    ],
)
def test_npz_labels_that_are_not_used_are_reported(tmp_path, arrays, note):
    np.savez(tmp_path / "a.npz", images=np.zeros((6, 8, 8), np.uint8), **arrays)
    found = open_source(str(tmp_path / "a.npz")).listing()
    assert found.labels is None
    assert len(found.notes) == 1
    assert re.match(f"labels are not used: {note}", found.notes[0]), found.notes


def test_npz_with_labels_for_one_split_only(tmp_path):
    images = np.zeros((6, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(6), x_test=images)
    found = open_source(str(tmp_path / "a.npz")).listing()
    assert found.labels is None
    assert found.notes == ("labels are not used: x_test has none",)
    np.savez(tmp_path / "a.npz", images=images, weights=np.linspace(0, 1, 6))
    assert open_source(str(tmp_path / "a.npz")).listing().notes == ()  # nothing that looks like labels


def test_npz_that_cannot_be_understood(tmp_path):
    place = tmp_path / "a.npz"
    np.savez(place, a=np.zeros((6, 8, 8)), b=np.zeros((6, 8, 8)))
    refuses(place, "several arrays of images", "a, b")
    np.savez(place, a=np.zeros(6))
    refuses(place, "no images", "a [6]")
    np.savez(place, a=np.array([{}], dtype=object))
    refuses(place, "no images")  # nothing is unpickled
    place.write_bytes(place.read_bytes()[:50])
    refuses(place, "damaged")
    np.savez(place, x_train=np.zeros((3, 8, 8), np.uint8), x_test=np.zeros((3, 9, 8), np.uint8))
    outcome = decode_batch(next(open_source(str(place)).batches(6)), Spec((8, 8), 3))
    assert outcome.reasons == [None] * 6  # two shapes in one batch


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_a_header_that_describes_more_than_there_is(tmp_path, save):
    place = tmp_path / ("a.npy" if save is np.save else "a.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 8, 8)})
    content = header.getvalue() + bytes(640)
    if save is np.save:
        place.write_bytes(content)
    else:
        method = zipfile.ZIP_STORED if save is np.savez else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(place, "w", method) as archive:
            archive.writestr("a.npy", content)
    refuses(place, "its header promises [1099511627776, 8, 8] values of uint8, more than the file can hold")
    save(place, np.zeros((10_000, 8, 8), np.uint8))  # as compressible as can be
    assert len(open_source(str(place)).listing().names) == 10_000
