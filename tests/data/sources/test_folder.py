"""Image files in folders, and messages for paths that are not images."""

from __future__ import annotations

import os
import sys

import pytest

from ectype.data.decode import Spec
from ectype.data.decode_batch import decode_batch
from ectype.data.sources.open import open_source
from tests.data.sources.helpers import contents, refuses


def test_folder_lists_images_at_any_depth(folder, picture):
    root = folder("b/2.png", "a/deep/er/1.jpg", "a/0.webp")
    source = open_source(str(root))
    assert source.listing().names == ["a/0.webp", "a/deep/er/1.jpg", "b/2.png"]
    assert len(contents(source)) == 3


def test_pictures_of_a_run_are_none_of_the_data(folder):
    root = folder("a.png", "b.png", "runs/vae-001/samples/1.png", "runs/kept/1.png")
    for name in ("recipe.yaml", "environment.json"):
        (root / "runs/vae-001" / name).write_text("{}")
    assert list(open_source(str(root)).listing().names) == ["a.png", "b.png", "runs/kept/1.png"]


def test_other_files_are_counted_and_hidden_ones_are_not(folder):
    root = folder("a.png", ".hidden.png", ".git/b.png", "__MACOSX/c.png")
    for name in ("notes.txt", "labels.csv", "x.json", "more.txt", "Thumbs.db", ".DS_Store", "README"):
        (root / name).write_text("x")
    found = open_source(str(root)).listing()
    assert found.names == ["a.png"]
    assert found.skipped == {".txt": 2, ".csv": 1, ".json": 1, "no suffix": 1}


def test_files_without_suffix_are_looked_into(folder):
    root = folder("a.png", "b.jpg")
    (root / "a.png").rename(root / "0001")
    assert open_source(str(root)).listing().names == ["0001", "b.jpg"]


def test_formats_we_cannot_read_are_refused_by_name(folder):
    root = folder("a.png")
    (root / "b.heic").write_bytes(b"x")
    assert open_source(str(root)).listing().refused == (("b.heic", "format not supported (.heic)"),)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_once(folder):
    root = folder("a/1.png", "b/2.png")
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    (root / "c.png").symlink_to(root / "nothing.png")
    found = open_source(str(root)).listing().names
    assert sorted(found) == ["a/1.png", "b/2.png", "c.png"]
    outcome = decode_batch(list(open_source(str(root)).read()), Spec((8, 8), 3))
    assert [r is None for r in outcome.reasons] == [True, True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text(folder):
    root = folder("a.png")
    os.rename(root / "a.png", os.fsencode(root) + b"/\xff\xfe.png")
    source = open_source(str(root))
    assert source.listing().names == ["\udcff\udcfe.png"]
    assert len(source.signature) == 64


def test_signature_follows_names_sizes_and_times(folder, picture):
    root = folder("a.png", "b.png")
    first = open_source(str(root)).signature
    assert open_source(str(root)).signature == first
    os.utime(root / "a.png", ns=(1, 1))
    second = open_source(str(root)).signature
    picture(7).save(root / "c.png")
    third = open_source(str(root)).signature
    assert len({first, second, third}) == 3


def test_what_is_not_there(tmp_path, folder):
    root = folder("a.png")
    refuses(root.parent / "imagse", "did you mean 'images'?")
    refuses(tmp_path / "x" / "y", "no folder")
    refuses("digit", "did you mean 'digits'?")
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", "no images", "is empty")
    (tmp_path / "empty" / "a.txt").touch()
    refuses(tmp_path / "empty", "1 .txt")
    refuses(root / "a.png", "single image")
    (tmp_path / "a.bin").touch()
    refuses(tmp_path / "a.bin", "not a supported file type")
