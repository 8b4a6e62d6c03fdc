"""Graphs for other programs: what they are, whether they do what the model does, and whether they need us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo, Target
from ectype.core import optional
from ectype.core.errors import ModelError
from ectype.core.images import to_uint8
from ectype.data.preview import contact_sheet
from ectype.export import export as exporting
from ectype.export import graphs, onnx
from ectype.export.export import export
from ectype.export.graphs import graphs_of, sampler_of
from ectype.models.base import Model
from ectype.models.densities import fit_density
from ectype.models.latent_space import LatentSpaceModel

pytestmark = pytest.mark.trains

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

INFO = DataInfo(1, (16, 16), ("one", "two", "three"), (0.5, 0.25, 0.25))
MASKS = INFO._replace(target=Target("masks", 1, ("no", "yes"), (0.5, 0.5), ((0, 0, 0), (255, 0, 0))))


@pytest.fixture(autouse=True)
def _shapes_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compare a length with a number is to export it as that number."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def made(preset: str, info: DataInfo = INFO, **changes: object) -> Model:
    torch.manual_seed(0)
    model = load_recipe(preset, changes).model.build(info).eval()
    assert isinstance(model, Model)
    # As after training: nothing is silent, and running statistics are of something.
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return model


def images(info: DataInfo = INFO, n: int = 5) -> Tensor:
    return torch.rand(n, *info.shape, generator=torch.Generator().manual_seed(1))


def session(file: Path) -> onnx.Any:
    return runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


SMALL = {"model.net.width": 8, "model.net.max_width": 16}
WHAT = {
    "mlp": ("vae-mlp", INFO, {"model.net.hidden": [16]}, ["encode", "decode", "reconstruct"]),
    "map": ("ae", INFO, {**SMALL, "latent": [2, 4, 4]}, ["encode", "decode", "reconstruct"]),
    "quantised": ("vqvae", INFO, SMALL, ["encode", "decode", "reconstruct", "sample"]),
    "gan": ("gan-mlp", INFO, {}, ["sample"]),
    "conditional": ("cgan-mlp", INFO, {}, ["sample"]),
    "masks": ("unet-segment", MASKS, {"model.net.width": 4, "model.net.levels": 2}, ["translate"]),
}


@pytest.mark.parametrize("what", WHAT)
def test_graphs_follow_from_what_a_model_can_do(what: str) -> None:
    preset, info, changes, names = WHAT[what]
    assert sorted(graph.name for graph in graphs_of(made(preset, info, **changes), images(info))) == sorted(names)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["map", "conditional", "masks"])
def test_exported_graphs_do_what_the_model_does(what: str, tmp_path: Path) -> None:
    preset, info, changes, names = WHAT[what]
    model = made(preset, info, **changes)
    lines = export(model, "onnx", tmp_path, images(info), preset=preset)
    said = json.loads((tmp_path / "export.json").read_text())
    assert set(said["graphs"]) == set(names)
    assert said["images"]["classes"] == ["one", "two", "three"]
    assert all("of the model on 5 held-out images" in line for line in lines[: len(names)])
    for graph in graphs_of(model, images(info)):
        opened = session(tmp_path / f"{graph.name}.onnx")
        about = opened.get_modelmeta().custom_metadata_map
        assert about["ectype.input"] == "float32 NCHW in [0, 1]"
        assert about["ectype.size"] == "16×16"
        assert json.loads(about["ectype.classes"]) == ["one", "two", "three"]
        assert int(about["ectype.opset"]) == said["graphs"][graph.name]["opset"] >= 18
        assert [given.shape[0] for given in opened.get_inputs()] == ["batch"] * len(graph.inputs)
        for n in (1, 2, 7):  # the example had five
            inputs = {name: torch.cat([value, value])[:n] for name, value in graph.inputs.items()}
            with torch.no_grad():
                wanted = graph.module(*inputs.values()).numpy()
            found = opened.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
            np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_height_and_width_are_free_where_the_network_allows_it(tmp_path: Path) -> None:
    preset, info, changes, _ = WHAT["masks"]
    model = made(preset, info, **changes)
    export(model, "onnx", tmp_path / "masks", images(info), preset=preset)
    said = json.loads((tmp_path / "masks" / "export.json").read_text())["graphs"]["translate"]
    assert said["multiple"] == 4  # two halvings
    assert said["inputs"] == {"image": ["batch", 1, "height", "width"]}
    larger = images(info._replace(size=(28, 44)), 1)
    found = session(tmp_path / "masks" / "translate.onnx").run(None, {"image": larger.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, model.translate(larger).numpy(), atol=1e-5)
    vector = made("ae", **{**SMALL, "latent_dim": 6})
    graph = next(graph for graph in graphs_of(vector, images()) if graph.name == "encode")
    fixed = onnx.export(graph, tmp_path / "encode.onnx", {})
    assert fixed.multiple is None
    assert fixed.inputs == {"image": ["batch", 1, 16, 16]}


@pytest.mark.slow
def test_sizes_that_a_network_treats_in_a_way_of_its_own_are_not_lost(tmp_path: Path) -> None:
    """At 15 pixels a decoder of maps leaves a row out, which the graph for any size would not do."""
    info = INFO._replace(size=(15, 15))
    model = made("ae", info, **SMALL, latent=[2, 4, 4])
    graph = next(graph for graph in graphs_of(model, images(info)) if graph.name == "reconstruct")
    found = onnx.export(graph, tmp_path / "reconstruct.onnx", {})
    assert found.multiple is None
    assert found.difference < 1e-5


class Stubborn(nn.Module):
    """Does something else when it is exported."""

    def forward(self, image: Tensor) -> Tensor:
        return image + 1 if torch.compiler.is_exporting() else image


def test_a_graph_that_differs_is_refused(tmp_path: Path) -> None:
    graph = graphs.Graph("odd", Stubborn(), {"image": images()}, {"image": {0: "batch"}}, "made")
    with pytest.raises(ModelError, match=r"'odd' differs from the model by 1\.0e\+00 .* at most 0\.001 is allowed"):
        onnx.export(graph, tmp_path / "odd.onnx", {})
    assert not list(tmp_path.iterdir())


class Refining(Model):
    """A sampler of many steps, which names its own graph."""

    def __init__(self) -> None:
        super().__init__(INFO)
        self.step = nn.Conv2d(1, 1, 3, padding=1)

    def export_graphs(self) -> dict[str, tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]]:
        axes = {"noisy": {0: "batch", 2: "height", 3: "width"}}
        return {"step": (self.step, {"noisy": torch.rand(2, 1, 16, 16)}, axes)}


def test_a_model_may_name_its_own_graphs(tmp_path: Path) -> None:
    export(Refining().eval(), "onnx", tmp_path, images(), preset="own")
    opened = session(tmp_path / "step.onnx")
    assert opened.get_inputs()[0].shape == ["batch", 1, "height", "width"]
    assert opened.run(None, {"noisy": np.ones((3, 1, 8, 24), np.float32)})[0].shape == (3, 1, 8, 24)
    assert json.loads((tmp_path / "export.json").read_text())["sampler"] is None


@pytest.mark.slow
def test_a_flow_of_codes_hands_on_its_samples_and_its_step(tmp_path: Path) -> None:
    coder = load_recipe("vae-mlp", {"model.net.hidden": [16], "latent_dim": 6}).model
    changes = {"model.coder.model": coder.model_dump(mode="json", serialize_as_any=True), "model.inner.steps": 3}
    changes |= {"model.inner.net": {"kind": "mlp", "width": 16, "depth": 1}}
    model = made("flow", **changes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    export(model, "onnx", tmp_path, images(), preset="flow")
    assert {file.stem for file in tmp_path.glob("*.onnx")} == {"encode", "decode", "reconstruct", "sample", "velocity"}
    assert isinstance(model, LatentSpaceModel)
    latent, label = (model.sample_latents(3, generator=torch.Generator().manual_seed(4)), torch.tensor([0, 2, 1]))
    given = {"latent": latent.numpy(), "label": label.numpy()}
    with torch.no_grad():
        wanted = model.render(latent, label=label)
        step = model.inner.velocity(latent, torch.full((3,), 0.3), label)
    assert np.allclose(session(tmp_path / "sample.onnx").run(None, given)[0], wanted, atol=1e-5)
    given = {"point": latent.numpy(), "time": np.full(3, 0.3, np.float32), "label": label.numpy()}
    assert np.allclose(session(tmp_path / "velocity.onnx").run(None, given)[0], step, atol=1e-5)


ALONE = """
import importlib.abc, runpy, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ectype", "torch", "safetensors"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(script: Path, *words: object) -> str:
    """Run a script where none of our Python can be imported."""
    command = [sys.executable, "-I", "-c", ALONE, str(script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("what", ["map", "conditional", "quantised"])
def test_it_samples_where_there_is_no_python_of_ours(engine: exporting.Engine, what: str, tmp_path: Path) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    preset, info, changes, _ = WHAT[what]
    model = made(preset, info, **changes)
    sampler = sampler_of(model)
    assert sampler is not None
    if not sampler.labels:
        codes = torch.randn(60, *sampler.latent)
        model.densities["gmm"], model.density = fit_density("gmm", codes), "gmm"
    export(model, engine, tmp_path / "out", images(info), preset=preset)
    script, latents = (
        tmp_path / "out" / "sample.py",
        model.sample_latents(9, generator=torch.Generator().manual_seed(3)),
    )
    np.save(tmp_path / "latents.npy", latents.numpy())
    label = ["--label", "two"] if sampler.labels else []
    alone(script, "--latents", tmp_path / "latents.npy", "--out", tmp_path / "same.png", *label)
    told = {"label": torch.full((9,), 1)} if sampler.labels else {}
    with torch.no_grad():
        wanted = np.asarray(contact_sheet(to_uint8(model.render(latents, **told)))).astype(int)
    found = np.asarray(Image.open(tmp_path / "same.png")).astype(int)
    assert found.shape == wanted.shape
    assert abs(found - wanted).max() <= 1  # of 255: a rounding that falls to the other side
    assert found.std() > 1
    for name, words in {"a": ["--seed", 1], "b": ["--seed", 1], "c": ["--seed", 2]}.items():
        assert "4 samples" in alone(script, "-n", 4, "--out", tmp_path / f"{name}.png", *words)
    one, again, other = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_draws_of_the_script_are_of_the_density(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ectype.export import standalone

    codes = torch.randn(400, 3) @ torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [0, 0, 0.1]]) + torch.tensor([1.0, 2, 3])
    density = fit_density("gaussian", codes)
    np.savez(tmp_path / "density-gaussian.npz", **{key: v.numpy() for key, v in density.state_dict().items()})
    monkeypatch.setattr(standalone, "FOLDER", tmp_path)
    drawn = standalone.draw(20_000, [3], "gaussian", np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.numpy().T), atol=0.15)


def test_an_export_that_fails_leaves_nothing_that_would_be_in_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = Refining().eval(), tmp_path / "out"

    def written(fails: bool) -> None:
        def write(graph: graphs.Graph, file: Path, _: object) -> onnx.ExportedGraph:
            file.write_text("whole")
            if fails and file.stem == "second":
                raise KeyboardInterrupt
            return onnx.ExportedGraph(file, 0.0, None, 18, {}, {})

        named = [graphs.Graph(name, model, {}, {}, "made") for name in ("first", "second")]
        monkeypatch.setattr(graphs, "graphs_of", lambda *_: named)
        monkeypatch.setitem(exporting.ENGINES, "onnx", (".onnx", write))
        export(model, "onnx", out, images(), preset="own")

    with pytest.raises(KeyboardInterrupt):
        written(fails=True)
    assert not out.exists()
    written(fails=False)
    assert names(out) == {"first.onnx", "second.onnx", "export.json"}
    assert (out / "first.onnx").read_text() == "whole"
    with pytest.raises(KeyboardInterrupt):
        written(fails=True)
    assert names(out) == {"first.onnx", "second.onnx", "export.json"}


@pytest.mark.parametrize("engine", exporting.ENGINES)
def test_others_can_read_an_export(engine: exporting.Engine, tmp_path: Path) -> None:
    export(made("gan-mlp"), engine, tmp_path / "out", images(), preset="gan-mlp")
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert set(modes.values()) == {0o666 & ~umask}, modes


def names(out: Path) -> set[str]:
    return {file.name for file in out.iterdir() if not file.name.startswith(".")}


def test_an_export_over_an_earlier_one_leaves_nothing_of_that(tmp_path: Path) -> None:
    gan = made("gan-mlp")
    said = export(gan, "onnx", tmp_path, images(), preset="gan-mlp")
    assert said[0].startswith(f"{tmp_path / 'sample.onnx'}: ")
    assert names(tmp_path) == {"sample.onnx", "sample.py", "export.json"}
    (tmp_path / "notes.txt").write_text("mine")
    export(Refining().eval(), "onnx", tmp_path, images(), preset="own")
    assert names(tmp_path) == {"step.onnx", "export.json", "notes.txt"}
    assert json.loads((tmp_path / "export.json").read_text())["preset"] == "own"
    (tmp_path / "sample.py").write_text("mine")
    with pytest.raises(ModelError, match=r"sample\.py' is not overwritten: .*Ectype did not write it"):
        export(gan, "onnx", tmp_path, images(), preset="gan-mlp")
    assert (tmp_path / "sample.py").read_text() == "mine"
    assert names(tmp_path) == {"step.onnx", "export.json", "notes.txt", "sample.py"}


def test_other_files_are_not_written_over_and_missing_libraries_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"contains other files.*another --out"):
        export(made("gan-mlp"), "onnx", tmp_path, images(), preset="gan-mlp")

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(ModelError, match=r"^ONNX needs onnx: pip install 'ectype\[onnx\]'\.$"):
        export(made("gan-mlp"), "onnx", tmp_path / "out", images(), preset="gan-mlp")
