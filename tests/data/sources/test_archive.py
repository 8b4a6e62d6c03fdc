"""Images in zip and tar files."""

from __future__ import annotations

import struct
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from ectype.core.errors import DataError
from ectype.data.decode import Spec
from ectype.data.decode_batch import decode_batch
from ectype.data.raw_image import Unreadable
from ectype.data.sources.open import open_source
from tests.data.sources.helpers import contents, refuses


def pack(root: Path, place: Path) -> Path:
    """Archive a folder in the format of the suffix."""
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
    plain, packed = (open_source(str(root)), open_source(str(pack(root, tmp_path / f"set.{suffix}"))))
    ours, theirs = packed.listing(), plain.listing()
    order = [ours.names.index(f"images/{name}") for name in theirs.names]
    assert len(ours.names) == 3
    assert ours.skipped == {".txt": 1}
    assert ours.split_ids[order].tolist() == theirs.split_ids.tolist()
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


def write_zip(place: Path, names: list[bytes], content: bytes, extra: bytes = b"") -> Path:
    """Write a zip file with names that are not marked as UTF-8, as programs of other systems do."""
    with zipfile.ZipFile(place, "w") as archive:
        for i, name in enumerate(names):
            info = zipfile.ZipInfo(f"{i:0{len(name)}d}")
            info.extra = extra
            archive.writestr(info, content + bytes([i]))
    packed = bytearray(place.read_bytes())
    with zipfile.ZipFile(place) as archive:
        members = archive.infolist()
        start = archive.start_dir
    for member, name in zip(members, names, strict=True):
        at = member.header_offset + 30
        packed[at : at + len(name)] = name
        packed[start + 46 : start + 46 + len(name)] = name
        start += 46 + len(name) + len(member.extra)
    place.write_bytes(packed)
    return place


def test_backslashes_separate_and_colons_are_letters(folder, tmp_path):
    content = (folder("a.png") / "a.png").read_bytes()
    names = [f"{'ab'[i % 2]}\\12:{i:02d}.png".encode() for i in range(24)]
    found = open_source(str(write_zip(tmp_path / "photos.zip", [b"a\\", *names], content))).listing()
    assert len(found.names) == 24
    assert found.names[0] == "a/12:00.png"
    assert found.classes == ("a", "b")
    assert not found.refused


@pytest.mark.parametrize("encoding, word", [("cp949", "고양이"), ("cp932", "ねこ"), ("gb18030", "狗狗")])
def test_names_in_a_local_encoding(folder, tmp_path, encoding, word):
    content = (folder("a.png") / "a.png").read_bytes()
    place = write_zip(tmp_path / "a.zip", [f"{word}/1.png".encode(encoding), b"dog/2.png"], content)
    found = open_source(str(place)).listing()
    assert len(found.names) == 2
    assert found.notes[0].startswith("names in ")
    assert f"'{word}/1.png' ({encoding})" in found.notes[0]
    assert "set data.zip_encoding" in found.notes[0]
    chosen = open_source(str(place), zip_encoding=encoding)
    assert chosen.listing().classes == ("dog", word)
    assert chosen.listing().notes == ()
    assert chosen.location != open_source(str(place)).location  # it is prepared as another source
    with pytest.raises(DataError, match=r"not valid in data\.zip_encoding=ascii"):
        open_source(str(place), zip_encoding="ascii").listing()


def test_names_that_are_utf8_without_a_mark(folder, tmp_path):
    content = (folder("a.png") / "a.png").read_bytes()
    found = open_source(str(write_zip(tmp_path / "a.zip", ["猫/1.png".encode(), b"dog/2.png"], content))).listing()
    assert found.classes == ("dog", "猫")
    assert found.notes == ()


def test_names_in_the_field_of_info_zip(folder, tmp_path):
    content = (folder("a.png") / "a.png").read_bytes()
    local, name = "\u00fc.png".encode("cp850"), "ü.png".encode()
    field = b"\1" + struct.pack("<I", zlib.crc32(local)) + name
    place = write_zip(tmp_path / "a.zip", [local], content, struct.pack("<HH", 0x7075, len(field)) + field)
    assert open_source(str(place)).listing().names == ["ü.png"]


def test_a_name_that_occurs_twice_is_refused(folder, tmp_path):
    content = (folder("a.png") / "a.png").read_bytes()
    found = open_source(str(write_zip(tmp_path / "a.zip", [b"a/1.png", b"a\\1.png"], content))).listing()
    assert found.names == ["a/1.png"]
    assert found.refused == (("a/1.png", "a second file of this name in the archive"),)


def test_both_unicode_forms_of_a_folder_are_one_class(folder):
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    root = folder(f"train/{forms[0]}/1.png", f"val/{forms[1]}/2.png", "train/tea/3.png", "val/tea/4.png")
    assert open_source(str(root)).listing().classes == (forms[0], "tea")


def test_archive_bombs_are_refused_by_size(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ectype.data.sources.archive.MAX_ENCODED_BYTES", 100_000)
    for place in (tmp_path / "bomb.zip", tmp_path / "bomb.tar.gz"):
        folder("a.png", root="inner")
        (tmp_path / "inner" / "b.png").write_bytes(bytes(200_000))
        found = open_source(str(pack(tmp_path / "inner", place))).listing()
        assert found.names == ["inner/a.png"]
        assert found.refused[0][0] == "inner/b.png"


def test_zip_whose_directory_lies_about_sizes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ectype.data.sources.archive.MAX_ENCODED_BYTES", 100_000)
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
    outcome = decode_batch(list(open_source(str(place)).read()), Spec((8, 8), 3))
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
