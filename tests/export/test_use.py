"""What an exported model carries for those who use it: preprocessing, scores with thresholds, samples from noise."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

import ectype
from ectype.core.table import Table
from ectype.data.decode import decode
from ectype.export import onnx, standalone_apply
from ectype.export.commands import export
from ectype.export.graphs import MixtureSampler, graphs_of
from ectype.export.preprocessing import preprocessing_of
from ectype.inference.image_io import decode_spec
from ectype.models.densities import fit_density
from ectype.runs.run_dir import RunDir
from tests.conformance.small import small
from tests.export.test_export import INFO, alone, images, made, session

pytestmark = pytest.mark.trains

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def _shapes_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compare a length with a number is to export it as that number."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    fast = {"train.images": 640, "monitor.every": 320, "run.pictures": 0, "monitor.images": 100}
    recipe = small("ae-linear", **fast, **{"data.resize": "pad", "data.background": "#102030"})
    return RunDir(ectype.train(recipe, out=tmp_path_factory.mktemp("use") / "run", progress=False).path)


@pytest.fixture(scope="module")
def exported(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        place = tmp_path_factory.mktemp("exported") / "out"
        lines = export(run.path, "onnx", place)
    assert any("held-out images have an error above" in line for line in lines)
    assert not any(".unfinished" in line for line in lines)
    assert all(Path(line.split(": ")[0]).is_file() for line in lines if ".onnx:" in line)
    return place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (6, 5, 4), np.uint8), "RGBA").resize(
        (50, 61), Image.Resampling.BICUBIC
    )
    smooth.save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth.convert("RGB").save(tmp_path / "turned.jpg", exif=exif, quality=95)
    smooth.convert("L").resize((16, 16)).save(tmp_path / "gray.png")
    return tmp_path


def test_every_file_says_how_images_are_prepared(run: RunDir, exported: Path, tmp_path: Path) -> None:
    said = json.loads((exported / "export.json").read_text())["preprocessing"]
    assert (said["size"], said["channels"], said["range"], said["resize"]) == ([16, 16], 1, [0, 1], "pad")
    assert said["background"] == [16, 32, 48]
    assert said["classes"] == [str(k) for k in range(10)]
    for file in exported.glob("*.onnx"):
        about = session(file).get_modelmeta().custom_metadata_map
        assert json.loads(about["ectype.preprocessing"]) == said
        assert {each["share"] for each in json.loads(about["ectype.score"])["thresholds"]} == {0.05, 0.01}
    export(run.path, "safetensors", tmp_path / "folder")
    assert json.loads((tmp_path / "folder/preprocessing.json").read_text()) == said
    assert "RGB(16, 32, 48)" in (tmp_path / "folder/README.md").read_text()
    ectype.load(tmp_path / "folder", device="cpu")


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_script_prepares_images_as_training_does(photos: Path, run: RunDir, resize: str, channels: int) -> None:
    recipe = run.recipe.override({"data.resize": resize, "data.channels": channels})
    info = INFO._replace(channels=channels, size=(16, 24))
    rules = preprocessing_of(info, recipe.data)
    spec = decode_spec(info, recipe)
    for file in sorted(photos.iterdir()):
        expected = decode(str(file), spec).pixels
        found = standalone_apply.prepare(file, rules)
        assert found.shape == (1, channels, 16, 24)
        difference = np.abs(found[0] * 255 - expected)
        # JPEG is decoded at a reduced size in training.
        assert difference.mean() < 2 if file.suffix == ".jpg" else difference.max() <= 1


def test_scores_are_those_of_the_command(run: RunDir, exported: Path, photos: Path) -> None:
    files = [photos / "gray.png", photos / "clear.png"]
    table: Table = ectype.score(run.path, [str(file) for file in files], device="cpu")
    rows = list(csv.DictReader(io.StringIO(alone(exported / "apply.py", "score", *files))))
    for row in table:
        found = next(each for each in rows if each["image"].endswith(str(row["image"])))
        assert float(found["error"]) == pytest.approx(row["error"], rel=1e-3)
        assert float(found["peak"]) == pytest.approx(row["peak"], rel=1e-3)
        assert float(found["share"]) == pytest.approx(row["error_share"], abs=0.011)
    said = json.loads((exported / "export.json").read_text())["score"]
    for key in ("error", "peak"):
        reference = np.array(said["reference"][key])
        for each in said["thresholds"]:
            assert (reference > each[key]).mean() <= each["share"]


def test_graphs_are_applied_to_files(run: RunDir, exported: Path, photos: Path, tmp_path: Path) -> None:
    files = [photos / "gray.png", photos / "clear.png"]
    assert "2 outputs" in alone(exported / "apply.py", "encode", *files, "--out", tmp_path / "codes.npz")
    with np.load(tmp_path / "codes.npz") as found:
        model = ectype.load(run.path, device="cpu")
        pixels = torch.tensor(standalone_apply.prepare(files[0], preprocessing_of(model.info, run.recipe.data)))
        np.testing.assert_allclose(found["code"][0], model.encode(pixels)[0].detach(), atol=1e-4)
    alone(exported / "apply.py", "reconstruct", *files, "--out", tmp_path / "pictures")
    with Image.open(tmp_path / "pictures/gray.png") as picture:
        assert (picture.mode, picture.size) == ("L", (16, 16))


def test_samples_from_noise_are_of_the_density(tmp_path: Path) -> None:
    model = made("vae-mlp", **{"model.net.hidden": [16], "latent_dim": 3})
    codes = torch.randn(400, 3) @ torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [0, 0, 0.1]]) + torch.tensor([1.0, 2, 3])
    model.densities["gmm"], model.density = fit_density("gmm", codes), "gmm"
    graph = next(graph for graph in graphs_of(model, images()) if graph.name == "sample")
    sampler = graph.module
    assert isinstance(sampler, MixtureSampler)
    found = onnx.export(graph, tmp_path / "sample.onnx", {})
    assert found.difference < 1e-4
    assert set(found.inputs) == {"noise", "component"}
    weights = model.densities["gmm"].state_dict()["weights"]
    component = torch.multinomial(weights, 20_000, replacement=True)
    seen = []
    sampler.model = type("Shows", (torch.nn.Module,), {"render": lambda self, latent: seen.append(latent) or latent})()
    sampler(torch.randn(20_000, sampler.noise_length), component)
    np.testing.assert_allclose(seen[0].mean(0), codes.mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(seen[0].T), np.cov(codes.T), atol=0.25)
    assert "score" not in {each.name for each in graphs_of(model, images())}
