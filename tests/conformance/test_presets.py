"""What every preset must do, whatever it is. A preset is found by its file: none is named here."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ectype
from ectype.config.recipe import Recipe, preset_names
from ectype.core.errors import Interrupted
from ectype.data.batch import Batch
from ectype.models.base import Encodes, HasLogLikelihood, Reconstructs, Samples
from ectype.models.translator import Translator
from ectype.runs import checkpoint
from ectype.runs.load import open_data
from ectype.runs.run_dir import RunDir
from ectype.training.loop import Callback
from ectype.training.run import train
from ectype.training.trainer import Trainer

from .small import small

GOLDEN = Path(__file__).with_name("golden.json")
PRESETS = preset_names()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """Return the run of a preset, trained once, with the checkpoint of every check."""
    runs: dict[str, RunDir] = {}

    def get(name: str) -> RunDir:
        if name not in runs:
            recipe = small(name)
            kept = recipe.override({"run.keep_every": recipe.train.images // 5})
            runs[name] = train(kept, out=tmp_path_factory.mktemp(name) / "run")
        return runs[name]

    return get


def held_out(recipe: Recipe) -> torch.Tensor:
    _, store = open_data(recipe.data)
    return store.split("test").batch(torch.arange(12)).image


def checks(run: RunDir) -> list[dict]:
    return [line for line in run.metrics() if line["kind"] == "check"]


def watched(run: RunDir) -> list[float]:
    """The measure that the preset itself is watched by, at each check."""
    return [entry[1] for entry in checkpoint.load_state(newest(run))["monitor"]["history"]]


def newest(run: RunDir) -> Path:
    found = checkpoint.latest(run.checkpoints)
    assert found is not None
    return found


def cut_off(run: RunDir, place: Path, *, seen: int) -> RunDir:
    """Copy a run as it was when a process was killed some time after the check at `seen` images."""
    copy = RunDir(shutil.copytree(run.path, place))
    copy.summary_file.unlink()
    shutil.rmtree(copy.model)
    for found in checkpoint.checkpoint_dirs(copy.checkpoints):
        if checkpoint.load_state(found)["seen"] > seen:
            shutil.rmtree(found)
    assert checkpoint.load_state(newest(copy))["seen"] == seen
    return copy


def assert_same_checkpoint(one: Path, two: Path) -> None:
    """Every tensor and every piece of state but the time it took, at zero tolerance."""
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    for file in one.glob("*.safetensors"):
        a, b = checkpoint.load_tensors(file), checkpoint.load_tensors(two / file.name)
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), f"{file.name}: {key}"
    a, b = (checkpoint.load_state(place) for place in (one, two))
    assert {**a, "seconds": 0} == {**b, "seconds": 0}


@pytest.mark.parametrize("name", PRESETS)
class TestPreset:
    @pytest.mark.trains
    def test_its_own_measure_improves(self, name: str, trained) -> None:
        run = trained(name)
        values = watched(run)
        assert len(values) == 5
        assert min(values[1:]) < values[0]
        assert run.state() == "finished"

    @pytest.mark.trains
    def test_outputs_are_images_in_range(self, name: str, trained) -> None:
        run = trained(name)
        model, image = ectype.load(run.path, device="cpu"), held_out(run.recipe)
        shown: list[torch.Tensor] = []
        with torch.no_grad():
            if isinstance(model, Reconstructs):
                shown.append(model.reconstruct(image))
                assert shown[-1].shape == image.shape
            if isinstance(model, Encodes):
                shown.append(model.decode(10 * torch.randn(3, *model.code_shape)))
                assert model.encode(image).shape == (12, *model.code_shape)
            if isinstance(model, Samples):
                shown.append(model.sample(5, generator=torch.Generator().manual_seed(0)))
                assert shown[-1].shape == (5, *image.shape[1:])
            if isinstance(model, Translator):
                shown.append(model.translate(image))
                assert shown[-1].shape == (12, model.channels, *image.shape[2:])
            if isinstance(model, HasLogLikelihood):
                assert torch.isfinite(model.log_likelihood(image, samples=2)).all()
        assert shown, "a model that can do nothing"
        for images in shown:
            assert images.min() >= 0
            assert images.max() <= 1
            assert images.std() > 0

    @pytest.mark.trains
    def test_it_loads_bit_equal(self, name: str, trained) -> None:
        run = trained(name)
        shipped = checkpoint.load_tensors(run.model / "model.safetensors")
        one, two = (ectype.load(place, device="cpu") for place in (run.path, run.model))
        for key, value in one.state_dict().items():
            assert torch.equal(value, shipped[key])
            assert torch.equal(value, two.state_dict()[key])
        if isinstance(one, Samples) and isinstance(two, Samples):
            draws = [m.sample(4, generator=torch.Generator().manual_seed(3)) for m in (one, two)]
            assert torch.equal(*draws)

    @pytest.mark.trains
    def test_it_resumes_bit_equal(self, name: str, trained, tmp_path: Path) -> None:
        """Continue a copy of the run from the checkpoint of its fourth check of five.

        Earlier moments are those of the tests of signals and kills below.
        """
        whole = trained(name)
        each = whole.recipe.train.images // 5
        run = cut_off(whole, tmp_path / "run", seen=4 * each)
        assert run.state() == "unfinished"
        torch.manual_seed(99)
        resumed = train(run.recipe, out=run.path)
        assert_same_checkpoint(newest(resumed), newest(whole))
        assert [line["seen"] for line in checks(resumed)] == [each, 2 * each, 3 * each, 4 * each, 5 * each]

    def test_losses_are_those_of_before(self, name: str) -> None:
        golden = json.loads(GOLDEN.read_text())
        assert name in golden, "python -m tests.conformance.golden writes it"
        assert first_losses(name) == pytest.approx(golden[name], rel=2e-3, abs=1e-4)


def first_losses(name: str) -> list[float]:
    """Totals of the first twenty steps on images made of sines: a refactoring must not change them."""
    from ectype.config.schema import DataInfo, Target
    from ectype.core.distributed import World
    from ectype.core.random import derive_seed
    from ectype.objectives.base import Objective

    recipe = small(name, **{"run.threads": 1})
    steps = torch.arange(64).view(-1, 1, 1, 1) + 1
    grid = torch.linspace(0, 3, 16)
    image = 0.5 + 0.5 * torch.sin(steps * grid.view(1, 1, -1, 1) + steps.sqrt() * grid.view(1, 1, 1, -1))

    binary = recipe.data.binarise != "none"
    image = image.round() if binary else image
    kind = recipe.data.pairs
    target = None if kind == "none" else (image > 0.5)[:, 0].long() if kind == "masks" else 1 - image
    partner = None if kind == "none" else Target(kind, 1, ("dark", "light") if kind == "masks" else (), (0.5, 0.5))

    class Sines:
        def __len__(self) -> int:
            return len(image)

        def __call__(self, index: torch.Tensor, context: object) -> Batch:
            return Batch(image[index], index % 2, None if target is None else target[index])

    info = DataInfo(1, (16, 16), ("even", "odd"), (0.5, 0.5), binary, target=partner)
    torch.manual_seed(derive_seed(recipe.train.seed, "weights"))
    objective = recipe.objective.build(recipe.model.build(info), info, images=3200)
    assert isinstance(objective, Objective)
    trainer = Trainer(objective, Sines(), recipe, budget=3200, device=torch.device("cpu"), world=World())
    losses = []
    for _ in range(20):
        trainer.step()
        totals = [value for name, value in trainer.take_metrics().items() if name.endswith("total")]
        losses.append(sum(totals))
    return losses


# ── A real signal ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.trains
@pytest.mark.parametrize("name", ["vae-mlp", "gan-mlp"])
def test_a_signal_between_two_checks_saves_and_resumes_bit_equal(name: str, trained, tmp_path: Path) -> None:
    recipe = small(name)
    budget = recipe.train.images
    last = 47 * budget // 3200  # between two checks

    class Stop(Callback):
        def stepped(self, trainer: Trainer) -> None:
            if trainer.step_count == last:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"stopped at {32 * last:,} of {budget:,} images"):
        train(recipe, out=tmp_path / "run", callbacks=[Stop()])
    assert RunDir(tmp_path / "run").state() == "unfinished"
    torch.manual_seed(99)
    assert_same_checkpoint(newest(train(recipe, out=tmp_path / "run")), newest(trained(name)))


# ── A real kill ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.trains
@pytest.mark.parametrize("name", ["ae-conv", "vae", "dae"])
def test_it_survives_kill_9(name: str, tmp_path: Path, trained) -> None:
    """Killed at random moments, writing a checkpoint perhaps, and started again until it is done."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(small(name).yaml())
    code = (
        f"import ectype, torch; torch.set_num_threads(1); ectype.train({str(recipe)!r}, out={str(tmp_path / 'run')!r})"
    )
    run, chance, kills = RunDir(tmp_path / "run"), random.Random(os.getpid()), 0
    while run.state() != "finished":
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        if kills < 3:
            begun = len(checkpoint.checkpoint_dirs(run.checkpoints)) if run.checkpoints.is_dir() else 0
            while process.poll() is None and (
                not run.checkpoints.is_dir() or len(checkpoint.checkpoint_dirs(run.checkpoints)) <= min(begun, 1)
            ):
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.6))
            process.kill()
            kills += 1
        said = process.communicate()[1]
        assert process.returncode in (0, -signal.SIGKILL), said.decode()
    assert_same_checkpoint(newest(run), newest(trained(name)))
    assert ectype.load(run.path)
