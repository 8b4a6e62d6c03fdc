"""Packed strings equal the strings that were written."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectype.data import packed_strings as module
from ectype.data.packed_strings import NumberedStrings, read_strings, write_strings

texts = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), max_size=40)


@given(texts, st.integers(1, 7), st.data())
def test_written_and_read(strings, block, data):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STRINGS_PER_BLOCK", block)
        write_strings(Path(folder), strings)
        found = read_strings(Path(folder))
        assert list(found) == [found[i] for i in range(len(found))] == strings
        assert b"".join(found.blocks()).decode() == "".join(f"{name}\0" for name in strings)
        rows = data.draw(st.lists(st.integers(0, max(0, len(strings) - 1)), unique=True)) if strings else []
        part = found.take(np.array(rows, np.int64))
        assert list(part) == [part[i] for i in range(len(part))] == [strings[i] for i in rows]
        assert list(part[1:]) == [strings[i] for i in rows[1:]]


def test_names_that_are_no_text(tmp_path):
    write_strings(tmp_path, ["\udcff\udcfe.png", "b"])
    assert list(read_strings(tmp_path)) == ["\udcff\udcfe.png", "b"]


def test_beyond_the_end(tmp_path):
    write_strings(tmp_path, ["a"])
    with pytest.raises(IndexError):
        read_strings(tmp_path)[1]
    assert read_strings(tmp_path)[-1] == "a"


def test_numbered():
    found = NumberedStrings([("train", 3), ("test", 2)], 2)
    expected = ["train/00", "train/01", "train/02", "test/00", "test/01"]
    assert list(found) == [found[i] for i in range(5)] == expected == found[:]
    assert found[-1] == "test/01"
    assert list(NumberedStrings([("a", 2)], with_prefix=False)) == ["00000", "00001"]
    with pytest.raises(IndexError):
        found[5]
