"""The cache of prepared images: found again, rebuilt after changes, and safe against interruptions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from ectype.config.schema import Split
from ectype.core.errors import DataError, EctypeWarning
from ectype.data import build_entry, checksums
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


# ── Changed bits, and files that are cut while in use ────────────────────────────────────────────────────────────────


def flip_a_bit(path: Path, position: int) -> None:
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk does, which changes no time


@pytest.fixture
def new_process(monkeypatch):
    """Return a function after which nothing counts as compared in this process."""
    return lambda: monkeypatch.setattr(entries, "_MATCHING", {})


FILES = ["images-000.npy", "split_ids.npy", "kept.npy", "labels.npy", "digests.npy", "names.npy", "rejects.csv"]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("where", [0.4, -1])
def test_a_flipped_bit_is_found_and_prepared_again(folder, new_process, name, where):
    root = folder(*(f"{kind}/{image}" for kind in "ab" for image in SOME))
    first = prepare(config(root))
    size = (first.root / name).stat().st_size
    flip_a_bit(first.root / name, int(where * size) if where > 0 else size - 2)
    new_process()
    if name == "manifest.json":
        second = prepare(config(root))
    else:
        with pytest.warns(EctypeWarning, match=f"is damaged \\('{name}' does not match its checksum\\)"):
            second = prepare(config(root))
    assert second.built
    assert second.fingerprint == first.fingerprint
    new_process()
    third = prepare(config(root))
    assert not third.built
    assert "prepared images match their checksums" in third.checked


def test_checksums_are_compared_once_in_a_process(folder, new_process, monkeypatch):
    root = folder(*SOME)
    assert prepare(config(root)).checked == ""  # it has just been written
    calls = []
    original = entries.first_mismatch
    monkeypatch.setattr(entries, "first_mismatch", lambda *given: calls.append(given) or original(*given))
    prepare(config(root))
    assert len(calls) == 0
    new_process()
    checked = [prepare(config(root)).checked for _ in range(3)]
    assert len(calls) == 1
    assert [bool(text) for text in checked] == [True, False, False]
    new_process()
    monkeypatch.setenv("LOCAL_RANK", "1")  # the first process on the machine has done it
    assert prepare(config(root)).checked == ""


def test_checksums_of_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(checksums, "READ_BYTES", 300)
    content = os.urandom(2500)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").touch()
    expected = {"a": [zlib.crc32(content[i : i + 1000]) for i in (0, 1000, 2000)], "b": [0]}
    assert checksums.file_checksums([tmp_path / "a", tmp_path / "b"]) == expected
    assert checksums.first_mismatch(tmp_path, expected) is None
    for damage in (lambda: os.truncate(tmp_path / "a", 2400), lambda: (tmp_path / "a").unlink()):
        damage()
        assert checksums.first_mismatch(tmp_path, expected) == "a"


def test_damaged_images_from_memory_have_to_be_passed_again(new_process):
    import numpy as np

    from ectype.data.sources.memory import MemorySource, register

    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    text = register(images)
    entry = MemorySource(text).entry
    flip_a_bit(entry / "images.bin", 500)
    new_process()
    with pytest.warns(EctypeWarning, match="damaged"), pytest.raises(DataError, match="pass the same images again"):
        prepare(config(text))
    assert register(images) == text
    assert len(prepare(config(text))) == 20


@pytest.mark.skipif(sys.platform == "win32", reason="mapped files cannot be cut there")
@pytest.mark.parametrize("num_shards", [1, 4])
def test_a_shard_that_is_cut_while_mapped_is_an_error(folder, monkeypatch, num_shards):
    import torch

    from ectype.data.dataset import open_store

    monkeypatch.setattr(build_entry, "MAX_SHARD_BYTES", (1 << 30) if num_shards == 1 else 4 * 3 * 16 * 16)
    monkeypatch.setattr(build_entry, "MAX_IMAGES_PER_BATCH", 4)
    prepared = prepare(config(folder(*SOME)))
    assert len(prepared.shards) == num_shards
    images = open_store(prepared, config("x")).split("train")
    everything = torch.arange(len(images))
    assert len(images.gather(everything)) == len(images)
    for shard in prepared.shards:
        os.truncate(shard, 200)
    for use in (lambda: images.gather(everything), lambda: images.view(0)):
        with pytest.raises(DataError, match=r"was cut to 200 of .* bytes while it was in use"):
            use()


def test_an_entry_that_is_removed_while_mapped_stays_usable(folder):
    import torch

    from ectype.data.dataset import open_store

    prepared = prepare(config(folder(*SOME)))
    images = open_store(prepared, config("x")).split("train")
    before = images.gather(torch.arange(len(images)))
    shutil.rmtree(prepared.root)
    assert torch.equal(images.gather(torch.arange(len(images))), before)
