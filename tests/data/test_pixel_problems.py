"""Problems that all images share are warned about, with a setting that helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ectype.analysis import results
from ectype.config.schema import DataConfig
from ectype.core.errors import EctypeWarning
from ectype.data.prepare import prepare

RNG = np.random.default_rng(0)
N = 40


def folder(root: Path, images: list[np.ndarray]) -> Path:
    root.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / f"{i:02d}.png")
    return root


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_dark_images_and_the_range_that_helps(resize: str, tmp_path: Path) -> None:
    drawn = [(RNG.random((24, 16)) < 0.1).astype(np.uint8) for _ in range(N)]
    root = folder(tmp_path / "a", drawn)
    keys = {"size": 8, "resize": resize}
    with pytest.warns(
        EctypeWarning, match=r"brighter than 1 of 255, so they are dark: data.value_range=\[0, 1\] shows"
    ):
        found = prepare(DataConfig(source=str(root), **keys), workers=1)
    assert [problem.overrides for problem in found.pixel_problems] == [{"data.value_range": [0, 1]}]
    bright = prepare(DataConfig(source=str(root), value_range=(0, 1), **keys), workers=1)
    assert not bright.pixel_problems
    root = folder(tmp_path / "b", [255 * each for each in drawn])
    white = prepare(DataConfig(source=str(root), **keys), workers=1)
    np.testing.assert_array_equal(np.load(bright.shards[0]), np.load(white.shards[0]))


def test_transparent_images_of_which_nothing_is_seen(tmp_path: Path) -> None:
    drawn = [RNG.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(N)]
    clear = [np.concatenate([each, np.zeros((8, 8, 1), np.uint8)], 2) for each in drawn]
    root = folder(tmp_path / "a", clear)
    with pytest.warns(EctypeWarning, match="all images are wholly transparent, .*: data.alpha=ignore shows"):
        prepare(DataConfig(source=str(root)), workers=1)
    found = prepare(DataConfig(source=str(root), alpha="ignore"), workers=1)
    assert not found.pixel_problems
    np.testing.assert_array_equal(np.load(found.shards[0]).transpose(0, 2, 3, 1), np.stack(drawn))
    mixed = folder(tmp_path / "b", [*clear[:5], *drawn])
    assert (
        "5 of them are wholly transparent, so that only the background is seen"
        in prepare(DataConfig(source=str(mixed)), workers=1).notes
    )


@pytest.mark.parametrize("noise, is_problem", [(8, True), (20, False)])
def test_images_that_are_nearly_equal(noise: int, is_problem: bool, tmp_path: Path) -> None:
    base = RNG.integers(50, 200, (16, 16), np.uint8)
    changes = [np.where(RNG.random((16, 16)) < 0.5, 0, noise).astype(np.uint8) for _ in range(100)]
    root = folder(tmp_path / "a", [base + change for change in changes])
    if is_problem:
        with pytest.warns(EctypeWarning, match="nearly equal: no pixel differs by more than 8 of 255"):
            prepare(DataConfig(source=str(root)), workers=1)
    else:
        assert not prepare(DataConfig(source=str(root)), workers=1).pixel_problems


def test_one_different_image_is_found_among_all(tmp_path: Path) -> None:
    base = RNG.integers(50, 200, (8, 8), np.uint8)
    images = [base.copy() for _ in range(100)]
    images[41][2, 3] ^= 128
    assert not prepare(DataConfig(source=str(folder(tmp_path / "a", images))), workers=1).pixel_problems


def test_they_are_serious_findings(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", [RNG.integers(0, 6, (16, 16), np.uint8) for _ in range(N)])
    with pytest.warns(EctypeWarning, match="brighter than 5 of 255"):
        (found,) = results.diagnose(str(root))
    assert found.severity == "serious"
    assert found.headline == (
        "The images have a problem: nothing in the images is brighter than 5 of 255, so they are dark: "
        "data.value_range=[0, 5] shows 5 as white"
    )
    assert {"data.value_range": [0, 5]} in [advice.overrides for advice in found.advice]


def test_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", [RNG.integers(0, 40, (8, 8, 3), np.uint8) for _ in range(80)])
    found = []
    for workers in (1, 2):
        with pytest.warns(EctypeWarning, match="brighter than 39 of 255"):
            found.append(prepare(DataConfig(source=str(root)), workers=workers, cache=tmp_path / str(workers)))
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].pixel_problems == found[1].pixel_problems
    assert found[0].notes == found[1].notes
