"""Whose a file is: what Ectype did not write is never overwritten or deleted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ectype.core.files import atomic_directory
from ectype.core.outputs import (
    RECORD,
    ForeignFileError,
    check_output,
    claim_directory,
    is_ectype_output,
    output_file,
    output_folder,
)
from tests.crash import each_crash


def write(path: Path, text: str) -> None:
    with output_file(path) as scratch:
        scratch.write_text(text)


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def export(out: Path, **files: str) -> None:
    with output_folder(out) as scratch:
        for name, text in files.items():
            (scratch / name).write_text(text)


# ── Single files ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_output_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    for text in ("one", "two", "one", "three"):
        write(out, text)
        assert out.read_text() == text
    out.write_text("ONE!!")  # edited by hand
    with pytest.raises(ForeignFileError, match="Ectype did not write it, or it was changed since"):
        write(out, "four")
    assert out.read_text() == "ONE!!"
    out.write_text("one")  # what Ectype has written there before
    write(out, "four")
    (tmp_path / "mine.csv").write_text("four")
    with pytest.raises(ForeignFileError):
        write(tmp_path / "mine.csv", "five")
    assert names(tmp_path) == [RECORD, "a.csv", "mine.csv"]


def test_a_directory_with_its_outputs_can_be_copied(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    write(tmp_path / "one" / "a.csv", "1")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    write(tmp_path / "two" / "a.csv", "2")
    assert (tmp_path / "one" / "a.csv").read_text() == "1"


def test_a_link_leads_to_the_file_that_counts(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.csv").write_text("mine")
    (tmp_path / "a.csv").symlink_to(tmp_path / "theirs" / "a.csv")
    with pytest.raises(ForeignFileError):
        write(tmp_path / "a.csv", "one")
    assert (tmp_path / "theirs" / "a.csv").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ForeignFileError):
        write(tmp_path / "pipe.csv", "one")
    with pytest.raises(IsADirectoryError):
        write(tmp_path, "one")


@pytest.mark.parametrize("damage", [b"\x00\xff", b"[1, 2]\n", b'{"name": "a.csv"}', b'{"name": "a.csv", "sha', b"7"])
def test_a_damaged_record_makes_nothing_ours_and_goes_on(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / RECORD).write_bytes(damage)
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(ForeignFileError):
        check_output(tmp_path / "a.csv")
    write(tmp_path / "b.csv", "one")
    write(tmp_path / "b.csv", "two")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"\xff\xfe.csv")
    write(out, "one")
    write(out, "two")
    assert out.read_text() == "two"


def test_a_crash_at_any_call_leaves_an_output_that_can_be_written_again(tmp_path: Path) -> None:
    out, found = tmp_path / "a.csv", set()
    for _ in each_crash(lambda: write(out, "new" * 5000), before=lambda: write(out, "old" * 5000)):
        found.add(out.read_text())
    assert found == {"old" * 5000, "new" * 5000}


# ── Folders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_export_replaces_an_earlier_one_and_leaves_what_was_added(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(out, a="1", b="1", c="1")
    (out / "notes.txt").write_text("mine")
    (out / "b").write_text("changed")
    write(out / "picture.png", "of another command")
    export(out, a="2")
    assert {name: (out / name).read_text() for name in names(out) if name != RECORD} == {
        "a": "2",
        "b": "changed",
        "notes.txt": "mine",
        "picture.png": "of another command",
    }
    before = {name: (out / name).read_text() for name in names(out)}
    with pytest.raises(ForeignFileError) as refused:
        export(out, a="3", b="3")
    assert refused.value.filename == str(out / "b")
    assert {name: (out / name).read_text() for name in names(out)} == before


def test_an_export_goes_into_no_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text("mine")
    with pytest.raises(ForeignFileError, match=r"it contains other files, such as 'sample\.py'"):
        export(tmp_path, graph="1")
    write(tmp_path / "samples.png", "of another command")
    with pytest.raises(ForeignFileError):
        export(tmp_path, graph="1")
    assert names(tmp_path) == [RECORD, "sample.py", "samples.png"]


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        with output_folder(out) as scratch:
            (scratch / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "new")
    assert names(tmp_path) == []
    export(tmp_path / "old", a="1")
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "old")
    assert (tmp_path / "old" / "a").read_text() == "1"
    assert names(tmp_path / "old") == [RECORD, "a"]


def test_a_crash_at_any_call_leaves_an_export_that_can_be_written_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in each_crash(lambda: export(out, a="new", c="new"), before=lambda: export(out, a="old", b="old")):
        assert (out / "a").read_text() in ("old", "new")
    assert names(out) == [RECORD, "a", "c"]


# ── Directories ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_directory_is_claimed_if_it_is_new_empty_or_ours(tmp_path: Path) -> None:
    assert not claim_directory(tmp_path / "new", ["plan.json"])
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").write_bytes(b"\x00")
    with atomic_directory(tmp_path / "empty" / "out") as scratch:
        shutil.copytree(scratch, tmp_path / "empty" / f"{scratch.name}-left-by-a-crash")
    shutil.rmtree(tmp_path / "empty" / "out")
    assert not claim_directory(tmp_path / "empty", ["plan.json"])
    (tmp_path / "empty" / "plan.json").write_text("{}")
    (tmp_path / "empty" / "mine.txt").write_text("")
    assert claim_directory(tmp_path / "empty", ["plan.json"])
    with pytest.raises(ForeignFileError, match=r"such as 'mine\.txt'"):
        claim_directory(tmp_path / "empty", ["plan.json", "other.json"])
    with pytest.raises(NotADirectoryError):
        claim_directory(tmp_path / "empty" / "mine.txt", ["plan.json"])


def test_what_is_an_output_is_told_from_what_is_not(tmp_path: Path) -> None:
    run, written, mixed = (tmp_path / name for name in ("run", "written", "mixed"))
    for place in (run, written, mixed):
        place.mkdir()
    for name in ("recipe.yaml", "environment.json", "my-photo.png"):
        (run / name).write_text("")
    write(written / "a.png", "1")
    write(mixed / "a.png", "1")
    (mixed / "photo.png").write_text("mine")
    export(tmp_path / "export", a="1")
    assert is_ectype_output(run)
    assert is_ectype_output(written)
    assert is_ectype_output(tmp_path / "export")
    assert not is_ectype_output(mixed)
    assert not is_ectype_output(tmp_path)
    assert not is_ectype_output(tmp_path / "nowhere")
    (written / "a.png").write_text("corrected by hand")
    assert not is_ectype_output(written)
