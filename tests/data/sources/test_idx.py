"""Images in IDX files."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from ectype.core.errors import DataError
from ectype.data.sources.base import (
    TEST,
    TRAIN,
    UNASSIGNED,
)
from ectype.data.sources.open import open_source
from tests.data.sources.helpers import contents, idx, refuses


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "idx"
    root.mkdir()
    arrays = {}
    for name, n in (("train", 7), ("t10k", 4)):
        images, labels = rng.integers(0, 256, (n, 8, 8)), rng.integers(0, 3, n)
        arrays[name] = images, labels
        (root / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (root / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return root, arrays


def test_idx_folder(idx_folder):
    root, arrays = idx_folder
    source = open_source(str(root))
    found = source.listing()
    assert found.split_ids.tolist() == [TRAIN] * 7 + [TEST] * 4
    assert found.names[0] == "train/00000"
    labels = np.concatenate([arrays["train"][1], arrays["t10k"][1]])
    assert [found.classes[i] for i in found.labels] == labels.astype(str).tolist()
    images = np.concatenate([arrays["train"][0], arrays["t10k"][0]])
    np.testing.assert_array_equal(contents(source)[:, 0], images)
    sizes = [len(chunk) for chunk in source.batches(3)]
    assert sizes == [3, 3, 3, 2]  # batches extend over the border of files


def test_single_idx_file(idx_folder):
    root, _ = idx_folder
    source = open_source(str(root / "t10k-images-idx3-ubyte.gz"))
    assert source.listing().split_ids.tolist() == [UNASSIGNED] * 4
    assert source.listing().labels is not None
    refuses(root / "t10k-labels-idx1-ubyte", "holds labels")


def test_damaged_idx(idx_folder):
    root, _ = idx_folder
    path = root / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(DataError, match="damaged or incomplete"):
        contents(open_source(str(root)))
    path.write_bytes(gzip.compress(idx(np.zeros((7, 8, 8)))[:-10]))
    with pytest.raises(DataError, match="ends after 6 of 7"):
        contents(open_source(str(root)))
    path.write_bytes(b"nonsense")
    refuses(root, "not an IDX file")
    path.write_bytes(gzip.compress(idx(np.zeros((6, 8, 8)))))
    refuses(root, "7 labels for 6 images")


@pytest.mark.shared
def test_mnist(shared):
    found = open_source(str(shared / "mnist")).listing()
    assert len(found.names) == 70_000
    assert found.classes == tuple("0123456789")
    assert np.bincount(found.split_ids).tolist() == [0, 60_000, 0, 10_000]
    assert [found.classes[i] for i in found.labels[:5]] == list("50419")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_that_describes_more_than_there_is(tmp_path, pack):
    content = bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(100)
    (tmp_path / "lying-idx3-ubyte").write_bytes(pack(content))
    refuses(tmp_path / "lying-idx3-ubyte", "damaged", "more than the file can hold")
    (tmp_path / "lying-idx3-ubyte").write_bytes(pack(idx(np.zeros((10_000, 8, 8)))))
    assert len(open_source(str(tmp_path / "lying-idx3-ubyte")).listing().names) == 10_000
