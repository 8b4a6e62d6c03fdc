"""Preparing images: what they are decoded to, and what users are told about them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ectype.config.schema import DataConfig
from ectype.core.errors import DataError, EctypeWarning
from ectype.data import build_entry
from ectype.data.packed_strings import read_strings
from ectype.data.prepare import clean, prepare

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


# ── Results ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder(folder):
    root = folder(*(f"{kind}/{name}" for kind in ("cat", "dog") for name in SOME))
    calls = []
    found = prepare(config(root), progress=lambda done, total: calls.append((done, total)))
    assert found.info.shape == (3, 16, 16)
    assert found.info.classes == ("cat", "dog")
    assert sum(found.info.frequencies) == pytest.approx(1)
    assert len(found) == sum(found.split_sizes.values()) == 24
    assert min(found.split_sizes.values()) > 0
    assert found.summary.startswith("24 images, 0 rejected; 16×16 color, 2 classes; ")
    assert calls[-1] == (24, 24)
    assert found.built
    for name, values in zip(read_strings(found.root), pixels(found), strict=True):
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
    rows = np.flatnonzero(found.split_ids)
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
    assert not found.built  # decoded images are not decoded again
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
    monkeypatch.setattr(build_entry, "NUM_PROBED_IMAGES", 3)
    root = folder(*(f"{i:03d}.png" for i in range(80)), mode="L")
    picture(100, mode="L").convert("RGB").save(root / "050.png")
    picture(101, mode="L").convert("P").save(root / "051.png")
    assert prepare(config(root), workers=1).info.channels == 1
    picture(102).save(root / "079.png")  # not in the sample
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
    monkeypatch.setattr(build_entry, "MAX_SHARD_BYTES", 8 * 8 * 3 * 40)
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
        with (
            pytest.warns(EctypeWarning, match="12 images of 16 bits or floats were reduced to 8 bits"),
            pytest.warns(EctypeWarning, match=r"brighter than 4095 of 65535, so they are dark: .*=\[0, 4095\] shows"),
        ):
            found = prepare(config(tmp_path))
    assert found.info.channels == 1
    assert "16 bits" in found.notes[0]
    # Each tile is an image.
    with (
        pytest.warns(EctypeWarning, match="48 images of 16 bits or floats were reduced"),
        pytest.warns(EctypeWarning, match="4095 of 65535"),
    ):
        prepare(config(tmp_path, size=4, resize="tiles"))


def test_sixteen_bits_in_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(9 * 64, dtype=np.uint16).reshape(9, 8, 8) * 113)
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
    assert "1 files that are not images were skipped (1 .txt)" in notes
    assert "1 transparent images were painted on white" in notes


def test_classes_are_counted_by_split(folder):
    names = [
        f"{split}/{i}/{k}.png" for split in ("train", "val", "test") for i in range(9) for k in range(1 + (i == 3))
    ]
    found = prepare(config(folder(*names)))
    assert found.class_counts == [
        f"{split}: 3 2, 0 1, 1 1, 2 1, 4 1, 5 1, 3 more" for split in ("train", "val", "test")
    ]
    assert prepare(config(folder(*SOME, root="flat"))).class_counts == []


def test_classes_that_only_held_out_images_have_are_reported(folder):
    some = folder(*(f"{split}/{name}/{k}.png" for split in ("train", "val") for name in "ab" for k in range(3)))
    folder("val/c/1.png", "val/d/1.png")
    assert "2 classes ('c', 'd') have no training images, only held-out ones, so a model cannot learn them" in (
        notes := prepare(config(some, split={"test": 0})).notes
    ), notes
    only_test = folder(*(f"test/{name}/1.png" for name in "ab"), root="test-only")
    assert not prepare(config(only_test, split={"val": 0, "test": 0})).notes


@pytest.mark.parametrize(
    "size, advice", [((2, 30), r"lower data\.min_size"), (None, "check that they open in other programs")]
)
def test_advice_for_images_that_cannot_be_used_fits_the_reason(tmp_path, picture, size, advice):
    for i in range(4):
        if size is None:
            (tmp_path / f"{i}.png").write_bytes(b"nothing")
        else:
            picture(i, size=size).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=f"none of the 4 images .*: .*{advice}\\.$"):
        prepare(config(tmp_path))


def test_the_column_of_labels_and_notes_on_their_file(folder, tmp_path):
    root = folder(*SOME)
    rows = ["image,kind,colour", *(f"{name},{'Größe' if i % 2 else 'x'},{i % 3}" for i, name in enumerate(SOME))]
    (tmp_path / "labels.csv").write_bytes("\n".join(rows).encode("cp1252"))
    with pytest.raises(DataError, match=r"\(kind, colour\): choose one, such as label_column=kind"):
        prepare(config(root, labels=str(tmp_path / "labels.csv")))
    found = prepare(config(root, labels=str(tmp_path / "labels.csv"), label_column="kind"))
    assert found.info.classes == ("Größe", "x")
    assert any("was read as Windows-1252" in note for note in found.notes)
    assert prepare(config(root, labels=str(tmp_path / "labels.csv"), label_column="colour")).info.classes == (
        "0",
        "1",
        "2",
    )


def test_the_encoding_of_zip_names_is_a_key():
    assert config("x.zip", zip_encoding="CP949").zip_encoding == "cp949"
    with pytest.raises(ValueError, match="'klingon' is not an encoding"):
        config("x.zip", zip_encoding="klingon")
