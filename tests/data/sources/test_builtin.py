"""Images that come with scikit-learn and torchvision."""

from __future__ import annotations

import sys

import numpy as np

from ectype.data.sources.base import (
    TEST,
    TRAIN,
)
from ectype.data.sources.open import open_source
from tests.data.sources.helpers import contents, idx, refuses


def test_digits():
    from sklearn.datasets import load_digits

    source = open_source("digits")
    found = source.listing()
    assert len(found.names) == 1797
    assert found.classes == tuple("0123456789")
    expected = load_digits()
    assert found.labels.tolist() == expected.target.tolist()
    np.testing.assert_allclose(contents(source)[:, 0] / 255, expected.images / 16, atol=0.5 / 255)


def test_torchvision_data_set(tmp_path):
    # torchvision does not download files that exist.
    raw = tmp_path / "cache" / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (n, 8, 8)) for name, n in (("train", 12), ("t10k", 10))}
    for name, values in images.items():
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(values))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(values)) % 10))
    source = open_source("torchvision:MNIST")
    found = source.listing()
    assert found.split_ids.tolist() == [TRAIN] * 12 + [TEST] * 10
    assert found.labels.tolist() == [*range(10), 0, 1, *range(10)]
    assert len(found.classes) == 10
    np.testing.assert_array_equal(contents(source)[:, 0], np.concatenate(list(images.values())))
    assert len(source.sample(3)) == 3


def test_torchvision_misses(monkeypatch):
    refuses("torchvision:CIFAR11", "did you mean 'CIFAR10'")
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    refuses("torchvision:CIFAR10", "ectype[torchvision]")


def test_torchvision_offline(monkeypatch):
    import torchvision

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", unreachable)
    refuses("torchvision:CIFAR10", "could not be downloaded", "connect to the network")
