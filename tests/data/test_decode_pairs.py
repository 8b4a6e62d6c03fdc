"""Targets lie as their images do, whichever of the two files carries an EXIF orientation; alpha channels are masks."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ectype.analysis.cost import assumed_info
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataConfig
from ectype.core.errors import DataError, EctypeWarning
from ectype.data.dataset import open_store
from ectype.data.image_file import transpose_method
from ectype.data.prepare import prepare
from ectype.data.prepared import Prepared
from ectype.inference.image_io import decode_spec

RNG = np.random.default_rng(0)
ORIENTATION = 0x0112


def config(root: Path, **keys) -> DataConfig:
    return DataConfig(source=str(root), **{"pairs": "masks", "size": "own", "split": {"val": 0, "test": 0}, **keys})


def stored(found: Prepared) -> np.ndarray:
    return np.concatenate([np.load(shard) for shard in found.shards])


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[ORIENTATION] = orientation
    return made


def draw(height: int, width: int) -> np.ndarray:
    """A black image with a white rectangle off its center."""
    image = np.zeros((height, width), np.uint8)
    top, left = RNG.integers(1, height // 3), RNG.integers(1, width // 3)
    image[top : top + height // 4, left : left + width // 4] = 255
    return image


def write_pairs(
    root: Path, orientations: list[int], size: tuple[int, int], *, mask_is_stored: bool, kind: str = "png"
) -> Path:
    """Write images whose mask is where they are white: as their pixels are stored, or as they are shown."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i, orientation in enumerate(orientations):
        image = Image.fromarray(draw(*size))
        image.convert("RGB").save(root / "images" / f"{i}.{kind}", exif=exif(orientation))
        method = transpose_method(orientation)
        shown = image if method is None else image.transpose(method)
        (image if mask_is_stored else shown).save(root / "masks" / f"{i}.png")
    return root


def check_pairs(found: Prepared) -> None:
    """Check that the mask of every image is where the image is white."""
    pixels = stored(found)
    assert len(pixels) == len(found)
    np.testing.assert_array_equal(pixels[:, -1], (pixels[:, 0] > 127).astype(np.uint8))


@pytest.mark.parametrize("mask_is_stored", [True, False])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sizes_tell_how_masks_lie(mask_is_stored: bool, kind: str, tmp_path: Path) -> None:
    root = write_pairs(tmp_path, [5, 6, 7, 8], (16, 24), mask_is_stored=mask_is_stored, kind=kind)
    found = prepare(config(root), workers=1)
    assert found.info.size == (24, 16)
    check_pairs(found)
    how = "as the pixels are stored" if mask_is_stored else "as the images are shown"
    assert any(f"targets are read 4 {how} (by their size)" in note for note in found.notes)


@pytest.mark.parametrize("mask_is_stored", [True, False])
@pytest.mark.parametrize("size, orientations", [((16, 24), [1, 2, 3, 4]), ((16, 16), [1, 3, 6, 8])])
def test_what_sizes_do_not_tell_has_to_be_said(
    mask_is_stored: bool, size: tuple[int, int], orientations: list[int], tmp_path: Path
) -> None:
    root = write_pairs(tmp_path, orientations, size, mask_is_stored=mask_is_stored)
    with pytest.raises(DataError, match=r"3 images have an EXIF orientation and their targets have none, .*: set data"):
        prepare(config(root), workers=1)
    rule = "stored" if mask_is_stored else "upright"
    check_pairs(prepare(config(root, target_orientation=rule), workers=1))


@pytest.mark.parametrize("mask_is_stored", [True, False])
def test_others_whose_sizes_tell_are_followed_with_a_warning(mask_is_stored: bool, tmp_path: Path) -> None:
    root = write_pairs(tmp_path, [1, 3, 3, 6, 1], (16, 24), mask_is_stored=mask_is_stored)
    other = "upright" if mask_is_stored else "stored"
    with pytest.warns(EctypeWarning, match=rf"2 .* \(like the others\); data.target_orientation={other} changes .* 2"):
        found = prepare(config(root, size=24, resize="pad", background="black"), workers=1)
    pixels = stored(found)
    inside = pixels[:, -1] != 255
    assert inside.mean() > 0.6
    assert ((pixels[:, 0] > 127) == pixels[:, -1])[inside].all()


def test_masks_with_an_orientation_of_their_own_need_no_help(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, [3, 3, 1, 1], (16, 24), mask_is_stored=True)
    for i in range(2):
        with Image.open(root / "masks" / f"{i}.png") as mask:
            mask.save(root / "masks" / f"{i}.png", exif=exif(3))
    found = prepare(config(root), workers=1)
    check_pairs(found)
    assert not any("EXIF" in note for note in found.notes)


@pytest.mark.parametrize("mask_is_stored", [True, False])
def test_tiles_and_image_targets_follow_too(mask_is_stored: bool, tmp_path: Path) -> None:
    root = write_pairs(tmp_path, [6, 8], (32, 48), mask_is_stored=mask_is_stored)
    found = prepare(config(root, size=16, resize="tiles"), workers=1)
    assert len(found) == 2 * 6
    check_pairs(found)
    found = prepare(config(root, pairs="images", channels=1), workers=1)
    pixels = stored(found)
    np.testing.assert_array_equal(pixels[:, 0], pixels[:, 1])
    rule = "stored" if mask_is_stored else "upright"
    turned = write_pairs(tmp_path / "square", [3, 6], (16, 16), mask_is_stored=mask_is_stored)
    pixels = stored(prepare(config(turned, pairs="images", target_orientation=rule), workers=1))
    np.testing.assert_array_equal(pixels[:, 0], pixels[:, 1])


def with_alpha(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (16, 24, 3), np.uint8)
    return colors, np.kron(rng.integers(0, 2, (4, 6), np.uint8), np.ones((4, 4), np.uint8))


@pytest.mark.parametrize("as_zip", [False, True])
def test_alpha_channels_are_masks_if_asked_for(as_zip: bool, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    drawn = [with_alpha(i) for i in range(6)]
    for i, (colors, mask) in enumerate(drawn):
        Image.fromarray(np.dstack([colors, 255 * mask])).save(root / f"{i}.png", exif=exif(3 if i % 2 else 1))
    source = root
    if as_zip:
        source = tmp_path / "images.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for file in sorted(root.iterdir()):
                archive.write(file, file.name)
    with pytest.raises(DataError, match=r"set data\.pairs=alpha, which takes the images' alpha channel as their mask"):
        prepare(config(source), workers=1)
    asked = config(source, pairs="alpha", class_names=("out", "in"))
    found = prepare(asked, workers=1)
    assert found.info.target is not None
    assert found.info.target.classes == ("out", "in")
    turned = [(c[::-1, ::-1], m[::-1, ::-1]) if i % 2 else (c, m) for i, (c, m) in enumerate(drawn)]
    pixels = stored(found)
    np.testing.assert_array_equal(pixels[:, :3].transpose(0, 2, 3, 1), np.stack([colors for colors, _ in turned]))
    np.testing.assert_array_equal(pixels[:, 3], np.stack([mask for _, mask in turned]))
    assert "masks: alpha channels, cut at 128 into out and in" in found.notes
    assert len(open_store(found, asked).split("train")) == 6
    tiles = prepare(config(source, pairs="alpha", size=8, resize="tiles"), workers=1)
    pixels = stored(tiles)
    np.testing.assert_array_equal(pixels[:6, 3].reshape(2, 3, 8, 8).swapaxes(1, 2).reshape(16, 24), turned[0][1])


def test_opaque_images_are_not_offered_their_alpha(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(with_alpha(i)[0]).convert("RGBA").save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="no folders whose names mean images and targets") as caught:
        prepare(config(tmp_path), workers=1)
    assert "alpha" not in str(caught.value)


def test_inputs_of_a_trained_model_are_decoded_as_its_training_images() -> None:
    recipe = load_recipe("unet-segment", ["data.pairs=alpha", "data.value_range=[0, 4095]", "data.max_pixels=1000"])
    info = assumed_info(recipe)
    assert info.target is not None
    assert len(info.target.classes) == 2
    spec = decode_spec(info, recipe)
    assert spec.ignore_alpha
    assert (spec.load.value_range, spec.load.max_pixels) == ((0, 4095), 1000)
