"""Contact sheets show each image in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ectype.core.errors import DataError
from ectype.data.preview import check_file_writable, check_folder_writable, contact_sheet, save_grid


def plain(n: int, channels: int, height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None] * 10, (n, channels, height, width)).copy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n, columns", [(1, None), (5, None), (7, 3), (4, 10)])
def test_every_image_is_in_its_place(n, channels, columns):
    sheet = contact_sheet(plain(n, channels, 6, 4), columns=columns, scale=2)
    values = np.asarray(sheet)
    values = values if channels == 1 else values[..., 0]
    across = min(n, columns or int(np.ceil(np.sqrt(n))))
    gap = (sheet.width - across * 8) // (across + 1)
    for i in range(n):
        top, left = gap + i // across * (12 + gap), gap + i % across * (8 + gap)
        assert (values[top : top + 12, left : left + 8] == 10 * i).all()
        assert (values[top - gap : top, left : left + 8] == 255).all()


def test_small_images_are_enlarged_by_repeating_pixels():
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 28, 28), np.uint8)
    sheet = np.asarray(contact_sheet(images))
    assert sheet.shape[0] > 64
    enlarged = images[0].transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)
    gap = (sheet.shape[0] - 84) // 2
    np.testing.assert_array_equal(sheet[gap:-gap, gap:-gap], enlarged)
    assert contact_sheet(np.zeros((1, 1, 200, 200), np.uint8)).size[0] < 220


def test_tensors_are_as_good_as_arrays(tmp_path):
    images = torch.from_numpy(plain(3, 3, 8, 8))
    save_grid(images.requires_grad_(False), tmp_path / "deep" / "grid.png")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "deep" / "grid.png")), np.asarray(contact_sheet(images.numpy()))
    )


@pytest.mark.parametrize(
    "images", [np.zeros((1, 1, 4, 4)), np.zeros((0, 1, 4, 4), np.uint8), np.zeros((1, 2, 4, 4), np.uint8)]
)
def test_other_arrays_are_refused(images):
    with pytest.raises((ValueError, TypeError), match=r"uint8|UInt8|give"):
        contact_sheet(images)


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "new/a.webp", "a.gif", "a.tiff"])
def test_a_place_for_a_picture_is_found_without_making_it(tmp_path, name):
    check_file_writable(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["", ".txt", ".psd", ".h5", ".xbm"])
def test_what_pillow_cannot_write_is_no_picture(tmp_path, suffix):
    with pytest.raises(DataError, match=r"is not a supported image format: use a name that ends in \.png"):
        check_file_writable(tmp_path / f"a{suffix}")


def test_what_stands_in_the_way_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    check_folder_writable(tmp_path / "folder.csv" / "deep" / "er")
    check_folder_writable(tmp_path / "folder.csv")
    check_file_writable(tmp_path / "there.CSV", ".csv")
    for check, out, reason in (
        (check_folder_writable, "file", r"\(it is a file\)"),
        (check_folder_writable, "file/deep/er", r"file' is a file\)"),
        (lambda place: check_file_writable(place, ".csv"), "folder.csv", r"\(it is a folder\)"),
        (lambda place: check_file_writable(place, ".csv", ".npz"), "a.txt", r"use a name that ends in \.csv or \.npz"),
        (check_file_writable, "a" * 300 + ".png", "name too long"),
    ):
        with pytest.raises(DataError, match=reason):
            check(tmp_path / out)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(DataError, match=r"no permission to write to .*\): choose another path"):
        check_folder_writable(tmp_path / "new")


def test_a_picture_that_cannot_be_written_after_all_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for out, reason in (("file/a.png", "Not a directory|File exists"), ("folder.png", "Is a directory")):
        with pytest.raises(DataError, match=rf"^cannot write '.*{out}' \(({reason})\): free disk space"):
            save_grid(plain(1, 1, 8, 8), tmp_path / out)


def test_a_picture_of_someone_else_is_not_replaced(tmp_path):
    mine, out = tmp_path / "mine.png", tmp_path / "ours.png"
    mine.write_bytes(b"a photo")
    for write in (check_file_writable, lambda path: save_grid(plain(1, 1, 8, 8), path)):
        with pytest.raises(DataError, match=r"Ectype did not write it, or it was changed since\): .*another path"):
            write(mine)
    assert mine.read_bytes() == b"a photo"
    for _ in range(2):
        check_file_writable(out)
        save_grid(plain(1, 1, 8, 8), out)
    save_grid(plain(1, 1, 8, 8), mine, owned=True)  # in a run, everything is Ectype's
    assert mine.read_bytes() == out.read_bytes()
