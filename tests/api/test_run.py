from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch

import ectype
from ectype.api.analysis import runs
from ectype.core.errors import ModelError, RecipeError, RunError

pytestmark = pytest.mark.trains

SMALL = {"size": 8, "latent_dim": 6, "run.pictures": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ectype.Run:
    place = tmp_path_factory.mktemp("api") / "run"
    return ectype.train("ae-linear", "digits", SMALL, images=3000, seed=4, out=place, progress=False)


def test_options_are_arguments(run: ectype.Run) -> None:
    assert run.state == "finished"
    assert (run.recipe.train.images, run.recipe.train.seed) == (3000, 4)
    with pytest.raises(RecipeError, match=r"seed=1 and the override train\.seed=2: leave one out"):
        ectype.train("ae-linear", "digits", {"train.seed": 2}, seed=1)
    with pytest.raises(RecipeError, match="'latent_dim' is not an override: write key=value"):
        ectype.train("ae-linear", "digits", ["latent_dim"])


def test_a_run_has_model_images_and_metrics(run: ectype.Run) -> None:
    images = run.images("test", 5)
    assert isinstance(images, ectype.ImageBatch)
    assert images.shape == (5, 1, 8, 8)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert run.images("val").shape[0] > 5
    assert run.model is run.model
    assert set(run.metrics["kind"]) == {"train", "check"}
    assert len(run.labels("test", 5) or []) == 5
    assert ectype.open_run(run.path).state == "finished"
    with pytest.raises(RunError, match="no run"):
        ectype.open_run(run.path / "nothing")


def test_figures_become_tables(run: ectype.Run, tmp_path: Path) -> None:
    found = run.evaluate()
    assert found is run.evaluate()
    rows = list(csv.DictReader(io.StringIO(found.to_csv(tmp_path / "figures.csv"))))
    assert (tmp_path / "figures.csv").read_text() == found.to_csv()
    psnr = next(row for row in rows if row["key"] == "psnr")
    assert float(psnr["value"]) == pytest.approx(found["psnr"].value)
    frame = found.to_pandas()
    assert list(frame["key"]) == [figure.key for figure in found.figures]
    latex = found.to_latex()
    assert latex.startswith("\\begin{tabular}{llll}")
    assert latex.count("\\\\\n") == len(found.figures) + 1
    assert "<table>" in found._repr_html_()
    again = ectype.evaluate(run.path)
    assert again["psnr"].value == found["psnr"].value


def test_findings_and_report(run: ectype.Run, tmp_path: Path) -> None:
    found = run.findings()
    assert [finding.name for finding in ectype.diagnose(run.path)] == [finding.name for finding in found]
    page = ectype.report(run, tmp_path / "page.html")
    assert page.read_text().startswith("<!doctype html>".upper()) or "<html" in page.read_text()[:200]


def test_it_encodes_decodes_and_reconstructs_tensors(run: ectype.Run) -> None:
    images = run.images("test", 3)
    codes = ectype.encode(run, images)
    assert isinstance(codes, torch.Tensor)
    assert codes.shape == (3, 6)
    decoded, reconstructed = run.decode(codes), run.reconstruct(images)
    assert isinstance(decoded, ectype.ImageBatch)
    assert isinstance(reconstructed, ectype.ImageBatch)
    torch.testing.assert_close(decoded.plain(), reconstructed.plain())
    assert run.sample(4, density="gmm").shape == (4, 1, 8, 8)
    with pytest.raises(ModelError, match="cannot translate"):
        run.translate(images)


def test_scores_and_neighbors_are_tables(run: ectype.Run, tmp_path: Path) -> None:
    run.images("test", 4).save(tmp_path / "grid.png")
    from PIL import Image

    for i, image in enumerate(run.images("test", 3).to_uint8()):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    files = [tmp_path / f"{i}.png" for i in range(3)]
    scores = run.score(files)
    assert set(scores["image"]) == {"0.png", "1.png", "2.png"}
    assert all(0 < share <= 1 for share in scores["error_share"])
    near = ectype.nearest(run, files, "digits", k=2)
    assert near["rank"] == [1, 2] * 3
    assert 0 < near["distance"][0] <= near["distance"][1]  # the image itself is left out
    assert not (tmp_path / "scores.csv").exists()


def test_it_shows_itself_in_a_notebook(run: ectype.Run) -> None:
    page = run._repr_html_()
    assert "ae-linear" in page
    assert "data:image/png;base64," in page
    assert "3 grey images, 8×8" in run.images("test", 3)._repr_html_()
    assert repr(run).startswith("Run('")
    table = ectype.Table([{"a & b": 1.23456, "c": None}])
    assert "1.235" in table._repr_html_()
    assert "a \\& b" in table.to_latex()
    with pytest.raises(RecipeError, match="no column 'd'"):
        _ = table["d"]


def test_presets_and_runs_are_tables(run: ectype.Run) -> None:
    assert "vae" in ectype.presets()["name"]
    assert all(row["summary"] for row in ectype.presets())
    (row,) = runs(run.path.parent)
    assert (row["path"], row["state"]) == (str(run.path), "finished")


def test_arrays_are_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((120, 8, 8), np.float32)
    run = ectype.train("ae-linear", images, SMALL, images=600, out=tmp_path / "run", progress=False)
    assert run.images("train").shape[1:] == (1, 8, 8)
    assert run.evaluate()["psnr"].n


def test_progress_is_printed_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ectype.train("ae-linear", "digits", SMALL, images=640, out=tmp_path / "run")
    assert "ae-linear:" in capsys.readouterr().out
    ectype.train("ae-linear", "digits", SMALL, images=640, out=tmp_path / "quiet", progress=False)
    assert capsys.readouterr().out == ""
