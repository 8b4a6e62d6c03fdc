"""JSON files of a run: whatever is in them, reading does not fail, and what is wrong is named once."""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ectype.core.errors import EctypeWarning, TrainingError
from ectype.runs import json_files
from ectype.runs.json_files import JsonLinesFile, read_json_file, read_json_lines, write_json_file
from tests.crash import each_crash

CONTENT = {"name": "ünï 図", "value": 0.1, "inf": math.inf, "list": [1, 2], "none": None}


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "_warned", set())


def has_seen(content: Mapping[str, Any]) -> bool:
    return isinstance(content.get("seen"), int)


def said(file: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert read_json_file(file, has_seen) is None
        assert read_json_file(file, has_seen) is None
    assert all(issubclass(each.category, EctypeWarning) for each in found)
    return [str(each.message) for each in found]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    write_json_file(tmp_path / "a.json", CONTENT)
    assert read_json_file(tmp_path / "a.json") == CONTENT
    assert "ünï 図" in (tmp_path / "a.json").read_text(encoding="utf-8")
    write_json_file(tmp_path / "a.json", {"name": "\udcff", 1: (2, 3)})  # a file name that is not UTF-8, a tuple
    assert read_json_file(tmp_path / "a.json") == {"name": "\udcff", "1": [2, 3]}
    assert read_json_file(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"seen": 5',
        b'{"seen": "5"}',
        b"{}",
        b"[1]",
        b"7",
        b"null",
        b'{"seen": 5, "text": "\xc3',
        b"\xff\xfe{",
        b"\x00" * 50,
        b"[" * 100_000,
    ],
)
def test_a_file_of_another_form_is_named_once_and_left_out(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(raw)
    (message,) = said(file)
    assert message.startswith(f"'{file}' is ignored: ")
    assert "\n" not in message


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json_file(file, {"seen": 5, "loss": 0.123456789, "text": "abc"})
    whole = file.read_bytes()
    content = read_json_file(file)
    for place in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read_json_file(file)
            # Spaces may differ, and so may the name of the checksum's key.
            assert found is None or {key: found.get(key) for key in ("seen", "loss", "text")} == content


def test_a_disk_that_is_full_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_json_file(tmp_path / "a.json", {"seen": 1})
    monkeypatch.setattr(json_files, "write_text_atomically", full)
    with pytest.raises(TrainingError, match=r"a\.json' \(No space left on device\): free some space"):
        write_json_file(tmp_path / "a.json", {"seen": 2})
    assert read_json_file(tmp_path / "a.json") == {"seen": 1}


def test_a_folder_or_a_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    assert "is ignored: Is a directory" in said(tmp_path / "a.json")[0]


def test_a_pipe_or_a_file_of_any_size_is_named_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a.json")  # reading it would wait for a writer
    assert "is ignored: it is not a regular file" in said(tmp_path / "a.json")[0]
    monkeypatch.setattr(json_files, "MAX_FILE_BYTES", 10)
    (tmp_path / "b.json").write_text('{"seen": 12345}')
    assert "is ignored: it has more than 10 bytes" in said(tmp_path / "b.json")[0]


BAD_LINES = [
    b'{"seen": 2, "text": "\xc3',  # cut inside of a multi-byte character
    b'{"seen": 2, "loss": 0.',
    b"[2, 3]",
    b"2",
    b"null",
    b'{"loss": 1}',
    b'{"seen": 2, "crc32": "00000000"}',
    b"\x00\x00\x00",
    b"[" * 100_000,
    b"1" * 10_000,
]


@pytest.mark.parametrize("bad", BAD_LINES)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_bad_line_is_left_out_and_named_with_its_number(tmp_path: Path, bad: bytes, where: str) -> None:
    file = tmp_path / "a.jsonl"
    lines = [b'{"seen": 1}', b'{"seen": 3}']
    number = {"first": 1, "middle": 2, "last": 3}[where]
    lines.insert(number - 1, bad)
    file.write_bytes(b"\n".join(lines) + (b"" if where == "last" else b"\n"))
    with pytest.warns(EctypeWarning) as found:
        assert read_json_lines(file, has_seen) == [{"seen": 1}, {"seen": 3}]
    assert read_json_lines(file, has_seen) == [{"seen": 1}, {"seen": 3}]  # said once
    (message,) = [str(each.message) for each in found]
    assert f"'{file}': line {number} is left out: " in message


def test_many_bad_lines_are_one_warning(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("bad\n" * 9 + '{"seen": 1}\n\n')
    with pytest.warns(EctypeWarning, match=r"9 lines \(1, 2, 3, 4, 5, …\) are left out: it is not JSON"):
        assert read_json_lines(tmp_path / "a.jsonl", has_seen) == [{"seen": 1}]
    assert read_json_lines(tmp_path / "none.jsonl", has_seen) == []


def test_lines_are_appended_and_rewritten(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = JsonLinesFile(file)
    for seen in range(3):
        lines.write({"seen": seen, "name": "ü"})
    lines.sync()
    lines.close()
    assert [line["seen"] for line in read_json_lines(file, has_seen)] == [0, 1, 2]
    JsonLinesFile.rewrite(file, [{"seen": 1}])
    assert read_json_lines(file, has_seen) == [{"seen": 1}]
    assert set(json.loads(file.read_text())) == {"seen", "crc32"}


def test_a_crash_at_any_call_leaves_a_json_file_as_it_was_or_as_it_should_be(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    found = set()
    for _ in each_crash(
        lambda: write_json_file(file, {"seen": 2, "text": "n" * 20_000}),
        before=lambda: write_json_file(file, {"seen": 1, "text": "o" * 20_000}),
    ):
        content = read_json_file(file)
        assert content is not None
        found.add((content["seen"], content["text"][0]))
    assert found == {(1, "o"), (2, "n")}
