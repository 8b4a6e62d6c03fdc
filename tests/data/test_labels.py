"""Labels from CSV files in their common forms."""

from __future__ import annotations

import pytest

from ectype.core.errors import DataError
from ectype.data.labels import read_labels

NAMES = ["train/a.png", "train/b.png", "test/c.png"]


@pytest.fixture
def labels(tmp_path):
    def read(text: str, names: list[str] = NAMES) -> list[str]:
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        indices, classes = read_labels(str(path), names, str(tmp_path))
        return [classes[i] for i in indices]

    return read


@pytest.mark.parametrize(
    "text",
    [
        "train/a.png,10\ntrain/b.png,9\ntest/c.png,9\n",
        "path,label\ntrain/a.png,10\ntrain/b.png,9\ntest/c.png,9\n",
        "label;file\n10;a.png\n9;b.png\n9;c.png\n",
        "id,width,class\na,5,10\nb,5,9\nc,5,9\n",
        "\ufefffilename\ttarget\n./train\\a.png\t10\ntrain/b\t9\ntest/c\t9\n",
        "a , 10\nb,9\n\nc,9\nunknown,9\n",
    ],
)
def test_forms(labels, text):
    assert labels(text) == ["10", "9", "9"]


def test_classes_are_in_natural_order(tmp_path):
    (tmp_path / "x.csv").write_text("a,10\nb,9\nc,cat")
    assert read_labels("x.csv", ["a.png", "b.png", "c.png"], str(tmp_path))[1] == ("9", "10", "cat")


def test_a_name_that_could_be_two_images_is_neither(labels):
    with pytest.raises(DataError, match="2 of 2 images have no label"):
        labels("1.png,cat\n", ["a/1.png", "b/1.png"])


@pytest.mark.parametrize(
    "text, words",
    [
        ("train/a.png,x\n", "2 of 3 images have no label"),
        ("path,label\ntrain/a.png,\ntrain/b.png,x\ntest/c.png,x\n", "first: train/a.png"),
        ("", "empty"),
        ("only\none\n", "a row of 1 column"),
    ],
)
def test_bad_files(labels, text, words):
    with pytest.raises(DataError, match=words):
        labels(text)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DataError, match=r"no labels at 'none\.csv'"):
        read_labels("none.csv", NAMES, str(tmp_path))
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_labels(str(tmp_path / "x.csv"), NAMES, "")
