"""Images in Parquet files and on the Hugging Face Hub."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from ectype.data.raw_image import Unreadable
from ectype.data.sources.base import (
    TEST,
    TRAIN,
    VAL,
)
from ectype.data.sources.open import open_source
from tests.data.sources.helpers import contents, refuses


@pytest.fixture
def table(picture):
    """Return a function that makes a Hugging Face dataset of images in three classes."""
    datasets = pytest.importorskip("datasets")

    def make(n: int = 6, **columns: object):
        cells = []
        for i in range(n):
            file = io.BytesIO()
            picture(i, size=(8, 8)).save(file, "PNG")
            cells.append({"bytes": file.getvalue(), "path": None})
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "cow"])}
        values = {"image": cells, "label": [i % 3 for i in range(n)]}
        for name, feature in columns.items():
            features[name] = feature
            values[name] = cells if isinstance(feature, datasets.Image) else [0] * n
        return datasets.Dataset.from_dict(values, features=datasets.Features(features))

    return make


def expected(picture, n: int = 6) -> np.ndarray:
    return np.stack([np.asarray(picture(i, size=(8, 8))).transpose(2, 0, 1) for i in range(n)])


def test_local_parquet(table, tmp_path, picture):
    root = tmp_path / "set"
    root.mkdir()
    table().to_parquet(root / "train-00000-of-00001.parquet")
    table(4).to_parquet(root / "test-00000-of-00001.parquet")
    source = open_source(str(root))
    found = source.listing()
    assert found.split_ids.tolist() == [TEST] * 4 + [TRAIN] * 6
    assert found.classes == ("cat", "dog", "cow")
    assert found.labels.tolist() == [0, 1, 2, 0, 0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(contents(source), np.concatenate([expected(picture, 4), expected(picture)]))
    assert open_source(str(root / "train-00000-of-00001.parquet")).listing().split_ids.tolist() == [TRAIN] * 6


def test_parquet_folders_of_splits_below_other_folders(table, tmp_path):
    """The layout of converted datasets on the Hub: configuration, split, file."""
    for part, many in (("train", 6), ("test", 4)):
        place = tmp_path / "set" / "default" / part
        place.mkdir(parents=True)
        table(many).to_parquet(place / "0000.parquet")
    found = open_source(str(tmp_path / "set")).listing()
    assert found.split_ids.tolist() == [TEST] * 4 + [TRAIN] * 6
    assert len(set(found.names)) == 10


def test_plain_parquet_without_a_description(tmp_path, picture):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = []
    for i in range(3):
        file = io.BytesIO()
        picture(i, size=(8, 8)).save(file, "PNG")
        cells.append(file.getvalue())
    pq.write_table(pa.table({"id": [b"x", b"y", b"z"], "png": cells, "label": ["b", "a", "b"]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    found = source.listing()
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(contents(source), expected(picture, 3))
    for labels, note in (
        ([1, -1, None], "2 of 3 in the column label are empty or -1"),
        (["a", "a", "a"], "all images have the same one, a"),
    ):
        pq.write_table(pa.table({"png": cells, "label": labels}), tmp_path / "a.parquet")
        found = open_source(str(tmp_path / "a.parquet")).listing()
        assert found.labels is None
        assert found.notes == (f"labels are not used: {note}",)


def test_several_columns_have_to_be_chosen(table, tmp_path):
    import datasets

    place = tmp_path / "a.parquet"
    table(mask=datasets.Image(), kind=datasets.ClassLabel(names=["x", "y"])).to_parquet(place)
    refuses(place, "several image columns", "image, mask")
    refuses(f"{place}#image", "several label columns", "label, kind")
    refuses(f"{place}#picture", "no column 'picture'")
    assert open_source(f"{place}#mask,label").listing().classes == ("cat", "dog", "cow")


def test_broken_tables(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = tmp_path / "a.parquet"
    place.write_bytes(b"nothing")
    refuses(place, "not a Parquet file")
    pq.write_table(pa.table({"a": [1]}), place)
    refuses(place, "no column of images")
    pq.write_table(
        pa.table({"image": pa.array([None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}), place
    )
    (raw,) = open_source(str(place)).read()
    assert raw == Unreadable("missing in the table")


def test_hub_data_set(table, monkeypatch, picture):
    import datasets

    calls = []

    def load_dataset(name: str, config: str | None = None):
        calls.append((name, config))
        return datasets.DatasetDict(train=table(), validation=table(3))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source("hf:korexyz/celeba-hq-256x256")
    found = source.listing()
    assert calls == [("korexyz/celeba-hq-256x256", None)]
    assert found.split_ids.tolist() == [TRAIN] * 6 + [VAL] * 3
    assert found.classes == ("cat", "dog", "cow")
    np.testing.assert_array_equal(contents(source), np.concatenate([expected(picture), expected(picture, 3)]))
    open_source("hf:user/name:config")
    assert calls[-1] == ("user/name", "config")


def test_hub_data_set_of_one_split_and_chosen_columns(table, monkeypatch):
    import datasets

    whole = table(mask=datasets.Image())
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: whole)
    refuses("hf:user/name", "several image columns")
    assert open_source("hf:user/name#image").listing().split_ids.tolist() == [TRAIN] * 6


def test_hub_misses(monkeypatch):
    import datasets

    def fail(error: Exception):
        def load_dataset(*_: object) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    fail(ConnectionError("Couldn't reach\nthe Hub"))
    refuses("hf:user/name", "could not be downloaded", "Parquet files")
    fail(datasets.exceptions.DatasetNotFoundError("Dataset 'user/nam' doesn't exist on the Hub"))
    refuses("hf:user/nam", "not on the Hugging Face Hub")
    fail(ValueError("Config name is missing. Please pick one among the available configs: ['a', 'b']"))
    refuses("hf:user/name", "hf:user/name:CONFIG", "['a', 'b']")
    refuses("hf:", "write hf:user/name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    refuses("hf:user/name", "ectype[hf]")
