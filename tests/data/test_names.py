"""Names in few bytes are the names that were given."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectype.data import names as module
from ectype.data.names import Numbered, read_names, write_names

texts = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), max_size=40)


@given(texts, st.integers(1, 7), st.data())
def test_written_and_read(given_names, piece, data):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", piece)
        write_names(Path(folder), given_names)
        found = read_names(Path(folder))
        assert list(found) == [found[i] for i in range(len(found))] == given_names
        assert b"".join(found.pieces()).decode() == "".join(f"{name}\0" for name in given_names)
        rows = data.draw(st.lists(st.integers(0, max(0, len(given_names) - 1)), unique=True)) if given_names else []
        part = found.take(np.array(rows, np.int64))
        assert list(part) == [part[i] for i in range(len(part))] == [given_names[i] for i in rows]
        assert list(part[1:]) == [given_names[i] for i in rows[1:]]


def test_names_that_are_no_text(tmp_path):
    write_names(tmp_path, ["\udcff\udcfe.png", "b"])
    assert list(read_names(tmp_path)) == ["\udcff\udcfe.png", "b"]


def test_beyond_the_end(tmp_path):
    write_names(tmp_path, ["a"])
    with pytest.raises(IndexError):
        read_names(tmp_path)[1]
    assert read_names(tmp_path)[-1] == "a"


def test_numbered():
    found = Numbered([("train", 3), ("test", 2)], 2)
    expected = ["train/00", "train/01", "train/02", "test/00", "test/01"]
    assert list(found) == [found[i] for i in range(5)] == expected == found[:]
    assert found[-1] == "test/01"
    assert list(Numbered([("a", 2)], headed=False)) == ["00000", "00001"]
    with pytest.raises(IndexError):
        found[5]
