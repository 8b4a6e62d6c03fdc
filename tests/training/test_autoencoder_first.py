"""An autoencoder and a model of its codes by one command: one run, one budget, continued wherever it was killed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

import ectype
from ectype.analysis.diagnose import check
from ectype.analysis.open_view import open_view
from ectype.analysis.report.frontier import training_minutes
from ectype.analysis.report.page import reproduction_commands
from ectype.cli import app
from ectype.config.recipe import Recipe
from ectype.config.schema import Augment
from ectype.core.errors import EctypeError, Interrupted, ModelError, RecipeError, RunError
from ectype.data.batch import Batch
from ectype.models.latent_space import LatentSpaceConfig, LatentSpaceModel
from ectype.runs import checkpoint
from ectype.runs.json_files import write_json_file
from ectype.runs.run_dir import RunDir, find_runs
from ectype.training import session
from ectype.training.autoencoder_first import autoencoder_recipe, choose_codes
from ectype.training.on_codes import autoencoder_run, recipe_after_autoencoder, trains_autoencoder
from ectype.training.run import train
from ectype.training.trainer import Diverged
from tests.conformance.small import small
from tests.crash import run_until

pytestmark = pytest.mark.trains

CODES = {"model.autoencoder": "ae", "monitor.features": "pixels", "monitor.images": 100, "run.log_every": 1000}
CODES |= {"train.images": 1280, "monitor.every": 320, "run.pictures": 4, "run.device": "cpu"}


def recipe(**changes: object) -> Recipe:
    return small("flow", **{**CODES, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(recipe(), out=tmp_path_factory.mktemp("codes") / "run")


def loaded(run: RunDir) -> LatentSpaceModel:
    model = ectype.load(run.path, device="cpu")
    assert isinstance(model, LatentSpaceModel)
    return model


def drawn(model: LatentSpaceModel) -> torch.Tensor:
    return model.sample(3, generator=torch.Generator().manual_seed(1))


def keep_checkpoints(run: RunDir, count: int) -> None:
    """Leave a run as it was when it was killed after this many checkpoints."""
    shutil.rmtree(run.model)
    run.summary_file.unlink()
    for place in checkpoint.checkpoint_dirs(run.checkpoints)[count:]:
        shutil.rmtree(place)


def cut(run: RunDir, place: Path, stage: str) -> RunDir:
    """Copy a run as it was when it was killed in a stage."""
    copy = RunDir(shutil.copytree(run.path, place))
    if stage == "flow":
        keep_checkpoints(copy, 1)
        return copy
    for path in copy.path.iterdir():
        if path.name not in ("recipe.yaml", "environment.json", "autoencoder"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if stage == "autoencoder":
        keep_checkpoints(RunDir(copy.autoencoder), 1)
    elif stage == "before":
        shutil.rmtree(copy.autoencoder)
    return copy


def assert_same_models(one: RunDir, two: RunDir) -> None:
    for name in ("model", "autoencoder/model"):
        a, b = (load_file(each.path / name / "model.safetensors") for each in (one, two))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_both_are_one_run(run: RunDir, tmp_path: Path) -> None:
    inner, model = RunDir(run.autoencoder), run.recipe.model
    assert isinstance(model, LatentSpaceConfig)
    assert model.autoencoder == "ae"
    assert model.coder.model == inner.recipe.model
    assert model.coder.run is None, "no path on this machine is stored"
    assert (run.state(), inner.state()) == ("finished", "finished")
    assert [found.path for found in find_runs(run.path.parent)] == [run.path]
    own = ectype.load(inner.path, device="cpu").state_dict()
    both = loaded(run)
    assert all(torch.equal(both.coder.state_dict()[key], value) for key, value in own.items())
    moved = RunDir(shutil.copytree(run.path, tmp_path / "moved"))
    shutil.rmtree(moved.autoencoder)
    assert torch.equal(drawn(loaded(moved)), drawn(both))
    shown = CliRunner().invoke(app, ["sample", str(moved.path), "-n", "4", "--out", str(tmp_path / "s.png")])
    assert shown.exit_code == 0, shown.output


def test_what_happens_is_said_once(run: RunDir, tmp_path: Path) -> None:
    said = StringIO()
    copy = cut(run, tmp_path / "run", "autoencoder")
    train(recipe(), out=copy.path, console=Console(file=said, width=200))
    lines = said.getvalue().splitlines()
    assert "training an autoencoder first (320 images), then the flow on its codes" in lines
    assert f"training flow on the codes of {copy.autoencoder} (1,280 images)" in lines
    assert sum("rejected" in line for line in lines) == 1, "the images are described once"


def test_the_summary_says_how_the_budget_was_shared(run: RunDir) -> None:
    first, inner = run.summary()["autoencoder"], RunDir(run.autoencoder)
    assert first == inner.summary()
    assert first["seen"] == inner.recipe.train.images == 320
    assert training_minutes(run) == pytest.approx((first["seconds"] + run.summary()["seconds"]) / 60)


def complete(**changes: object) -> Recipe:
    return choose_codes(recipe(**changes), None)


@pytest.mark.parametrize("share, images", [(0.5, 320), (0.8, 1280), (0.2, 80)])
def test_images_are_shared_without_a_clock(share: float, images: int) -> None:
    train_section = autoencoder_recipe(complete(**{"model.autoencoder_share": share})).train
    assert (train_section.images, train_section.minutes) == (images, None)
    assert autoencoder_recipe(complete(**{"model.autoencoder_share": share})).monitor.every == -(-images // 20)


def test_minutes_are_shared_and_what_is_left_is_the_flows(tmp_path: Path) -> None:
    whole = complete().override({"train.minutes": 5})
    assert autoencoder_recipe(whole).train.minutes == pytest.approx(2.5)
    first = RunDir(tmp_path)
    for seconds, minutes in ((150, 2.5), (60, 4), (170, 2.5)):
        write_json_file(first.summary_file, {"state": "finished", "seconds": seconds})
        assert recipe_after_autoencoder(whole, first).train.minutes == pytest.approx(minutes), "at least its share"


def test_the_flow_is_timed_by_what_is_left(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[float | None] = []
    real = session.tune_settings

    def noted(trainer, measure):
        timed.append(trainer.recipe.train.model_minutes)
        return real(trainer, measure)._replace(budget=320, every=320)

    monkeypatch.setattr(session, "tune_settings", noted)
    train(recipe().override({"train.minutes": 4}), out=tmp_path / "run")
    first = RunDir(RunDir(tmp_path / "run").autoencoder).summary()
    assert timed == [2, pytest.approx(4 - first["seconds"] / 60, abs=1e-3)]
    assert RunDir(tmp_path / "run").recipe.train.minutes == 4


def test_what_reaches_the_autoencoder() -> None:
    changes = {"train.seed": 7, "data.background": "black", "run.keep_last": 5, "optimizer.lr": 0.5, "train.batch": 8}
    first = autoencoder_recipe(complete(**changes))
    assert (first.train.seed, first.data.background, first.run.keep_last) == (7, "black", 5)
    assert first.data.augment == Augment(flip=True, shift=0.1), "the preset's"
    assert (first.optimizer.lr, first.train.batch, first.train.prior) == (0.002, 16, "none")
    assert autoencoder_recipe(complete(**{"data.augment.turn": True})).data.augment == Augment(turn=True)


def folder(place: Path, size: tuple[int, int]) -> Path:
    place.mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (30, *size, 3), np.uint8)):
        Image.fromarray(pixels).save(place / f"{index}.png")
    return place


@pytest.mark.parametrize(
    "size, asked, expected",
    [((32, 32), "auto", "none"), ((24, 40), "auto", "ae"), ((40, 40), "none", "none"), ((8, 8), "ae", "ae")],
)
def test_the_size_of_the_images_decides(tmp_path: Path, size: tuple[int, int], asked: str, expected: str) -> None:
    source = folder(tmp_path / "images", size)
    asking = recipe(**{"model.autoencoder": asked, "data.size": "auto"})
    found = choose_codes(
        asking.model_copy(update={"data": asking.data.model_copy(update={"source": str(source)})}), None
    )
    assert isinstance(found.model, LatentSpaceConfig)
    assert found.model.autoencoder == expected
    assert trains_autoencoder(found) == (expected != "none")
    assert (found.model.coder.model is not None) == (expected != "none")
    assert choose_codes(found, None) == found, "a run's own recipe continues it"


def test_vectors_get_a_network_for_vectors() -> None:
    found = complete(**{"model.autoencoder": "ae-linear", "data.size": 28})
    assert found.model.inner.net.kind == "mlp"
    assert complete().model.inner.net.kind == "unet"


@pytest.mark.parametrize("stage", ["before", "autoencoder", "between", "flow"])
def test_a_killed_run_continues_bit_equal(run: RunDir, tmp_path: Path, stage: str) -> None:
    copy = cut(run, tmp_path / "runs" / "cut", stage)
    found = train(recipe(), root=tmp_path / "runs", resume=True)
    assert found.path == copy.path
    assert found.state() == "finished"
    assert_same_models(found, run)


@pytest.mark.parametrize("call", [3, 40, 130])
def test_a_process_that_dies_leaves_a_run_that_continues(run: RunDir, tmp_path: Path, call: int) -> None:
    place = tmp_path / "run"
    assert run_until(lambda: train(recipe(), out=place), call=call)
    assert_same_models(train(recipe(), out=place), run)


def test_a_signal_in_the_first_stage_is_a_signal(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: object, **how: object) -> None:
        raise Interrupted("stopped: repeat the command with --resume to continue.")

    with monkeypatch.context() as patch:
        patch.setattr(session, "fit", stopped)
        with pytest.raises(Interrupted):
            train(recipe(), out=tmp_path / "run")
    unfinished = RunDir(tmp_path / "run")
    assert unfinished.state() == "unfinished"
    with pytest.raises(RunError, match="has no model yet"):
        ectype.load(unfinished.path)
    shown = CliRunner().invoke(app, ["runs", str(tmp_path)])
    assert "unfinished" in shown.output
    with unfinished.locked(), pytest.raises(RunError, match="is being trained by another process"):
        train(recipe(), out=unfinished.path)
    assert_same_models(train(recipe(), out=unfinished.path), run)


@pytest.mark.parametrize("changes", [{"optimizer.lr": 0.5}, {"train.images": 2560}, {"model.autoencoder": "none"}])
def test_another_recipe_is_refused(run: RunDir, tmp_path: Path, changes: Mapping[str, object]) -> None:
    copy = cut(run, tmp_path / "run", "autoencoder")
    with pytest.raises(RunError, match=f"was started with another recipe .*{next(iter(changes))} was"):
        train(recipe(**changes), out=copy.path)


def test_another_autoencoder_inside_is_refused(run: RunDir, tmp_path: Path) -> None:
    copy = cut(run, tmp_path / "run", "autoencoder")
    inner = RunDir(copy.autoencoder)
    inner.write_recipe(inner.recipe.override({"optimizer.lr": 0.5}))
    with pytest.raises(RunError, match=r"autoencoder' was started with another recipe \(optimizer.lr was 0.5, now"):
        train(recipe(), out=copy.path)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"model.autoencoder": "aee"}, RecipeError, "model.autoencoder=aee is no preset; did you mean"),
        ({"model.autoencoder": "gan-mlp"}, ModelError, "gan-mlp has no codes of its own: name the preset of an auto"),
        (
            {"model.inner.condition": "label", "data.source": "IMAGES"},
            ModelError,
            "needs images of at least two classes",
        ),
        ({"data.source": "/nowhere"}, EctypeError, "nowhere"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    tmp_path: Path, changes: dict[str, object], error: type[EctypeError], message: str
) -> None:
    if changes.get("data.source") == "IMAGES":
        changes = {**changes, "data.source": str(folder(tmp_path / "images", (16, 16)))}
    with pytest.raises(error, match=message):
        train(recipe(**changes), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_initial_weights_and_an_autoencoder_are_refused(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gives initial weights, .*or set autoencoder=none"):
        train(recipe(), out=tmp_path / "run", start=run.path)
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_that_cannot_begin_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(trainer: object, measure: object) -> None:
        raise ModelError("no memory")

    monkeypatch.setattr(session, "tune_settings", full)
    with pytest.raises(ModelError, match="no memory"):
        train(recipe(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_that_diverges_is_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverged(*args: object, **how: object) -> None:
        raise Diverged("model", "the loss", {}, Batch(torch.rand(2, 1, 16, 16)), 1, 16)

    monkeypatch.setattr(session, "fit", diverged)
    with pytest.raises(Diverged, match=r"Try a smaller optimizer\.lr"):
        train(recipe(), out=tmp_path / "run")
    failed = RunDir(tmp_path / "run")
    assert failed.state() == RunDir(failed.autoencoder).state() == "failed"
    assert failed.summary()["reason"].startswith("autoencoder: the loss is not a finite number")


def test_an_undertrained_autoencoder_is_a_finding_of_the_run(run: RunDir, tmp_path: Path) -> None:
    found = {finding.name: finding for finding in check.check_run(open_view(run))}
    assert "undertrained autoencoder" in found
    assert str(run.autoencoder) in found["undertrained autoencoder"].lines()[-1]
    alone = RunDir(shutil.copytree(run.path, tmp_path / "run"))
    shutil.rmtree(alone.autoencoder)
    assert "undertrained autoencoder" not in {finding.name for finding in check.check_run(open_view(alone))}
    assert ectype.report(alone.path).is_file()
    assert "Autoencoder, trained first" in alone.report.read_text()


def test_a_run_of_minutes_is_reproduced_in_two_steps(run: RunDir, tmp_path: Path) -> None:
    assert len(reproduction_commands(run)) == 1, "images say it all"
    copy = RunDir(shutil.copytree(run.path, tmp_path / "run"))
    for place in (copy, RunDir(copy.autoencoder)):
        place.write_recipe(place.recipe.override({"train.minutes": 1}))
    first, second = reproduction_commands(copy)
    assert f"train {copy.autoencoder}/recipe.yaml digits train.images=320" in first
    assert f"train {copy.path}/recipe.yaml {copy.autoencoder}-again train.images=1280" in second


def test_an_attempt_uses_the_same_autoencoder(run: RunDir) -> None:
    where = autoencoder_run(run.recipe, run)
    assert where is not None
    assert where.path == run.autoencoder
    plain = small("flow")
    assert autoencoder_run(choose_codes(plain, None), run) is None, "16 px are learned as pixels"


def test_images_may_move_while_the_autoencoder_is_trained(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", (8, 8))
    changes = {**CODES, "data.size": 8, "train.images": 128, "monitor.every": 64, "monitor.metric": "loss"}
    fast = {key: value for key, value in changes.items() if key != "data.source"}
    whole = ectype.train("flow", source, fast, out=tmp_path / "run", progress=False)
    copy = cut(whole.directory, tmp_path / "cut", "between")
    shutil.move(source, tmp_path / "b")
    again = ectype.train("flow", tmp_path / "b", fast, out=copy.path, progress=False)
    assert again.state == "finished"
    assert {RunDir(place).recipe.data.source for place in (copy.path, copy.autoencoder)} == {str(tmp_path / "b")}
