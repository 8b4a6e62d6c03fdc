"""The cache of prepared images: found again, rebuilt after changes, and safe against interruptions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ectype.config.schema import Split
from ectype.core.errors import DataError
from ectype.data import build_entry
from ectype.data import cache as entries
from ectype.data.prepare import clean, prepare
from tests.data.test_prepare import SOME, config, one_line

# ── Entries ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def refuse_to_decode(*_: object, **__: object) -> None:
    raise AssertionError("decoded again")


def test_found_again_without_decoding(folder, monkeypatch):
    root = folder(*SOME)
    first = prepare(config(root))
    monkeypatch.setattr(build_entry, "run_tasks", refuse_to_decode)
    second = prepare(config(root))
    assert first.built
    assert not second.built
    assert (first.fingerprint, first.info, first.split_sizes) == (second.fingerprint, second.info, second.split_sizes)


def test_splits_labels_and_limits_need_no_decoding(folder, tmp_path, monkeypatch):
    root = folder(*SOME)
    first = prepare(config(root))
    (tmp_path / "labels.csv").write_text("".join(f"{name},{i % 2}\n" for i, name in enumerate(SOME)))
    monkeypatch.setattr(build_entry, "run_tasks", refuse_to_decode)
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
    assert not first.root.exists()  # else the disk would fill with entries that are never found again


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
    with entries.entry_lock(entry):
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
from ectype.config.schema import DataConfig
if sys.argv[2] == "unlocked":
    import errno, fcntl
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
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
    outputs = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert outputs[0][2] == "False"  # PyTorch is not imported
    if lock == "locked":
        assert sorted(word[1] for word in outputs) == ["False", "True"]  # one process waited and found the entry
    assert len([path for path in own_cache.iterdir() if path.is_dir()]) == 1
    assert not prepare(config(root, size=8)).built


def test_a_disk_known_to_be_full(folder, own_cache, monkeypatch):
    root = folder(*SOME)
    monkeypatch.setattr(build_entry.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError) as error:
        prepare(config(root))
    assert "not enough disk space" in one_line(error)
    assert "ECTYPE_CACHE" in str(error.value)
    assert not [path for path in own_cache.iterdir() if path.is_dir()]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_on_the_way(folder, workers):
    """A limit on file sizes lets a write fail halfway, like a full disk."""
    root = folder(*(f"{i:03d}.png" for i in range(200)), size=(32, 32))
    script = """
import resource, signal, sys
from ectype.data.prepare import prepare
from ectype.config.schema import DataConfig
from ectype.core.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
import ectype.data.build_entry as module
# A sparse file of the full size would exceed the limit at once.
def create_shard(folder, number, num_rows, spec):
    path = folder / f"images-{number:03d}.npy"
    path.touch()
    return path, 128
module._create_shard = create_shard
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
    for i in range(2):
        picture(i, size=(8, 8)).save(tmp_path / f"{i}.png")
    root = tmp_path / "many"
    root.mkdir()
    for i in range(5000):
        os.link(tmp_path / f"{i % 2}.png", root / f"{i}.png")
    prepare(config(root))
    start = time.perf_counter()
    assert not prepare(config(root)).built
    assert time.perf_counter() - start < 1  # 0.1 s on a quiet machine
