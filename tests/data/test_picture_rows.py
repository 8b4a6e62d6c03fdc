from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ectype.config.recipe import data_recipe
from ectype.core.lettering import font, shorten
from ectype.data.decode import Spec
from ectype.data.overview import save_overview
from ectype.data.picture_rows import ColorBar, Histogram, RowTile, picture_of_rows, whole_image
from ectype.data.prepare import prepare

RED = (225, 87, 89)
"""The color of outlines."""


def pixels_of(picture: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of a color."""
    return np.argwhere((np.asarray(picture.convert("RGB")) == color).all(2))


def test_tiles_show_whole_pixels_at_128_px() -> None:
    image = np.zeros((3, 32, 64), np.uint8)
    image[:, 5, 7] = (10, 200, 30)
    sheet = picture_of_rows([[RowTile(image, "a.png", "0.5")], [RowTile(None)]])
    found = pixels_of(sheet, (10, 200, 30))
    # 64 px wide: twice as large, and centered vertically in 128 px, below a margin of 24 px.
    assert found.min(0).tolist() == [24 + 32 + 10, 24 + 14]
    assert len(found) == 4


def test_the_crop_of_a_file_is_outlined(tmp_path: Path) -> None:
    Image.new("RGB", (256, 128), (0, 0, 255)).save(tmp_path / "wide.png")
    tile = whole_image(str(tmp_path / "wide.png"), Spec((16, 16), 3))
    assert tile is not None
    assert tile.crop == (0.25, 0.0, 0.75, 1.0)
    outline = pixels_of(picture_of_rows([[tile]]), RED)
    assert (outline[:, 1].min() - 24, outline[:, 1].max() + 1 - 24) == (32, 96)
    assert (np.ptp(outline[:, 0]) + 1) == 64
    Image.new("L", (40, 40)).save(tmp_path / "square.png")
    square = whole_image(str(tmp_path / "square.png"), Spec((16, 16), 3))
    assert square is not None
    assert square.crop is None, "what is kept whole needs no outline"
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    assert whole_image(str(tmp_path / "broken.png"), Spec((16, 16), 3)) is None


def test_the_cut_off_stands_between_what_lies_below_and_beyond_it() -> None:
    values = np.geomspace(1e-4, 1e-1, 1000)
    rows = [[RowTile(np.zeros((1, 8, 8), np.uint8))]] * 4
    bar = ColorBar("error", np.linspace(0, 255, 30).astype(np.uint8).repeat(3).reshape(-1, 3), ["0", "1"])
    histogram = Histogram("errors", values, 1e-2, "beyond", [1e-1, np.inf, 0.0])
    sheet = picture_of_rows(rows, items_per_line=4, histogram=histogram, color_bar=bar)
    line = np.median(pixels_of(sheet, (168, 50, 31))[:, 1])
    # Two of three decades of a logarithmic axis lie below it.
    assert (line - 24) / (sheet.width - 48) == pytest.approx(2 / 3, abs=0.02)
    plain = picture_of_rows(rows, items_per_line=4)
    assert sheet.height > plain.height


@pytest.mark.parametrize("values", [np.array([]), np.zeros(5), np.full(5, 0.25), np.array([np.nan, np.inf])])
def test_a_histogram_of_hardly_anything_is_drawn(values: np.ndarray) -> None:
    picture_of_rows([[RowTile(None)]], histogram=Histogram("errors", values, 0.0, "beyond"))


def test_names_are_cut_in_the_middle_and_made_harmless() -> None:
    face = font(13)
    for name in ("x" * 10_000, "a" * 20 + "ä한국" * 20 + ".png", "\x1b[31mred", "\udcff.png", ""):
        text = shorten(name, face, 128)
        assert face.getlength(text) <= 128
        assert "\x1b" not in text
    assert shorten("a" * 50 + ".png", face, 128).endswith(".png")
    assert shorten("short.png", face, 128) == "short.png"


def test_the_picture_of_the_data_shows_files_where_a_part_is_cut_off(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side, folder in ((48, "square"), (96, "wide")):
        (tmp_path / folder).mkdir()
        for i in range(12):
            image = rng.integers(0, 255, (48, side, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / folder / f"{i}.png")
    sizes = {}
    for folder in ("square", "wide"):
        config = data_recipe(str(tmp_path / folder), ["size=16"])
        save_overview(prepare(config), tmp_path / f"{folder}.png", config)
        with Image.open(tmp_path / f"{folder}.png") as sheet:
            sizes[folder] = sheet.size
            assert bool(len(pixels_of(sheet, RED))) == (folder == "wide")
    assert sizes["wide"][1] > sizes["square"][1]
    config = data_recipe(str(tmp_path / "wide"), ["size=16", "resize=tiles"])
    save_overview(prepare(config), tmp_path / "tiles.png", config)
    with Image.open(tmp_path / "tiles.png") as sheet:
        assert len(pixels_of(sheet, RED))
