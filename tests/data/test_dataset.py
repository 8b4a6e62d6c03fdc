"""Prepared images as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ectype.config.schema import DataConfig, Split
from ectype.core.errors import DataError
from ectype.data import build_entry
from ectype.data.dataset import open_store
from ectype.data.prepare import prepare


@pytest.fixture(params=["one shard", "many shards"])
def opened(folder, request, monkeypatch):
    """A store of 60 images in two classes with two rejects, and its folder."""
    if request.param == "many shards":
        monkeypatch.setattr(build_entry, "MAX_SHARD_BYTES", 3 * 16 * 16 * 7)
    root = folder(*(f"{kind}/{i:02d}.png" for kind in ("cat", "dog") for i in range(30)))
    (root / "cat" / "03.png").write_bytes(b"")
    (root / "dog" / "29.png").write_bytes(b"x")
    config = DataConfig(source=str(root))
    prepared = prepare(config, workers=1)
    assert (len(prepared.shards) > 1) == (request.param == "many shards")
    return open_store(prepared, config), root


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_images_names_and_labels_belong_together(opened, split):
    store, root = opened
    images = store.split(split)
    pixels = images.gather(torch.arange(len(images)))
    assert pixels.dtype == torch.uint8
    assert len(images.names) == len(images.labels) == len(images) == len(pixels) > 0
    for image, name, label, own in zip(pixels, images.names, images.labels, images, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), np.asarray(Image.open(root / name)))
        assert store.info.classes[label] == name.split("/")[0]
        assert torch.equal(image, own)
    assert list(images.names[1:3]) == list(images.names)[1:3]


def test_splits_are_disjoint_and_whole(opened):
    store, _ = opened
    names = [name for split in ("train", "val", "test") for name in store.split(split).names]
    assert len(names) == len(set(names)) == 58
    assert not {"cat/03.png", "dog/29.png"} & set(names)


def test_gather_takes_any_order(opened):
    images = opened[0].split("train")
    everything = images.gather(torch.arange(len(images)))
    index = torch.tensor([5, 0, 5, len(images) - 1, 20])
    assert torch.equal(images.gather(index), everything[index])
    assert images.gather(torch.tensor([], dtype=torch.long)).shape == (0, 3, 16, 16)
    with pytest.raises(IndexError):
        images.gather(torch.tensor([len(images)]))


def test_batch_is_in_the_unit_interval(opened):
    images = opened[0].split("train")
    index = torch.tensor([2, 7])
    batch = images.batch(index)
    assert torch.equal(batch.image, images.gather(index).float() / 255)
    assert torch.equal(batch.label, images.labels[index])


def test_frequencies_are_those_of_training(opened):
    store, _ = opened
    labels = store.split("train").labels
    assert store.info.frequencies == pytest.approx([(labels == k).float().mean().item() for k in range(2)])


def test_writing_into_a_batch_does_not_reach_the_disk(opened):
    images = opened[0].split("train")
    before = images.gather(torch.tensor([0])).clone()
    images.gather(torch.tensor([0])).fill_(0)
    images.view(1).fill_(0)  # also through a view
    assert torch.equal(images.gather(torch.tensor([0])), before)


def test_without_classes_there_are_no_labels(folder):
    config = DataConfig(source=str(folder("a.png", "b.png", "c.png")))
    images = open_store(prepare(config), config).split("train")
    assert images.labels is None
    assert images.batch(torch.tensor([0])).label is None


def test_a_split_of_nought_says_so(folder):
    config = DataConfig(source=str(folder("a.png", "b.png", "c.png")), split=Split(test=0))
    store = open_store(prepare(config), config)
    assert len(store.split("val"))
    with pytest.raises(DataError, match=r"split\.test is 0"):
        store.split("test")


def test_prepared_files_that_are_gone(folder):
    config = DataConfig(source=str(folder("a.png", "b.png", "c.png")))
    prepared = prepare(config)
    prepared.shards[0].unlink()
    with pytest.raises(DataError, match="prepare them again"):
        open_store(prepared, config)


def test_digits_as_a_whole():
    from sklearn.datasets import load_digits

    config = DataConfig(source="digits")
    store = open_store(prepare(config), config)
    assert store.info.shape == (1, 8, 8)
    images = store.split("test")
    places = [int(name) for name in images.names]
    assert images.labels.tolist() == load_digits().target[places].tolist()


@pytest.mark.shared
def test_emoji_of_one_base_on_one_side(shared):
    # The group is the code point before a skin tone, as the notes of the shared images recommend.
    config = DataConfig(source=str(shared / "emoji64"), size=16, split=Split(group=r"([0-9a-f]{4,5})[^/]*\.png$"))
    store = open_store(prepare(config), config)
    splits = {}
    for split in ("train", "val", "test"):
        for name in store.split(split).names:
            assert splits.setdefault(name.split("/")[1][:5].rstrip("-."), split) == split
    assert len(store.info.classes) == 9
