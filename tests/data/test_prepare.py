"""Preparing: decoded once, found again, rebuilt when it must be, safe whatever happens around it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ectype.data import cache as entries
from ectype.data import prepare as module
from ectype.data.names import read_names
from ectype.data.prepare import clean, prepare
from ectype.errors import DataError, EctypeWarning
from ectype.sections import DataConfig, Split

SOME = tuple(f"{i:02d}.png" for i in range(12))


def config(source: object, **keys: object) -> DataConfig:
    return DataConfig(source=str(source), **keys)


def pixels(prepared) -> np.ndarray:
    return np.concatenate([np.load(path) for path in prepared.shards])


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# ── What comes out ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder(folder):
    root = folder(*(f"{kind}/{name}" for kind in ("cat", "dog") for name in SOME))
    calls = []
    found = prepare(config(root), progress=lambda done, total: calls.append((done, total)))
    assert found.info.shape == (3, 16, 16)
    assert found.info.classes == ("cat", "dog")
    assert sum(found.info.frequencies) == pytest.approx(1)
    assert len(found) == sum(found.splits.values()) == 24
    assert min(found.splits.values()) > 0
    assert found.summary.startswith("24 images, 0 rejected; 16×16 colour, 2 classes; ")
    assert calls[-1] == (24, 24)
    assert found.built
    for name, values in zip(read_names(found.root), pixels(found), strict=True):
        np.testing.assert_array_equal(values.transpose(1, 2, 0), np.asarray(Image.open(root / name)))


def test_rejects_are_listed_and_reach_no_split(folder, picture):
    root = folder(*SOME, size=(40, 30))
    (root / "zero.png").touch()
    (root / "words.jpg").write_text("no image")
    whole = (root / "00.png").read_bytes()
    (root / "half.png").write_bytes(whole[: len(whole) // 2])
    picture(size=(2, 30)).save(root / "slim.png")
    found = prepare(config(root, max_rejects=0.5))
    expected = {
        "half.png": "truncated",
        "slim.png": "too small (2×30 pixels)",
        "words.jpg": "not an image",
        "zero.png": "empty (0 bytes)",
    }
    assert dict(found.rejects) == expected
    with open(found.root / "rejects.csv", newline="") as file:
        assert {row["path"]: row["reason"] for row in csv.DictReader(file)} == expected
    assert "12 images, 4 rejected (1 truncated, 1 too small, 1 not an image, 1 empty)" in found.summary
    rows = np.flatnonzero(found.sides)
    assert len(rows) == len(found) == 12
    assert pixels(found)[rows].any((1, 2, 3)).all()


def test_too_many_rejects_stop_with_one_line(folder):
    root = folder(*SOME)
    for name in SOME[:3]:
        (root / name).write_bytes(b"x")
    with pytest.raises(DataError) as error:
        prepare(config(root, max_rejects=0.2))
    message = one_line(error)
    assert "3 of 12 images" in message
    assert "max_rejects=0.2" in message
    listed = message.split("'")[3]
    assert len(Path(listed).read_text().splitlines()) == 4
    found = prepare(config(root, max_rejects=0.3))
    assert not found.built  # what was decoded is not decoded again
    assert len(found) == 9


def test_nothing_but_rejects(folder, own_cache):
    root = folder(*SOME)
    for name in SOME:
        (root / name).write_bytes(b"x")
    with pytest.raises(DataError) as error:
        prepare(config(root))
    assert "none of the 12 images" in one_line(error)
    assert "12 not an image" in str(error.value)
    assert not [path for path in own_cache.iterdir() if path.is_dir()]


def test_no_source():
    with pytest.raises(DataError) as error:
        prepare(DataConfig())
    assert "data.source" in one_line(error)


def test_background_that_is_no_colour(folder):
    with pytest.raises(DataError) as error:
        prepare(config(folder(*SOME), background="whit"))
    assert "'whit'" in one_line(error)


# ── Auto ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ([(20, 30)] * 6, (30, 20)),
        ([(128, 128)] * 6, (128, 128)),
        ([(129, 128)] * 6, (64, 64)),
        ([(20, 30), (31, 21)] * 3, (20, 20)),
        ([(500, 300), (90, 100), (100, 200)] * 2, (64, 64)),
        ([(20, 30)] * 6 + [(3, 3)], (30, 20)),
    ],
)
def test_size_auto(tmp_path, picture, sizes, expected):
    for i, size in enumerate(sizes):
        picture(i, size=size).save(tmp_path / f"{i}.png")
    assert prepare(config(tmp_path, max_rejects=0.5)).info.size == expected


def test_channels_auto_is_grey_only_if_all_are(folder, picture, monkeypatch):
    monkeypatch.setattr(module, "PROBE", 3)
    root = folder(*(f"{i:03d}.png" for i in range(80)), mode="L")
    picture(100, mode="L").convert("RGB").save(root / "050.png")
    picture(101, mode="L").convert("P").save(root / "051.png")
    assert prepare(config(root), workers=1).info.channels == 1
    picture(102).save(root / "079.png")  # where the sample does not look
    found = prepare(config(root))
    assert found.info.channels == 3
    np.testing.assert_array_equal(pixels(found)[79].transpose(1, 2, 0), np.asarray(Image.open(root / "079.png")))
    np.testing.assert_array_equal(pixels(found)[0, 2], np.asarray(Image.open(root / "000.png")))
    assert prepare(config(root, channels=1), workers=1).info.channels == 1


def test_arrays_with_a_late_colour(tmp_path):
    values = np.full((200, 8, 8, 3), 7, np.uint8)
    values[150, 3, 3, 0] = 99
    np.save(tmp_path / "a.npy", values)
    found = prepare(config(tmp_path / "a.npy"))
    assert found.info.shape == (3, 8, 8)
    np.testing.assert_array_equal(pixels(found), values.transpose(0, 3, 1, 2))


def test_several_shards_and_processes_give_what_one_gives(folder, monkeypatch):
    root = folder(*(f"{i:03d}.jpg" for i in range(150)), size=(20, 20))
    one = prepare(config(root, size=8), workers=1)
    monkeypatch.setattr(module, "SHARD", 8 * 8 * 3 * 40)
    clean()
    many = prepare(config(root, size=8), workers=3)
    assert len(one.shards) == 1
    assert len(many.shards) > 3
    np.testing.assert_array_equal(pixels(many), np.concatenate([np.load(p) for p in many.shards]))
    assert one.fingerprint == many.fingerprint


# ── Notes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sixteen_bits_are_warned_about_each_time(tmp_path):
    for i in range(12):
        Image.fromarray(np.full((8, 8), 4095 - i, np.uint16)).save(tmp_path / f"{i}.png")
    for _ in range(2):
        with pytest.warns(
            EctypeWarning, match="12 images of 16 bits or floats were reduced to 8 bits; .*4095 of 65535"
        ):
            found = prepare(config(tmp_path))
    assert found.info.channels == 1
    assert "16 bits" in found.notes[0]
    # Cut into parts, too; each part is an image.
    with pytest.warns(EctypeWarning, match="48 images of 16 bits or floats were reduced .*4095 of 65535"):
        prepare(config(tmp_path, size=4, resize="tiles"))


def test_sixteen_bits_in_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.full((9, 8, 8), 65535, np.uint16))
    with pytest.warns(EctypeWarning, match="9 images of 16 bits or floats were reduced to 8 bits[.]"):
        prepare(config(tmp_path / "a.npy"))


def test_copies_skipped_files_and_transparency_are_noted(folder):
    root = folder(*SOME)
    for i in range(8):
        (root / f"copy-{i}.png").write_bytes((root / "00.png").read_bytes())
    (root / "a.txt").touch()
    Image.new("RGBA", (16, 16), (9, 9, 9, 9)).save(root / "clear.png")
    prepared = prepare(config(root))
    notes = " ".join(prepared.notes)
    assert "8 images are exact copies" in notes
    written = list(csv.reader((prepared.root / "copies.csv").read_text().splitlines()))
    assert written[0] == ["path", "copy of"]
    assert len(written) == 9
    assert len({original for _, original in written[1:]}) == 1
    assert "1 files that are no images were skipped (1 .txt)" in notes
    assert "1 images with transparency were painted onto white" in notes


# ── The cache ────────────────────────────────────────────────────────────────────────────────────────────────────────


def refuse_to_decode(*_: object, **__: object) -> None:
    raise AssertionError("decoded again")


def test_found_again_without_decoding(folder, monkeypatch):
    root = folder(*SOME)
    first = prepare(config(root))
    monkeypatch.setattr(module, "run", refuse_to_decode)
    second = prepare(config(root))
    assert first.built
    assert not second.built
    assert (first.fingerprint, first.info, first.splits) == (second.fingerprint, second.info, second.splits)


def test_splits_labels_and_limits_need_no_decoding(folder, tmp_path, monkeypatch):
    root = folder(*SOME)
    first = prepare(config(root))
    (tmp_path / "labels.csv").write_text("".join(f"{name},{i % 2}\n" for i, name in enumerate(SOME)))
    monkeypatch.setattr(module, "run", refuse_to_decode)
    second = prepare(
        config(root, labels=str(tmp_path / "labels.csv"), split=Split(by="contiguous", val=0.3), max_rejects=0)
    )
    assert second.info.classes == ("0", "1")
    assert first.root == second.root
    assert first.fingerprint != second.fingerprint
    assert prepare(config(root, binarise="threshold")).info.binary


@pytest.mark.parametrize("change", ["time", "content", "added", "removed"])
def test_rebuilt_when_the_source_changes(folder, picture, change):
    root = folder(*SOME)
    first = prepare(config(root))
    match change:
        case "time":
            os.utime(root / "00.png", ns=(1, 1))
        case "content":
            picture(99).save(root / "00.png")
        case "added":
            picture(99).save(root / "99.png")
        case "removed":
            (root / "00.png").unlink()
    second = prepare(config(root))
    assert second.built
    assert (first.fingerprint == second.fingerprint) == (change == "time")
    assert not first.root.exists()  # else a disk would fill with what can never be found again


@pytest.mark.parametrize(
    "keys", [{"size": 8}, {"resize": "pad"}, {"channels": 1}, {"background": "red"}, {"min_size": 8}]
)
def test_decoding_keys_have_entries_of_their_own(folder, keys):
    root = folder(*SOME)
    first, second = prepare(config(root)), prepare(config(root, **keys))
    assert first.root != second.root
    assert first.root.exists()
    assert second.built


@pytest.mark.parametrize("damage", ["truncated shard", "lost file", "manifest", "other format"])
def test_damaged_entries_are_rebuilt(folder, damage):
    root = folder(*SOME)
    first = prepare(config(root))
    manifest = first.root / entries.MANIFEST
    match damage:
        case "truncated shard":
            os.truncate(first.shards[0], 1000)
        case "lost file":
            (first.root / "kept.npy").unlink()
        case "manifest":
            manifest.write_text("{")
        case "other format":
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 0}))
    second = prepare(config(root))
    assert second.built
    assert second.fingerprint == first.fingerprint
    assert not prepare(config(root)).built


def test_leftovers_of_a_killed_process_are_swept(folder, own_cache):
    root = folder(*SOME)
    first = prepare(config(root))
    clean()
    stale = own_cache / f"{first.root.name}.tmp-99999"
    stale.mkdir(parents=True)
    (stale / "images-000.npy").write_bytes(bytes(100))
    prepare(config(root))
    assert not stale.exists()


def test_an_interrupted_build_leaves_nothing(folder, own_cache):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config(folder(*(f"{i}.png" for i in range(100)))), progress=stop, workers=2)
    assert not [path for path in own_cache.iterdir() if path.is_dir()]


def test_clean(folder, own_cache):
    root = folder(*SOME)
    prepare(config(root))
    prepare(config(root, size=8))
    (own_cache / "mine.txt").write_text("keep me")
    (own_cache / "my-folder").mkdir()
    removed = clean()
    assert removed.entries == 2
    assert removed.bytes > 12 * 3 * 16 * 16
    assert sorted(path.name for path in own_cache.iterdir()) == ["mine.txt", "my-folder"]
    assert clean() == (0, 0)
    assert clean(own_cache / "nowhere") == (0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_clean_leaves_what_is_being_prepared(folder, own_cache):
    root = folder(*SOME)
    entry = prepare(config(root)).root
    with entries.locked(entry):
        assert clean().entries == 0
    assert clean().entries == 1


def test_cache_places(monkeypatch, tmp_path):
    monkeypatch.setenv("ECTYPE_CACHE", str(tmp_path))
    assert entries.cache_root() == tmp_path / "data"
    monkeypatch.delenv("ECTYPE_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert entries.cache_root() == tmp_path / "xdg" / "ectype" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert entries.cache_root() == Path.home() / ".cache" / "ectype" / "data"


# ── Two processes, full disks ────────────────────────────────────────────────────────────────────────────────────────

_PREPARE = """
import sys
from ectype.data import cache, prepare as module
from ectype.sections import DataConfig
if sys.argv[2] == "unlocked":
    cache._lock = lambda *_, **__: None  # as on a file system without locks
print("ready", flush=True)
sys.stdin.readline()
found = module.prepare(DataConfig(source=sys.argv[1], size=8), workers=1)
print(found.fingerprint, found.built, "torch" in sys.modules)
"""


@pytest.mark.parametrize("lock", ["locked", "unlocked"])
def test_two_processes_at_once(folder, own_cache, lock):
    root = folder(*(f"{i:03d}.png" for i in range(300)), size=(60, 60))
    command = [sys.executable, "-c", _PREPARE, str(root), lock]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][0] == said[1][0]
    assert said[0][2] == "False"  # no torch
    if lock == "locked":
        assert sorted(word[1] for word in said) == ["False", "True"]  # one waited and found it
    assert len([path for path in own_cache.iterdir() if path.is_dir()]) == 1
    assert not prepare(config(root, size=8)).built


def test_a_disk_known_to_be_full(folder, own_cache, monkeypatch):
    root = folder(*SOME)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError) as error:
        prepare(config(root))
    assert "no room" in one_line(error)
    assert "ECTYPE_CACHE" in str(error.value)
    assert not [path for path in own_cache.iterdir() if path.is_dir()]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_on_the_way(folder, workers):
    """A write that fails half way: a limit on the size of files stands in for the end of a disk."""
    root = folder(*(f"{i:03d}.png" for i in range(200)), size=(32, 32))
    script = """
import resource, signal, sys
from ectype.data.prepare import prepare
from ectype.sections import DataConfig
from ectype.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
import ectype.data.prepare as module
# A sparse file of the full size would be over the limit at once.
def blank(place, number, rows, spec):
    path = place / f"images-{number:03d}.npy"
    path.touch()
    return path, 128
module._blank = blank
try:
    prepare(DataConfig(source=sys.argv[1]), workers=int(sys.argv[2]))
except DataError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(root), str(workers)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_cache_that_cannot_be_made(folder, monkeypatch):
    root = folder(*SOME)
    monkeypatch.setenv("ECTYPE_CACHE", "/proc/nowhere")
    with pytest.raises(DataError) as error:
        prepare(config(root))
    assert "ECTYPE_CACHE" in one_line(error)


def test_second_call_is_quick(tmp_path, picture):
    content = tmp_path / "one.png"
    picture(size=(8, 8)).save(content)
    root = tmp_path / "many"
    root.mkdir()
    for i in range(5000):
        os.link(content, root / f"{i}.png")
    prepare(config(root))
    start = time.perf_counter()
    assert not prepare(config(root)).built
    assert time.perf_counter() - start < 1  # 0.1 s on a quiet machine
