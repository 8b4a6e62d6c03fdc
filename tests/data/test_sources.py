"""Every source lists its images and gives their content in that order."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectype.data.chunks import decode_chunk
from ectype.data.decode import Spec
from ectype.data.raw import Unreadable
from ectype.data.sources import NONE, TEST, TRAIN, VAL, layout, natural, open_source, spread
from ectype.errors import DataError


def contents(source) -> np.ndarray:
    """All images at 8×8 in three channels."""
    return np.concatenate([decode_chunk(chunk, Spec((8, 8), 3)).pixels for chunk in source.chunks(3)])


def refuses(text: object, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        open_source(str(text)).listing()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# ── Names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sides_and_classes(*names: str) -> tuple[list[int], list[str] | None]:
    found = layout(names)
    return found.sides.tolist(), None if found.labels is None else [found.classes[i] for i in found.labels]


def test_folders_are_classes_if_there_are_two():
    assert sides_and_classes("cat/1.png", "dog/2.png", "cat/deep/3.png") == ([0, 0, 0], ["cat", "dog", "cat"])
    assert sides_and_classes("cat/1.png", "cat/2.png") == ([0, 0], None)
    assert sides_and_classes("1.png", "2.png") == ([0, 0], None)


def test_split_folders_are_splits_and_what_lies_below_are_classes():
    names = ("train/cat/1.png", "train/dog/2.png", "Test/cat/3.png", "validation/dog/4.png")
    assert sides_and_classes(*names) == ([TRAIN, TRAIN, TEST, VAL], ["cat", "dog", "cat", "dog"])


def test_wrapping_folders_count_for_nothing():
    assert sides_and_classes("set/v1/train/1.png", "set/v1/t10k/2.png") == ([TRAIN, TEST], None)
    assert sides_and_classes("set/cat/1.png", "set/dog/2.png") == ([NONE, NONE], ["cat", "dog"])


def test_train_among_vehicles_is_a_class():
    assert sides_and_classes("bus/1.png", "train/2.png") == ([NONE, NONE], ["bus", "train"])


def test_splits_may_lie_in_the_folder_of_each_class():
    names = ("cat/train/1.png", "dog/train/2.png", "cat/test/deep/3.png", "dog/test/4.png")
    assert sides_and_classes(*names) == ([TRAIN, TRAIN, TEST, TEST], ["cat", "dog", "cat", "dog"])
    # Not where one image lies in none, or all in one: that is what a class might be called.
    assert sides_and_classes(*names, "cat/5.png") == ([NONE] * 5, ["cat", "dog", "cat", "dog", "cat"])
    assert sides_and_classes("cat/test/1.png", "dog/test/2.png") == ([NONE, NONE], ["cat", "dog"])
    assert "within each class" in layout(names).notes[0]
    # Two sets beside each other: one would be all that is learned, the other all that is judged.
    assert sides_and_classes("coco/train/1.png", "imagenet/val/2.png") == ([NONE, NONE], ["coco", "imagenet"])


def test_split_folders_beside_others_are_told():
    found = layout(["train/good/1.png", "test/bad/2.png", "ground_truth/bad/3.png"])
    assert found.classes == ("ground_truth", "test", "train")
    assert found.notes[0].startswith("folders that are named like splits are not taken for such")
    assert "'ground_truth'" in found.notes[0]
    assert not layout(["bus/1.png", "train/2.png"]).notes
    several = layout([f"{k}/{name}/1.png" for k in ("bottle", "cable") for name in ("train", "test", "ground_truth")])
    assert several.notes == (found.notes[0],)
    assert several.classes == ("bottle", "cable")
    mixed = layout(["train/train/1.png", "test/test/2.png", "bus/val/3.png"])
    assert mixed.sides.tolist() == [NONE] * 3
    assert "'bus'" in mixed.notes[0]


def test_images_outside_of_class_folders_undo_classes_with_a_note():
    found = layout(["cat/1.png", "dog/2.png", "3.png"])
    assert found.labels is None
    assert "1 of 3" in found.notes[0]


def test_only_one_split_folder_is_a_split():
    assert sides_and_classes("train/1.png", "train/2.png") == ([TRAIN, TRAIN], None)


@given(st.lists(st.tuples(st.sampled_from(["train", "test", "a", "b"]), st.sampled_from(["c", "d"])), min_size=1))
def test_layout_does_not_depend_on_order(folders):
    names = [f"{top}/{below}/{i}.png" for i, (top, below) in enumerate(folders)]
    mixed = random.Random(0).sample(names, len(names))

    def said(order: list[str]) -> dict[str, tuple[int, str | None]]:
        sides, labels = sides_and_classes(*order)
        return dict(zip(order, zip(sides, labels or [None] * len(order), strict=True), strict=True))

    assert said(names) == said(mixed)


def test_natural_order():
    assert sorted(["s10", "s9", "s1", "10", "9", "a"], key=natural) == ["9", "10", "a", "s1", "s9", "s10"]
    # Digits that are none of ours are letters.
    assert sorted(["②", "①", "x", "１"], key=natural) == ["x", "①", "②", "１"]


@given(st.integers(0, 200), st.integers(1, 50))
def test_spread_is_even_and_within(length, size):
    found = spread(length, size)
    assert len(found) == min(length, size)
    assert all(0 <= i < length for i in found)


# ── Folders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    outcome = decode_chunk(list(open_source(str(root)).read()), Spec((8, 8), 3))
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
    refuses(tmp_path / "empty", "no images", "nothing")
    (tmp_path / "empty" / "a.txt").touch()
    refuses(tmp_path / "empty", "1 .txt")
    refuses(root / "a.png", "single image")
    (tmp_path / "a.bin").touch()
    refuses(tmp_path / "a.bin", "no kind of file")


# ── Archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack(root: Path, place: Path) -> Path:
    """Archive a folder as the suffix says."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.relative_to(root.parent))
    else:
        with tarfile.open(place, f"w:{place.suffix[1:].replace('tar', '').replace('tgz', 'gz')}") as archive:
            archive.add(root, root.name)
    return place


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz", "tar.xz", "tar.bz2"])
def test_archives_hold_what_their_folder_holds(folder, tmp_path, suffix):
    root = folder("train/cat/1.png", "train/dog/2.jpg", "test/dog/3.png", ".hidden.png")
    (root / "notes.txt").write_text("x")
    plain, packed = open_source(str(root)), open_source(str(pack(root, tmp_path / f"set.{suffix}")))
    ours, theirs = packed.listing(), plain.listing()
    order = [ours.names.index(f"images/{name}") for name in theirs.names]
    assert len(ours.names) == 3
    assert ours.skipped == {".txt": 1}
    assert ours.sides[order].tolist() == theirs.sides.tolist()
    assert ours.classes == theirs.classes == ("cat", "dog")
    np.testing.assert_array_equal(contents(packed)[order], contents(plain))
    assert len(packed.sample(2)) == 2


def test_zip_refuses_what_is_unsafe(folder, tmp_path, monkeypatch):
    content = (folder("a.png") / "a.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("../../out.png", "/abs.png", "C:\\x.png", "fine.png"):
            archive.writestr(name, content)
    found = open_source(str(tmp_path / "evil.zip")).listing()
    assert found.names == ["fine.png"]
    assert {reason for _, reason in found.refused} == {"unsafe path in the archive"}
    assert not (tmp_path.parent / "out.png").exists()


def test_archive_bombs_are_refused_by_size(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ectype.data.archives.LARGEST", 100_000)
    for place in (tmp_path / "bomb.zip", tmp_path / "bomb.tar.gz"):
        folder("a.png", root="inner")
        (tmp_path / "inner" / "b.png").write_bytes(bytes(200_000))
        found = open_source(str(pack(tmp_path / "inner", place))).listing()
        assert found.names == ["inner/a.png"]
        assert found.refused[0][0] == "inner/b.png"


def test_zip_whose_directory_lies_about_sizes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ectype.data.archives.LARGEST", 100_000)
    place = tmp_path / "liar.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(200_000))
    content = place.read_bytes().replace(struct.pack("<I", 200_000), struct.pack("<I", 500))
    place.write_bytes(content)
    assert all(isinstance(raw, Unreadable) or len(raw) <= 500 for raw in open_source(str(place)).read())


def test_damage_inside_a_zip_is_one_reject(folder, tmp_path):
    place = pack(folder("a.png", "b.png"), tmp_path / "set.zip")
    content = bytearray(place.read_bytes())
    content[60:80] = bytes(20)
    place.write_bytes(content)
    outcome = decode_chunk(list(open_source(str(place)).read()), Spec((8, 8), 3))
    assert outcome.reasons == ["damaged in the archive", None]


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_damaged_archives(folder, tmp_path, suffix):
    place = pack(folder("a.png", "b.png", size=(200, 200)), tmp_path / f"set.{suffix}")
    place.write_bytes(place.read_bytes()[:-4000] if suffix != "tar" else place.read_bytes()[:3000])
    refuses(place, "damaged or incomplete")
    place.write_bytes(b"no archive at all")
    refuses(place, "damaged or incomplete")


def test_archive_without_images(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    refuses(tmp_path / "a.zip", "no images in archive")


def test_tar_keeps_no_headers_in_memory(folder, tmp_path, monkeypatch):
    place = pack(folder(*(f"{i}.png" for i in range(20))), tmp_path / "set.tar")
    held = []
    original = tarfile.TarFile.next

    def spying(self):
        held.append(len(self.members))
        return original(self)

    monkeypatch.setattr(tarfile.TarFile, "next", spying)
    open_source(str(place)).listing()
    assert max(held) <= 1


# ── IDX ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "idx"
    root.mkdir()
    arrays = {}
    for name, n in (("train", 7), ("t10k", 4)):
        images, labels = rng.integers(0, 256, (n, 8, 8)), rng.integers(0, 3, n)
        arrays[name] = images, labels
        (root / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (root / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return root, arrays


def test_idx_folder(idx_folder):
    root, arrays = idx_folder
    source = open_source(str(root))
    found = source.listing()
    assert found.sides.tolist() == [TRAIN] * 7 + [TEST] * 4
    assert found.names[0] == "train/00000"
    labels = np.concatenate([arrays["train"][1], arrays["t10k"][1]])
    assert [found.classes[i] for i in found.labels] == labels.astype(str).tolist()
    images = np.concatenate([arrays["train"][0], arrays["t10k"][0]])
    np.testing.assert_array_equal(contents(source)[:, 0], images)
    sizes = [len(chunk) for chunk in source.chunks(3)]
    assert sizes == [3, 3, 3, 2]  # full across the border of files


def test_single_idx_file(idx_folder):
    root, _ = idx_folder
    source = open_source(str(root / "t10k-images-idx3-ubyte.gz"))
    assert source.listing().sides.tolist() == [NONE] * 4
    assert source.listing().labels is not None
    refuses(root / "t10k-labels-idx1-ubyte", "holds labels")


def test_damaged_idx(idx_folder):
    root, _ = idx_folder
    path = root / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(DataError, match="damaged or incomplete"):
        contents(open_source(str(root)))
    path.write_bytes(gzip.compress(idx(np.zeros((7, 8, 8)))[:-10]))
    with pytest.raises(DataError, match="ends after 6 of 7"):
        contents(open_source(str(root)))
    path.write_bytes(b"nonsense")
    refuses(root, "no IDX file")
    path.write_bytes(gzip.compress(idx(np.zeros((6, 8, 8)))))
    refuses(root, "7 labels for 6 images")


@pytest.mark.shared
def test_mnist(shared):
    found = open_source(str(shared / "mnist")).listing()
    assert len(found.names) == 70_000
    assert found.classes == tuple("0123456789")
    assert np.bincount(found.sides).tolist() == [0, 60_000, 0, 10_000]
    assert [found.classes[i] for i in found.labels[:5]] == list("50419")


# ── NumPy ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_splits(tmp_path, save, fortran):
    rng = np.random.default_rng(0)
    arrays = {
        f"x_{s}": rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for s, n in (("test", 4), ("train", 5), ("val", 3))
    }
    if fortran:
        arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
    labels = {f"y_{s}": np.arange(n)[:, None] for s, n in (("test", 4), ("train", 5), ("val", 3))}
    save(tmp_path / "a.npz", **arrays, **labels)
    source = open_source(str(tmp_path / "a.npz"))
    found = source.listing()
    assert found.sides.tolist() == [TRAIN] * 5 + [VAL] * 3 + [TEST] * 4
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]
    joined = np.concatenate([arrays["x_train"], arrays["x_val"], arrays["x_test"]])
    np.testing.assert_array_equal(contents(source), joined.transpose(0, 3, 1, 2))
    assert len(source.sample(6)) == 6


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 1), (5, 1, 8, 8), (5, 3, 8, 8), (5, 8, 8, 3), (5, 4, 8, 8)])
def test_npy_layouts(tmp_path, shape):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if 4 in shape:
        values[:, 3] = 255
    np.save(tmp_path / "a.npy", values)
    expected = values if len(shape) == 4 else values[:, None]
    if shape[-1] in (1, 3) and len(shape) == 4:
        expected = values.transpose(0, 3, 1, 2)
    expected = np.broadcast_to(expected[:, :3] if expected.shape[1] > 1 else expected, (5, 3, 8, 8))
    np.testing.assert_array_equal(contents(open_source(str(tmp_path / "a.npy"))), expected)


@pytest.mark.parametrize("kind", ["float32", "float64", "uint16", "bool", "int64", ">u2"])
def test_npy_kinds_of_numbers(tmp_path, kind):
    grey = np.arange(0, 256, dtype=np.uint8).repeat(2).reshape(8, 8, 8)
    values = {"f": grey / 255, "u": grey.astype(np.uint32) * 257, "b": grey > 99, "i": grey}[np.dtype(kind).kind]
    np.save(tmp_path / "a.npy", values.astype(kind))
    source = open_source(str(tmp_path / "a.npy"))
    expected = np.where(grey > 99, 255, 0) if kind == "bool" else grey
    np.testing.assert_array_equal(contents(source)[:, 0], expected)
    assert source.deep == (8 if np.dtype(kind).kind == "u" else 0)


@pytest.mark.parametrize(
    "values, word",
    [
        (np.full((2, 8, 8), -1.0), "-1"),
        (np.full((2, 8, 8), 2.0), "2"),
        (np.full((2, 8, 8), np.nan), "nan"),
        (np.full((2, 8, 8), 999), "999"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, values, word):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=word):
        contents(open_source(str(tmp_path / "a.npy")))


def test_npz_labels(tmp_path):
    images = np.zeros((6, 8, 8), np.uint8)
    place = tmp_path / "a.npz"
    np.savez(place, images=images, y=np.array([2, 10, 2, 1, 1, 10]), weights=np.ones(6))
    assert open_source(str(place)).listing().classes == ("1", "2", "10")
    np.savez(place, images=images, which=np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]])
    assert open_source(str(place)).listing().labels.tolist() == [0, 1, 2, 0, 1, 2]
    np.savez(place, images=images, a=np.zeros(6, int), b=np.ones(6, int))
    assert open_source(str(place)).listing().labels is None  # which of the two is not clear


def test_npz_that_cannot_be_understood(tmp_path):
    place = tmp_path / "a.npz"
    np.savez(place, a=np.zeros((6, 8, 8)), b=np.zeros((6, 8, 8)))
    refuses(place, "several arrays of images", "a, b")
    np.savez(place, a=np.zeros(6))
    refuses(place, "no images", "a [6]")
    np.savez(place, a=np.array([{}], dtype=object))
    refuses(place, "no images")  # and nothing is unpickled
    place.write_bytes(place.read_bytes()[:50])
    refuses(place, "damaged")
    np.savez(place, x_train=np.zeros((3, 8, 8), np.uint8), x_test=np.zeros((3, 9, 8), np.uint8))
    outcome = decode_chunk(next(open_source(str(place)).chunks(6)), Spec((8, 8), 3))
    assert outcome.reasons == [None] * 6  # of two shapes, in one chunk


# ── Packages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_digits():
    from sklearn.datasets import load_digits

    source = open_source("digits")
    found = source.listing()
    assert len(found.names) == 1797
    assert found.classes == tuple("0123456789")
    expected = load_digits()
    assert found.labels.tolist() == expected.target.tolist()
    np.testing.assert_allclose(contents(source)[:, 0] / 255, expected.images / 16, atol=0.5 / 255)


def test_torchvision_data_set(tmp_path):
    # torchvision takes files that are there for fetched.
    raw = tmp_path / "cache" / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (n, 8, 8)) for name, n in (("train", 12), ("t10k", 10))}
    for name, values in images.items():
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(values))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(values)) % 10))
    source = open_source("torchvision:MNIST")
    found = source.listing()
    assert found.sides.tolist() == [TRAIN] * 12 + [TEST] * 10
    assert found.labels.tolist() == [*range(10), 0, 1, *range(10)]
    assert len(found.classes) == 10
    np.testing.assert_array_equal(contents(source)[:, 0], np.concatenate(list(images.values())))
    assert len(source.sample(3)) == 3


def test_torchvision_misses(monkeypatch):
    refuses("torchvision:CIFAR11", "did you mean 'CIFAR10'?")
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    refuses("torchvision:CIFAR10", "ectype[torchvision]")


def test_torchvision_offline(monkeypatch):
    import torchvision

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", unreachable)
    refuses("torchvision:CIFAR10", "could not be fetched", "connect to the network")


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def table(picture):
    """A Hugging Face data set of six images in three classes."""
    datasets = pytest.importorskip("datasets")

    def make(n: int = 6, **columns: object):
        cells = []
        for i in range(n):
            file = io.BytesIO()
            picture(i, size=(8, 8)).save(file, "PNG")
            cells.append({"bytes": file.getvalue(), "path": None})
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "cow"])}
        values = {"image": cells, "label": [i % 3 for i in range(n)]}
        for name, feature in columns.items():
            features[name] = feature
            values[name] = cells if isinstance(feature, datasets.Image) else [0] * n
        return datasets.Dataset.from_dict(values, features=datasets.Features(features))

    return make


def expected(picture, n: int = 6) -> np.ndarray:
    return np.stack([np.asarray(picture(i, size=(8, 8))).transpose(2, 0, 1) for i in range(n)])


def test_local_parquet(table, tmp_path, picture):
    root = tmp_path / "set"
    root.mkdir()
    table().to_parquet(root / "train-00000-of-00001.parquet")
    table(4).to_parquet(root / "test-00000-of-00001.parquet")
    source = open_source(str(root))
    found = source.listing()
    assert found.sides.tolist() == [TEST] * 4 + [TRAIN] * 6
    assert found.classes == ("cat", "dog", "cow")
    assert found.labels.tolist() == [0, 1, 2, 0, 0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(contents(source), np.concatenate([expected(picture, 4), expected(picture)]))
    assert open_source(str(root / "train-00000-of-00001.parquet")).listing().sides.tolist() == [TRAIN] * 6


def test_parquet_folders_of_splits_below_other_folders(table, tmp_path):
    """As the Hub lays converted sets out: configuration, split, pieces."""
    for part, many in (("train", 6), ("test", 4)):
        place = tmp_path / "set" / "default" / part
        place.mkdir(parents=True)
        table(many).to_parquet(place / "0000.parquet")
    found = open_source(str(tmp_path / "set")).listing()
    assert found.sides.tolist() == [TEST] * 4 + [TRAIN] * 6
    assert len(set(found.names)) == 10


def test_plain_parquet_without_a_description(tmp_path, picture):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = []
    for i in range(3):
        file = io.BytesIO()
        picture(i, size=(8, 8)).save(file, "PNG")
        cells.append(file.getvalue())
    pq.write_table(pa.table({"id": [b"x", b"y", b"z"], "png": cells, "label": ["b", "a", "b"]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    found = source.listing()
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(contents(source), expected(picture, 3))


def test_several_columns_have_to_be_chosen(table, tmp_path):
    import datasets

    place = tmp_path / "a.parquet"
    table(mask=datasets.Image(), kind=datasets.ClassLabel(names=["x", "y"])).to_parquet(place)
    refuses(place, "several image columns", "image, mask")
    refuses(f"{place}#image", "several label columns", "label, kind")
    refuses(f"{place}#picture", "no column 'picture'")
    assert open_source(f"{place}#mask,label").listing().classes == ("cat", "dog", "cow")


def test_broken_tables(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = tmp_path / "a.parquet"
    place.write_bytes(b"nothing")
    refuses(place, "no Parquet file")
    pq.write_table(pa.table({"a": [1]}), place)
    refuses(place, "no column of images")
    pq.write_table(
        pa.table({"image": pa.array([None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}), place
    )
    (raw,) = open_source(str(place)).read()
    assert raw == Unreadable("missing in the table")


def test_hub_data_set(table, monkeypatch, picture):
    import datasets

    calls = []

    def load_dataset(name: str, config: str | None = None):
        calls.append((name, config))
        return datasets.DatasetDict(train=table(), validation=table(3))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source("hf:korexyz/celeba-hq-256x256")
    found = source.listing()
    assert calls == [("korexyz/celeba-hq-256x256", None)]
    assert found.sides.tolist() == [TRAIN] * 6 + [VAL] * 3
    assert found.classes == ("cat", "dog", "cow")
    np.testing.assert_array_equal(contents(source), np.concatenate([expected(picture), expected(picture, 3)]))
    open_source("hf:user/name:config")
    assert calls[-1] == ("user/name", "config")


def test_hub_data_set_of_one_split_and_chosen_columns(table, monkeypatch):
    import datasets

    whole = table(mask=datasets.Image())
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: whole)
    refuses("hf:user/name", "several image columns")
    assert open_source("hf:user/name#image").listing().sides.tolist() == [TRAIN] * 6


def test_hub_misses(monkeypatch):
    import datasets

    def fail(error: Exception):
        def load_dataset(*_: object) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    fail(ConnectionError("Couldn't reach\nthe Hub"))
    refuses("hf:user/name", "could not be fetched", "Parquet files")
    fail(datasets.exceptions.DatasetNotFoundError("Dataset 'user/nam' doesn't exist on the Hub"))
    refuses("hf:user/nam", "not on the Hugging Face Hub")
    fail(ValueError("Config name is missing. Please pick one among the available configs: ['a', 'b']"))
    refuses("hf:user/name", "hf:user/name:CONFIG", "['a', 'b']")
    refuses("hf:", "write hf:user/name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    refuses("hf:user/name", "ectype[hf]")
