"""The files that every command sees: links, hidden folders, pipes, and what Ectype wrote itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ectype.analysis.other_images import other_source
from ectype.config.schema import DataConfig, DataInfo
from ectype.core.errors import DataError, EctypeWarning
from ectype.data.codes import read_codes
from ectype.data.labels import read_labels
from ectype.data.prepare import prepare
from ectype.data.sources.open import open_source
from ectype.data.sources.walk import list_folder, resolve_source, walk_files
from ectype.inference.image_io import list_images
from tests.data.sources.helpers import refuses

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes, and links that need rights there")


def trained_names(root: Path) -> list[str]:
    return list(open_source(str(root)).listing().names)


def applied_names(root: Path) -> list[str]:
    return [name for name, _, _ in list_images([str(root)])]


@posix
def test_training_and_the_other_commands_see_the_same_files(folder, tmp_path):
    root = folder("seen/a.png", "seen/b.jpg", ".hidden/c.png", "seen/.d.png", "__MACOSX/e.png", "Thumbs.db.png")
    (root / "seen" / "b.jpg").rename(root / "seen" / "0001")
    folder("linked.png", root="elsewhere")
    (root / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "notes").write_text("no image, and no suffix")
    expected = ["Thumbs.db.png", "link/linked.png", "seen/0001", "seen/a.png"]
    assert trained_names(root) == applied_names(root) == expected


@posix
def test_a_folder_that_is_reached_twice_is_listed_where_it_really_is(folder):
    root = folder("b/1.png", "b/deep/2.png")
    (root / "a").symlink_to(root / "b", target_is_directory=True)
    (root / "b" / "cycle").symlink_to(root, target_is_directory=True)
    (root / "z").symlink_to(root / "z", target_is_directory=True)  # a link to itself
    assert applied_names(root) == ["b/1.png", "b/deep/2.png"]


@posix
def test_pipes_and_sockets_are_counted_and_never_opened(folder):
    root = folder("a.png", "b.png")
    for name in ("camera.png", "no-suffix"):
        os.mkfifo(root / name)
    (root / "linked.png").symlink_to(root / "camera.png")
    (root / "null.png").symlink_to("/dev/zero")
    assert list_folder(root).skipped == {"pipe": 3, "device": 1}
    assert applied_names(root) == ["a.png", "b.png"]
    found = prepare(DataConfig(source=str(root)), describe=True)
    assert "4 files that are not images were skipped (3 pipe, 1 device)" in found.notes


@posix
def test_a_pipe_that_the_user_names_is_refused_at_once(folder, tmp_path):
    root = folder("a.png")
    for suffix in (".zip", ".tar", ".npz", ".npy", ".parquet", "-idx3-ubyte", ".png"):
        place = tmp_path / f"pipe{suffix}"
        os.mkfifo(place)
        refuses(place, "is a pipe, not a file")
        with pytest.raises(DataError, match="is a pipe, not a file"):
            list_images([str(place)])
    with pytest.raises(DataError, match="is a device, not a file"):
        read_labels("/dev/zero", ["a.png"], str(root))
    with pytest.raises(DataError, match="is a pipe, not a file"):
        read_codes(tmp_path / "pipe.parquet")


@posix
def test_pipes_next_to_idx_and_parquet_files_are_left_alone(tmp_path):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.data.sources.helpers import idx

    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((4, 8, 8))))
    os.mkfifo(tmp_path / "idx" / "train-labels-idx1-ubyte")
    os.mkfifo(tmp_path / "idx" / "t10k-images-idx3-ubyte")
    assert len(open_source(str(tmp_path / "idx")).listing().names) == 4
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table({"image": [b"\x89PNG1234"]}), tmp_path / "tables" / "a.parquet")
    os.mkfifo(tmp_path / "tables" / "b.parquet")
    (tmp_path / "tables" / ".cache").mkdir()
    (tmp_path / "tables" / ".cache" / "c.parquet").write_text("no table")
    assert len(open_source(str(tmp_path / "tables")).listing().names) == 1


def test_runs_inside_of_a_folder_are_left_out_with_a_note(folder):
    root = folder("a.png", "b.png", "runs/vae-001/samples/1.png")
    for name in ("recipe.yaml", "environment.json"):
        (root / "runs/vae-001" / name).write_text("{}")
    listing = open_source(str(root)).listing()
    assert list(listing.names) == applied_names(root) == ["a.png", "b.png"]
    assert listing.notes == ("folders that Ectype wrote are left out: runs/vae-001",)
    assert applied_names(root / "runs/vae-001/samples") == ["1.png"]  # named by the user


def test_formats_that_cannot_be_read_are_named_with_what_converts_them(folder):
    root = folder("a.png")
    for name in ("b.svg", "c.svg", "d.HEIC"):
        (root / name).write_text("x")
    with pytest.warns(EctypeWarning) as warned:
        assert applied_names(root) == ["a.png"]
    assert [str(each.message).partition(":")[0] for each in warned] == [
        ".svg files cannot be read (2)",
        ".heic files cannot be read (1)",
    ]
    assert "cairosvg" in str(warned[0].message)
    assert "pillow-heif" in str(warned[1].message)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs permissions that hold")
def test_a_folder_without_permission(folder):
    root = folder("a.png", "locked/b.png")
    (root / "locked").chmod(0)
    try:
        with pytest.raises(DataError, match="no permission to read folder"):
            list(walk_files(root))
    finally:
        (root / "locked").chmod(0o755)


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_path_is_not_the_current_directory(folder, monkeypatch, text):
    monkeypatch.chdir(folder("a.png"))
    for use in (
        open_source,
        resolve_source,
        lambda text: list_images([text]),
        lambda text: other_source(DataConfig(source="digits"), text, DataInfo(1, (8, 8))),
    ):
        with pytest.raises(DataError, match="the path of the images is empty"):
            use(text)


def test_paths_that_the_system_cannot_express(tmp_path):
    for text in ("x" * 300, "a\0b", str(tmp_path / ("y" * 300) / "z")):
        refuses(text, "no images at")
        with pytest.raises(DataError, match="no image at"):
            list_images([text])
