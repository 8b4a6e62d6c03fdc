"""Samples of chosen classes, with truncation, and films of walks, from a conditional GAN that was really trained."""

from __future__ import annotations

import math
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ectype
from ectype.config.schema import DataInfo
from ectype.core.errors import DataError, ModelError, RunError
from ectype.inference.sample import labels_for, sample, slerp, walk
from ectype.runs.load import ship_checkpoint
from ectype.runs.run_dir import RunDir
from ectype.training.run import train
from tests.conformance.small import small

pytestmark = pytest.mark.trains

FAST = {"train.images": 640, "monitor.every": 320, "run.pictures": 0, "run.log_every": 1000, "monitor.images": 100}
INFO = DataInfo(1, (8, 8), classes=("cat", "dog", "3"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(small("cgan-mlp", **FAST), out=tmp_path_factory.mktemp("sampling") / "cgan")


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def test_labels_are_names_or_numbers() -> None:
    assert labels_for("dog", INFO, 3).tolist() == [1, 1, 1]
    assert labels_for("cat, dog", INFO, 4).tolist() == [0, 0, 1, 1]
    assert labels_for("all", INFO, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert labels_for("3", INFO, 2).tolist() == [2, 2]  # a name goes before a number
    assert labels_for("0", INFO, 1).tolist() == [0]
    with pytest.raises(ModelError, match=r"no class 'dgo'; .*dog"):
        labels_for("dgo", INFO, 1)
    with pytest.raises(ModelError, match=r"2 images are too few for 3 classes \(--label all\): .* -n 3"):
        labels_for("all", INFO, 2)
    with pytest.raises(ModelError, match="no class '7'"):
        labels_for("7", INFO, 1)


def test_classes_that_only_held_out_images_have_are_refused() -> None:
    info = INFO._replace(frequencies=(0.5, 0.0, 0.5))
    assert labels_for("all", info, 4).tolist() == [0, 0, 2, 2]
    for text in ("dog", "cat, dog", "1"):
        with pytest.raises(ModelError, match="class 'dog' has no training images"):
            labels_for(text, info, 2)


def test_class_names_are_equal_in_both_unicode_forms() -> None:
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    for stored in forms:
        info = INFO._replace(classes=("tea", stored))
        assert [labels_for(typed, info, 1).item() for typed in forms] == [1, 1]


def test_the_same_seed_draws_the_same_and_the_label_another(run: RunDir, tmp_path: Path) -> None:
    for name, keys in {
        "one": {"label": "7"},
        "again": {"label": "7"},
        "other": {"label": "1"},
        "cut": {"label": "7", "truncation": 0.1},
        "free": {},
    }.items():
        said = sample(run.path, tmp_path / f"{name}.png", n=9, seed=4, device="cpu", **keys).summary
        assert str(tmp_path / f"{name}.png") in said
    one = pixels(tmp_path / "one.png")
    assert np.array_equal(one, pixels(tmp_path / "again.png"))
    for name in ("other", "cut", "free"):
        assert not np.array_equal(one, pixels(tmp_path / f"{name}.png"))


def test_truncated_samples_are_less_varied(run: RunDir) -> None:
    model = ectype.load(run.path, device="cpu")
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(64, dtype=torch.int64)
    with torch.no_grad():
        spread = [
            float(
                model.render(model.sample_latents(64, truncation=cut, generator=generator), label=label).std(0).mean()
            )
            for cut in (None, 0.5, 0.05)
        ]
    assert spread[0] > spread[1] > spread[2]


def test_a_flow_belongs_to_the_weights_that_it_learnt_the_codes_of(tmp_path: Path) -> None:
    coder = train(small("vae-fast", **FAST, **{"run.keep_last": 3}), out=tmp_path / "vae")
    trained: list[list[object]] = []

    def short(name: str, run: Path, words: list[str], **given: object) -> RunDir:
        trained.append([*words, given["out"]])
        return RunDir(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ectype.inference.sample.train", short)
        for step in (20, 20, 10):
            ship_checkpoint(coder, step)
            sample(coder.path, tmp_path / "s.png", n=4, density="flow", device="cpu")
    assert trained[0] == trained[1] != trained[2]
    assert trained[0][0] == "run.device=cpu"


def test_all_classes_make_one_row_each(run: RunDir, tmp_path: Path) -> None:
    sample(run.path, tmp_path / "all.png", n=30, label="all", device="cpu")
    rows, columns = pixels(tmp_path / "all.png").shape[:2]
    assert rows > 3 * columns


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".mp4"])
def test_a_walk_is_a_film_that_ends_where_it_began(run: RunDir, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"walk{suffix}"
    said = walk(run.path, out, frames=30, n=4, label="3", device="cpu").summary
    assert "4 walks of 30 frames" in said
    if suffix == ".mp4":
        av = pytest.importorskip("av")
        with av.open(str(out)) as film:
            shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    else:
        with Image.open(out) as film:
            shown = []
            for place in range(film.n_frames):
                film.seek(place)
                shown.append(np.asarray(film.convert("RGB")))
    assert suffix != ".mp4" or len(shown) == 30  # where frames are equal, the others keep one
    step = np.abs(np.diff(np.stack(shown).astype(float), axis=0)).mean((1, 2, 3))
    back = np.abs(shown[-1].astype(float) - shown[0]).mean()
    assert back <= 3 * step.max() + 2


def test_the_way_over_the_sphere_keeps_its_length() -> None:
    one, two = torch.randn(2, 6, 50, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(slerp(one, two, 0.0), one, atol=1e-5)
    assert torch.allclose(slerp(one, two, 1.0), two, atol=1e-5)
    middle = slerp(one, two, 0.5).norm(dim=1)
    assert (middle > 0.85 * torch.minimum(one.norm(dim=1), two.norm(dim=1))).all()
    assert ((one + two) / 2).norm(dim=1).max() < middle.min() * 1.2
    assert torch.allclose(slerp(one, one, 0.3), one, atol=1e-5)
    assert math.isfinite(float(slerp(torch.zeros(1, 3), torch.ones(1, 3), 0.5).sum()))


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none, folder, file = tmp_path / "no run", tmp_path / "d.png", tmp_path / "file"
    folder.mkdir()
    file.write_text("mine")
    with pytest.raises(DataError, match=r"x\.psd' is not a supported image format"):
        sample(none, tmp_path / "x.psd")
    with pytest.raises(DataError, match=r"cannot write '.*d\.png' \(it is a folder\)"):
        sample(none, folder)
    with pytest.raises(DataError, match=r"'.*file' is a file\): choose another path"):
        sample(none, file / "x.png")
    with pytest.raises(DataError, match=r"w\.mov' .* use a name that ends in \.mp4, \.webp, \.gif or \.png"):
        walk(none, tmp_path / "w.mov", frames=2000)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModelError, match=r"w\.mp4' needs av: pip install 'ectype\[video\]'"):
        walk(none, tmp_path / "w.mp4", frames=2000)
    with pytest.raises(RunError, match="no run at"):
        sample(none, tmp_path / "new" / "x.PNG")
    assert sorted(tmp_path.iterdir()) == [folder, file], "nothing is made before there is something to write"


def test_what_cannot_be_done_says_what_can(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="leave --density out"):
        sample(run.path, tmp_path / "x.png", density="gmm", device="cpu")
    plain = train(small("gan-mlp", **FAST), out=tmp_path / "plain")
    with pytest.raises(ModelError, match="has no classes: leave --label out"):
        sample(plain.path, tmp_path / "x.png", label="7", device="cpu")
