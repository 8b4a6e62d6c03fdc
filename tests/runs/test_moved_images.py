from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ectype
from ectype.core.errors import DataError, EctypeWarning, RunError
from ectype.runs.load import move_images
from ectype.runs.run_dir import RunDir

pytestmark = pytest.mark.trains

SMALL = {"size": 8, "latent_dim": 4, "train.batch": 16, "run.pictures": 0, "monitor.every": 320}


def photos(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    for index, pixels in enumerate(np.random.default_rng(seed).integers(0, 255, (60, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return ectype.train(
        "ae-linear", photos(tmp_path / "a", 0), SMALL, images=640, out=tmp_path / "run", progress=False
    ).directory


def test_a_run_is_given_the_new_place_of_its_images(run: RunDir, tmp_path: Path) -> None:
    before = ectype.open_run(run.path).evaluate()["psnr"].value
    run.evaluation_file.unlink()
    shutil.move(tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataError, match=r"not at '.*/a' any more: give their new place once, by `ectype evaluate"):
        ectype.open_run(run.path).evaluate()
    photos(tmp_path / "others", 1)
    with pytest.raises(RunError, match=r"are not those that '.*' was trained on"):
        move_images(run, tmp_path / "others")
    assert run.recipe.data.source == str(tmp_path / "a")
    move_images(run, tmp_path / "b")
    assert run.recipe.data.source == str(tmp_path / "b")
    assert ectype.open_run(run.path).evaluate()["psnr"].value == before


def test_training_continues_where_the_images_moved(run: RunDir, tmp_path: Path) -> None:
    run.summary_file.unlink()  # as if it had not ended
    shutil.move(tmp_path / "a", tmp_path / "b")
    again = ectype.train("ae-linear", tmp_path / "b", SMALL, images=640, out=run.path, progress=False)
    assert again.state == "finished"
    assert run.recipe.data.source == str(tmp_path / "b")


def test_other_images_are_measured_without_the_runs_own(run: RunDir, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "a")
    with pytest.warns(EctypeWarning, match="baselines are fitted to images of '.*others' instead"):
        found = ectype.open_run(run.path).evaluate(str(photos(tmp_path / "others", 1)))
    assert 0 < found.test_images < 60
    assert found.train_images + found.test_images == 60
    assert any("not at" in remark for remark in found.remarks)
