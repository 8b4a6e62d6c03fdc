"""The finding about images, on sets of images that have each problem."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ectype.analysis import results
from ectype.analysis.diagnose.check import check_data
from ectype.config.recipe import load_recipe
from ectype.runs.load import open_data


def picture(seed: int, side: int = 24) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC))


def folder(root: Path, n: int = 120, side: int = 24) -> Path:
    root.mkdir()
    for i in range(n):
        Image.fromarray(picture(i, side)).save(root / f"{i:04d}.png")
    return root


def test_what_a_preset_does_already_is_no_advice(tmp_path: Path) -> None:
    prepared, _ = open_data(load_recipe("ae", {"data.source": str(folder(tmp_path / "few"))}).data)
    for name, is_advised in (("ae", False), ("vae-mlp", True)):
        (found,) = check_data(prepared, load_recipe(name))
        assert any("mirrored" in advice.title for advice in found.advice) == is_advised


def test_good_images_are_left_alone(tmp_path: Path) -> None:
    assert results.diagnose(str(folder(tmp_path / "many", 700))) == []


def test_bad_images_are_told_by_kind(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    for i in range(40):  # the same scenes, saved again with loss
        Image.fromarray(picture(i)).save(root / f"again-{i:04d}.jpg", quality=92)
    Image.fromarray(picture(0)).save(root / "copy-1.png")
    Image.fromarray(picture(0)).save(root / "copy-2.png")
    for i in range(4):
        (root / f"broken-{i}.png").write_bytes(b"nothing")
    (found,) = results.diagnose(str(root), ["split.duplicates=ignore"])
    assert found.severity == "serious"
    told = {evidence.name: evidence.value for evidence in found.evidence}
    assert told["images rejected"] == 4
    assert told["exact copies"] == 2
    assert told["held-out images with a near-duplicate in training"] >= 5
    assert told["training images"] < 500
    assert len(found.pictures["held out"]) == len(found.pictures["nearest in training"])
    near = (found.pictures["held out"] - found.pictures["nearest in training"]).abs().mean((1, 2, 3))
    assert float(near.max()) < 0.05


def test_what_differs_in_colour_alone_is_no_kin(tmp_path: Path) -> None:
    """A red square is no green one, though they are as bright."""
    root = folder(tmp_path / "images", 60)
    for i in range(120):
        colour = np.random.default_rng(i).permutation([200, 60, 60] if i % 2 else [40, 140, 140])
        image = np.full((24, 24, 3), 255, np.uint8)
        image[4:20, 4 + i // 30 : 20] = colour
        Image.fromarray(image).save(root / f"square-{i}-{'-'.join(map(str, colour))}.png")
    (found,) = results.diagnose(str(root), ["split.duplicates=ignore"])
    pairs = zip(found.pictures["held out"], found.pictures["nearest in training"], strict=True)
    assert all(float((one - other).abs().max()) < 0.1 for one, other in pairs)


@pytest.mark.parametrize(
    "words, says, key",
    [
        (["size=64"], "smaller than the target size", "data.size"),
        (["size=[24, 6]"], "lose more than 40% of their area", "data.resize"),
        (["size=[24, 6]", "resize=squash"], "stretched to another shape", "data.resize"),
    ],
)
def test_what_preparing_does_to_images_is_told(tmp_path: Path, words: list[str], says: str, key: str) -> None:
    (found,) = results.diagnose(str(folder(tmp_path / "images", 60)), words)
    assert says in found.message
    assert any(key in advice.overrides for advice in found.advice)


def test_grey_among_colour_is_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", 60)
    for i in range(20):
        Image.fromarray(picture(1000 + i).mean(2).astype(np.uint8)).save(root / f"grey-{i}.png")
    (found,) = results.diagnose(str(root))
    assert "grayscale, though others are in color" in found.message
