"""Labels from CSV files in their common forms."""

from __future__ import annotations

import unicodedata

import pytest

from ectype.config.recipe import data_recipe
from ectype.core.errors import DataError, RecipeError
from ectype.data.labels import read_labels

NAMES = ["train/a.png", "train/b.png", "test/c.png"]
CAFE_1, CAFE_2 = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def labels(tmp_path):
    def read(content: str | bytes, names: list[str] = NAMES, columns: list[str] | None = None) -> list[str]:
        path = tmp_path / "labels.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        read.found = read_labels(str(path), names, str(tmp_path), columns)
        return [read.found.classes[i] for i in read.found.indices]

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
        "image,breed\na,10\nb,9\nc,9\n",
        ",id,breed\n0,a,10\n1,b,9\n2,c,9\n",
        "filename,name\na,10\nb,9\nc,9\n",
    ],
)
def test_forms(labels, text):
    assert labels(text) == ["10", "9", "9"]


def test_classes_are_in_natural_order(tmp_path):
    (tmp_path / "x.csv").write_text("a,10\nb,9\nc,cat")
    assert read_labels("x.csv", ["a.png", "b.png", "c.png"], str(tmp_path)).classes == ("9", "10", "cat")


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
        ("a,x\na,y\nb,x\nc,x\n", "gives 'a' the labels 'x' and 'y'"),
        ("a,1,0\nb,0,1\nc,0,1\n", "3 columns and no first row that names them"),
    ],
)
def test_bad_files(labels, text, words):
    with pytest.raises(DataError, match=words):
        labels(text)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DataError, match=r"no labels at 'none\.csv'"):
        read_labels("none.csv", NAMES, str(tmp_path))
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(DataError, match="cannot be read as CSV"):
            read_labels(name, NAMES, str(tmp_path))
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_labels(str(tmp_path / "x.csv"), NAMES, "")


# ── Several columns ──────────────────────────────────────────────────────────────────────────────────────────────────


ATTRIBUTES = "image,round,large\na,1,1\nb,0,1\nc,1,0\n"
ONE_HOT = "image,MEL,NV\na,1.0,0.0\nb,0.0,1.0\nc,0.0,1.0\n"
SEVERAL = "image,dx,age\na,nv,40\nb,mel,50\nc,nv,40\n"


@pytest.mark.parametrize(
    "text, words",
    [
        (SEVERAL, r"2 columns that could be the label \(dx, age\): choose one, such as label_column=dx\."),
        (ATTRIBUTES, r"\(round, large\).*label_column=round; they hold only 0 and 1, but not one 1 in each row"),
        (ONE_HOT, r"they are one-hot, and label_column=MEL,NV takes all of them as the classes\.$"),
        ("image,class,label\na,1,1\nb,0,1\nc,1,0\n", r"\(class, label\)"),
    ],
)
def test_several_columns_that_could_be_the_label_are_listed(labels, text, words):
    with pytest.raises(DataError, match=words):
        labels(text)


def test_a_column_is_chosen_by_its_name(labels):
    assert labels(SEVERAL, columns=["dx"]) == ["nv", "mel", "nv"]
    assert labels(SEVERAL, columns=["Age"]) == ["40", "50", "40"]
    assert labels(ATTRIBUTES, columns=["large"]) == ["1", "1", "0"]
    assert labels("photo,dx,age\na,nv,40\nb,mel,50\nc,nv,40\n", columns=["dx"]) == ["nv", "mel", "nv"]
    with pytest.raises(DataError, match=r"no column 'imge' in the first row of .*; did you mean 'image'\?"):
        labels(SEVERAL, columns=["imge"])


def test_one_hot_columns_are_classes_only_if_exactly_one_is_1(labels):
    assert labels(ONE_HOT, columns=["MEL", "NV"]) == ["MEL", "NV", "NV"]
    assert labels("image,x,y,z\na,1,-1,-1\nb,-1,1,-1\nc,-1,-1,1\n", columns=["x", "y", "z"]) == ["x", "y", "z"]
    with pytest.raises(DataError, match=r"is not one-hot at 'a' \(round 1, large 1\)"):
        labels(ATTRIBUTES, columns=["round", "large"])


def test_the_key_takes_one_name_or_several():
    assert data_recipe("x", ["labels=a.csv", "label_column=dx"]).label_column == ("dx",)
    assert data_recipe("x", ["labels=a.csv", "label_column=MEL, NV"]).label_column == ("MEL", "NV")
    assert data_recipe("x", {"labels": "a.csv", "label_column": [2020]}).label_column == ("2020",)
    with pytest.raises(RecipeError, match="set labels=FILE"):
        data_recipe("x", ["label_column=dx"])


# ── Text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_in_any_encoding(labels, encoding):
    assert labels("path,label\na,Größe\nb,猫\nc,猫\n".encode(encoding)) == ["Größe", "猫", "猫"]
    assert labels.found.notes == ()


def test_other_encodings_are_read_with_a_note(labels):
    assert labels("path,label\na,Größe\nb,x\nc,x\n".encode("cp1252")) == ["Größe", "x", "x"]
    assert labels.found.notes[0].endswith("was read as Windows-1252 (Latin-1): save it as UTF-8 if names look wrong")
    # The names of the images tell which encoding it is.
    assert labels("고양이,고양이\n개,개\n".encode("cp949"), ["고양이.png", "개.png"]) == ["고양이", "개"]
    assert "CP949" in labels.found.notes[0]
    assert labels(b"a,\x81\x8d\nb,x\nc,x\n")[1:] == ["x", "x"]  # bytes that Windows-1252 does not have


def test_both_unicode_forms_are_one_name(labels):
    assert labels(f"{CAFE_1},x\nb,y\n", [f"{CAFE_2}.png", "b.png"]) == ["x", "y"]
    assert labels(f"{CAFE_2},x\nb,y\n", [f"{CAFE_1}.png", "b.png"]) == ["x", "y"]
    assert labels(f"a,{CAFE_1}\nb,{CAFE_2}\nc,z\n") == [CAFE_1, CAFE_1, "z"]
