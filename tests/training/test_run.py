from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import ectype
from ectype.analysis.open_view import open_view
from ectype.analysis.results import evaluate, report
from ectype.config.recipe import Recipe, load_recipe
from ectype.core.errors import (
    CheckpointError,
    DataError,
    EctypeWarning,
    ModelError,
    RecipeError,
    RunError,
    TrainingError,
)
from ectype.evaluation.monitor import Monitor, best_check
from ectype.runs import checkpoint
from ectype.runs.json_files import write_json_file
from ectype.runs.load import density_of, open_data, ship_checkpoint
from ectype.runs.run_dir import RunDir, find_runs
from ectype.training.loop import Callback, Check
from ectype.training.run import resolve, train
from ectype.training.trainer import Diverged, Trainer
from tests.conformance.small import small

pytestmark = pytest.mark.trains

FAST = {"train.images": 640, "monitor.every": 320, "run.pictures": 0, "run.log_every": 1000}


def tiny(name: str = "vae-fast", **changes) -> Recipe:
    return small(name, **{**FAST, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    recipe = tiny(**{"run.keep_last": 5, "run.pictures": 4})
    return train(recipe, out=tmp_path_factory.mktemp("run") / "vae")


def steps(run: RunDir) -> list[int]:
    return [checkpoint.step_of(place) for place in checkpoint.checkpoint_dirs(run.checkpoints)]


# ── Directories ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_directory_holds_what_it_should(run: RunDir) -> None:
    assert {"recipe.yaml", "environment.json", "metrics.jsonl", "checkpoints", "samples", "model"} <= {
        path.name for path in run.path.iterdir()
    }
    assert run.recipe == tiny(**{"run.keep_last": 5, "run.pictures": 4})
    assert steps(run) == [0, 10, 20]
    assert {path.name for path in run.samples.iterdir()} == {
        f"{what}-{step:08d}.png" for what in ("samples", "reconstructions") for step in (10, 20)
    }
    environment = json.loads(run.environment_file.read_text())
    assert environment["torch"] == torch.__version__
    assert best_check(run).startswith("held-out ½·SSE + KL ")
    assert run.seen() == 640
    suffixes = {path.suffix for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert suffixes == {".yaml", ".json", ".jsonl", ".png", ".safetensors"}


def test_runs_are_numbered_and_a_failed_start_leaves_nothing(tmp_path: Path) -> None:
    one, two = (train(tiny(), root=tmp_path) for _ in range(2))
    assert [one.name, two.name] == ["vae-fast-001", "vae-fast-002"]
    with pytest.raises(ModelError):
        train(tiny("ae-conv", size=8), root=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"vae-fast-001", "vae-fast-002"}
    assert [found.name for found in find_runs(tmp_path)] == ["vae-fast-001", "vae-fast-002"]


def test_a_finished_run_is_not_trained_again(run: RunDir) -> None:
    before = run.metrics_file.read_bytes()
    train(run.recipe, out=run.path)
    assert run.metrics_file.read_bytes() == before


def test_another_recipe_is_refused_with_each_key_named(run: RunDir) -> None:
    with pytest.raises(RunError, match=r"optimizer\.lr was 0\.006, now 0\.1; .*give another --out") as caught:
        train(run.recipe.override({"lr": 0.1, "train.seed": 3, "run.keep_last": 9}), out=run.path)
    assert "train.seed was 0, now 3" in str(caught.value)
    assert "keep_last" not in str(caught.value)


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    with RunDir(tmp_path).locked(), pytest.raises(RunError, match="being trained by another process"):
        train(tiny(), out=tmp_path)


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"give another --out|give an --out"):
        train(tiny(), out=tmp_path / "file" / "run")


@pytest.mark.parametrize("name", ["photos #2", "Trip: Rome", "[1, 2]", "1e3"])
def test_a_path_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert resolve("vae", name).data.source == str(tmp_path / name)
    assert load_recipe(yaml.safe_load(resolve("vae", name).yaml())).data.source == str(tmp_path / name)


def test_a_run_does_not_lie_among_its_images(tmp_path: Path) -> None:
    for k in range(12):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8)).save(tmp_path / f"{k}.png")
    recipe = tiny(**{"data.source": str(tmp_path), "data.size": "auto", "data.labels": None})
    with pytest.raises(RunError, match=r"holds the images.* give an --out elsewhere"):
        train(recipe, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 12


def test_a_second_start_leaves_what_the_first_holds(tmp_path: Path) -> None:
    """Before anything but the lock is there, too."""
    with RunDir(tmp_path / "run").locked():
        with pytest.raises(RunError, match="being trained by another process"):
            train(tiny(), out=tmp_path / "run")
        with pytest.raises(RunError, match="being trained by another process"):
            train(tiny(), out=tmp_path / "run")
    with pytest.raises(DataError):
        train(tiny(**{"data.source": str(tmp_path / "none")}), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_place_that_cannot_be_locked_is_said_once_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(EctypeWarning, match="cannot be locked"), RunDir(tmp_path / "run").locked():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write to"), RunDir(tmp_path / "file").locked():
        pass


def test_a_disk_that_is_full_ends_a_run_in_one_line(tmp_path: Path) -> None:
    class Full(Callback):
        def logged(self, seen: int, step: int, metrics: dict[str, float]) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def ended(self, outcome: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TrainingError, match=r"No space left on device.*free some space"):
        train(tiny(), out=tmp_path / "run", callbacks=[Full()])
    assert train(tiny(), out=tmp_path / "run").state() == "finished"


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, trainer: Trainer) -> None:
        if trainer.step_count == self.step:
            os.kill(os.getpid(), 2)


def test_resume_finds_the_newest_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no unfinished run"):
        train(tiny(), root=tmp_path, resume=True)
    with pytest.raises(ectype.core.errors.Interrupted):
        train(tiny(), root=tmp_path, callbacks=[Stop(7)])
    for name, text in (("vae-fast-002", ""), ("vae-fast-003", "model: {kind: of another version}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(text)
    done = train(tiny(), root=tmp_path, resume=True)
    assert done.name == "vae-fast-001"
    assert done.state() == "finished"


def test_resume_finds_a_run_that_was_cut_off_while_it_was_looked_at(tmp_path: Path) -> None:
    trained = train(tiny(), root=tmp_path)
    assert train(tiny(), root=tmp_path, resume=True).path == trained.path
    report([trained])
    with pytest.raises(RunError, match="no unfinished run"):
        train(tiny(), root=tmp_path, resume=True)


def test_images_that_changed_after_training_are_said_to_have(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(40):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8)).save(folder / f"{k:02d}.png")
    changes = {"data.source": str(folder), "data.size": "auto", "data.labels": None, "split.by": "contiguous"}
    run = train(tiny(**changes), out=tmp_path / "run")
    assert not any("images have changed" in remark for remark in evaluate(run).remarks)
    for k in range(30, 40):
        (folder / f"{k}.png").unlink()
    with pytest.warns(EctypeWarning, match="held-out images may have been trained on"):
        found = evaluate(run)
    assert sum("images have changed" in remark for remark in found.remarks) == 1


def test_a_run_of_an_earlier_version_keeps_its_splits(tmp_path: Path) -> None:
    """Its stored recipe has no `split.duplicates`, and its images are similar in pairs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(60):
        image = np.random.default_rng(k // 2).integers(0, 255, (16, 16), np.uint8)
        image[0, 0] = k
        Image.fromarray(image).save(folder / f"{k:02d}.png")
    source = {"data.source": str(folder), "data.size": "auto"}
    recipe = tiny(**source, **{"data.split.duplicates": "together"})
    with pytest.raises(ectype.core.errors.Interrupted):
        train(tiny(**source), out=tmp_path / "run", callbacks=[Stop(7)])
    run = RunDir.existing(tmp_path / "run")
    plain = yaml.safe_load(run.recipe_file.read_text())
    assert plain["data"]["split"].pop("duplicates") == "ignore"
    run.recipe_file.write_text(yaml.safe_dump(plain))
    run.environment_file.write_text(json.dumps({**run.environment(), "recipe_sha256": None}))
    fingerprint = open_data(run.recipe.data)[0].fingerprint
    assert open_data(recipe.data)[0].fingerprint != fingerprint
    train(recipe, out=run.path)  # the same command as before, whose defaults have changed
    assert run.training_ended
    assert not any("images have changed" in remark for remark in evaluate(run).remarks)
    assert train(recipe, root=tmp_path, resume=True).path == run.path
    # A run that names the key is another recipe.
    train(tiny(**source), out=tmp_path / "new")
    with pytest.raises(RunError, match=r"data\.split\.duplicates was 'ignore', now 'together'"):
        train(recipe, out=tmp_path / "new")


def test_changed_images_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(12):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8)).save(folder / f"{k}.png")
    recipe = tiny(**{"data.source": str(folder), "data.size": "auto"})
    with pytest.raises(ectype.core.errors.Interrupted):
        train(recipe, out=tmp_path / "run", callbacks=[Stop(7)])
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "new.png")
    with pytest.raises(RunError, match=r"images of .* have changed"):
        train(recipe, out=tmp_path / "run")


@pytest.mark.parametrize(
    "key, before, words", [("torch", "0.1", r"torch 0\.1 → "), ("processes", 2, "processes 2 → 1")]
)
def test_other_conditions_are_warned_about(tmp_path: Path, key: str, before: str | int, words: str) -> None:
    with pytest.raises(ectype.core.errors.Interrupted):
        train(tiny(), out=tmp_path / "run", callbacks=[Stop(7)])
    stopped = RunDir(tmp_path / "run")
    write_json_file(stopped.environment_file, {**stopped.environment(), key: before})
    with pytest.warns(EctypeWarning, match=f"{words}.*not bit-equal"):
        train(tiny(), out=tmp_path / "run")


# ── Budgets, stopping, starting ─────────────────────────────────────────────────────────────────────────────────────


def test_minutes_become_images_once(tmp_path: Path) -> None:
    recipe = tiny(**{"monitor.every": "auto"}).override({"train.minutes": 0.02})
    with pytest.raises(ectype.core.errors.Interrupted):
        train(recipe, out=tmp_path / "run", callbacks=[Stop(5)])
    choices = checkpoint.load_state(RunDir(tmp_path / "run").checkpoint(0))["choices"]
    assert choices["budget"] > 640
    run = train(recipe, out=tmp_path / "run")
    assert run.summary()["seen"] == -(-choices["budget"] // 32) * 32
    assert checkpoint.load_state(checkpoint.latest(run.checkpoints))["choices"] == choices


def test_early_stopping_ships_the_best(tmp_path: Path) -> None:
    """A learning rate at which the loss soon only gets worse."""
    changes = {"monitor.patience": 2, "train.images": 64_000, "lr": 0.05, "schedule": "constant", "clip": 1.0}
    run = train(tiny("vae-mlp", **changes), out=tmp_path / "run")
    assert run.state() == "stopped early"
    summary = run.summary()
    assert "no new minimum for 2 checks" in summary["reason"]
    history = checkpoint.load_state(checkpoint.latest(run.checkpoints))["monitor"]["history"]
    best = min(history, key=lambda entry: entry[1])
    assert summary["shipped_step"] * 32 == best[0]
    assert len(history) == history.index(best) + 3
    shipped = checkpoint.load_tensors(run.model / "model.safetensors")
    kept = checkpoint.load_tensors(run.checkpoint(summary["shipped_step"]) / "objective.safetensors")
    assert all(torch.equal(value, kept[f"autoencoder.{key}"]) for key, value in shipped.items())


def test_starting_from_another_run(run: RunDir, tmp_path: Path) -> None:
    class First(Callback):
        def started(self, trainer: Trainer, monitor: Monitor) -> None:
            self.weights = {key: value.clone() for key, value in trainer.model.state_dict().items()}

    first = First()
    train(tiny(**{"train.seed": 5}), out=tmp_path / "a", start=run.path, callbacks=[first])
    theirs = ectype.load(run.path).state_dict()
    assert all(torch.equal(first.weights[key], value) for key, value in theirs.items())
    train(tiny(latent_dim=3), out=tmp_path / "b", start=run.path, callbacks=[first])
    taken = {key for key, value in first.weights.items() if torch.equal(value, theirs.get(key, torch.empty(0)))}
    assert 0 < len(taken) < len(theirs)
    with pytest.raises(RunError, match="no weight of"):
        train(tiny("ae-linear", size=12), out=tmp_path / "c", start=run.path)


def test_a_diverging_run_keeps_its_evidence_and_its_last_checkpoint(tmp_path: Path) -> None:
    class Poison(Callback):
        def stepped(self, trainer: Trainer) -> None:
            if trainer.step_count == 15:
                with torch.no_grad():
                    next(trainer.objective.parameters()).fill_(math.nan)

    with pytest.raises(Diverged, match="is not a finite number at step 15"):
        train(tiny(), out=tmp_path / "run", callbacks=[Poison()])
    run = RunDir(tmp_path / "run")
    evidence = run.path / "diverged-00000015"
    with Image.open(evidence / "batch.png") as picture:
        assert picture.size[0] > 16
    assert math.isnan(json.loads((evidence / "values.json").read_text())["½·SSE"])
    assert run.state() == "failed"
    assert checkpoint.latest(run.checkpoints) == run.checkpoint(10)
    assert train(tiny(), out=run.path).state() == "finished"


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.save_file

    def full(tensors, file) -> None:
        if (tmp_path / "run" / "checkpoints" / "step-00000010").exists():
            raise OSError(28, "No space left on device")
        real(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match="free some space"):
        train(tiny(), out=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert steps(run)[-1] == 10
    monkeypatch.setattr(checkpoint, "save_file", real)
    assert train(tiny(), out=run.path).state() == "finished"


def test_callbacks_see_everything(tmp_path: Path) -> None:
    seen: list[str] = []

    class Notes(Callback):
        def started(self, trainer: Trainer, monitor: Monitor) -> None:
            seen.append("started")

        def logged(self, seen_: int, step: int, metrics: dict[str, float]) -> None:
            assert {"½·SSE", "KL", "total", "images/s", "gradient norm", "rate"} <= set(metrics)
            seen.append("logged")

        def checked(self, trainer: Trainer, check: Check) -> None:
            seen.append(f"checked {check.step}")

        def ended(self, outcome: object) -> None:
            seen.append("ended")

    train(tiny(), out=tmp_path / "run", callbacks=[Notes()])
    assert seen == ["started", "logged", "checked 10", "logged", "checked 20", "ended"]


def test_training_leaves_the_processor_as_it_was(tmp_path: Path) -> None:
    class Look(Callback):
        def stepped(self, trainer: Trainer) -> None:
            self.flushed = sys.float_info.min / 2 == 0
            self.threads = torch.get_num_threads()

    look, threads = Look(), torch.get_num_threads()
    train(tiny(**{"run.threads": threads + 1}), out=tmp_path / "run", callbacks=[look])
    assert look.flushed
    assert look.threads == threads + 1
    assert sys.float_info.min / 2 > 0
    assert torch.get_num_threads() == threads


def test_micro_batches_warn_where_they_change_the_result(tmp_path: Path) -> None:
    with pytest.warns(EctypeWarning, match=r"BatchNorm .*: splitting batches of 32 changes what is computed"):
        train(tiny("ae-conv", **{"run.micro_batch": 8}), out=tmp_path / "run")


# ── Going back to a run ─────────────────────────────────────────────────────────────────────────────────────────────


def test_keep_ships_a_chosen_step(run: RunDir) -> None:
    last = ectype.load(run.path).state_dict()
    ship_checkpoint(run, 10)
    chosen = ectype.load(run.path).state_dict()
    held = checkpoint.load_tensors(run.checkpoint(10) / "objective.safetensors")
    assert all(torch.equal(value, held[f"autoencoder.{key}"]) for key, value in chosen.items())
    assert any(not torch.equal(value, last[key]) for key, value in chosen.items())
    assert "of step 10<" in report([run]).read_text()
    with pytest.raises(CheckpointError, match=r"no complete checkpoint of step 11 .* it has 0, 10, 20"):
        ship_checkpoint(run, 11)
    ship_checkpoint(run, 20)


def test_an_unfinished_run_is_loaded_as_it_is_now_or_as_it_was_chosen(tmp_path: Path) -> None:
    def shipped() -> int:
        return checkpoint.load_json(tmp_path / "run" / "model" / "config.json")["step"]

    for step in (5, 15):
        with pytest.raises(ectype.core.errors.Interrupted):
            train(tiny(), out=tmp_path / "run", callbacks=[Stop(step)])
        with pytest.warns(EctypeWarning, match="partly trained: its model has seen .* of .* images"):
            assert ectype.load(tmp_path / "run").sample(2).shape == (2, 1, 16, 16)
        assert shipped() == step
    ship_checkpoint(tmp_path / "run", 10)
    with pytest.warns(EctypeWarning, match="partly trained"):
        ectype.load(tmp_path / "run")
    assert shipped() == 10
    assert train(tiny(), out=tmp_path / "run").state() == "finished"
    assert shipped() == 20


@pytest.mark.parametrize("damage", ["weights", "config", "kind", "format"])
def test_a_damaged_model_is_refused(run: RunDir, tmp_path: Path, damage: str) -> None:
    place = tmp_path / "model"
    place.mkdir()
    for file in run.model.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    says = json.loads((place / "config.json").read_text())
    if damage == "weights":
        (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-1])
    elif damage == "config":
        (place / "config.json").write_text("{")
    else:
        says["format"] = 99 if damage == "format" else says["format"]
        says["model"]["kind"] = "os.system" if damage == "kind" else says["model"]["kind"]
        (place / "config.json").write_text(json.dumps(says))
    with pytest.raises(CheckpointError, match=r"damaged|no model that can be read|format 99") as caught:
        ectype.load(place)
    assert "\n" not in str(caught.value)


def test_a_plain_autoencoder_gets_densities_and_shows_that_the_normal_fails(tmp_path: Path) -> None:
    run = train(
        tiny("ae", **{"train.images": 6400, "net": "conv", "latent_dim": 8}),
        out=tmp_path / "run",
    )
    model = ectype.load(run.path)
    assert set(model.densities) == {"normal", "gaussian", "gmm"}
    assert model.density == "gmm"
    with torch.no_grad():
        code = model.encode(
            ectype.runs.load.open_data(run.recipe.data)[1].split("train").batch(torch.arange(500)).image
        )
        draws = {name: model.densities[name].sample(2000) for name in model.densities}
    truth = torch.cov(code.T)

    def gap(name: str) -> float:
        return float((torch.cov(draws[name].T) - truth).norm() / truth.norm())

    assert gap("gaussian") < 0.2
    assert gap("gmm") < 0.2
    assert gap("normal") > 2 * gap("gmm")
    with pytest.raises(ModelError, match="did you mean 'gmm'"):
        density_of(run, model, "gmn")
    for name in ("gaussian", "gmm"):
        file = run.model / f"density-{name}.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=r"its tensors do not match its hash: it is damaged"):
            ectype.load(run.path)
        file.write_bytes(content)
    ectype.load(run.path)


def test_evaluation_is_kept_and_made_anew_when_the_weights_change(run: RunDir) -> None:
    first = evaluate(run)
    written = run.evaluation_file.stat().st_mtime_ns
    assert evaluate(run).to_json() == first.to_json()
    assert run.evaluation_file.stat().st_mtime_ns == written
    ship_checkpoint(run, 10)
    assert evaluate(run).to_json() != first.to_json()
    ship_checkpoint(run, 20)
    assert evaluate(run, "digits").to_json() == evaluate(run).to_json()
    written = run.evaluation_file.stat().st_mtime_ns
    density_of(run, ectype.load(run.path), "gaussian")  # a new file of the model, which no figure depends on
    assert (run.model / "density-gaussian.safetensors").is_file()
    evaluate(run)
    assert run.evaluation_file.stat().st_mtime_ns == written


def test_classes_of_another_source_are_known_by_their_names(run: RunDir, tmp_path: Path) -> None:
    """Folders of some of the classes, in splits of their own: those held out are measured, and probed as themselves."""
    store = open_data(run.recipe.data)[1]
    for part, many in (("train", 30), ("test", 30)):
        images = store.split("train")
        assert images.labels is not None
        for digit in (3, 7):
            place = tmp_path / "others" / part / str(digit)
            place.mkdir(parents=True)
            for i in torch.where(images.labels == digit)[0][:many].tolist():
                Image.fromarray(images.gather(torch.tensor([i]))[0, 0].numpy()).save(place / f"{i}.png")
    copies = pytest.warns(EctypeWarning, match="60 of these images are among those that this run was trained on")
    with copies:
        found = open_view(run, str(tmp_path / "others"))
    assert found.evaluation["psnr"].n == 60
    assert found.evaluation.test_set == f"images held out in '{tmp_path / 'others'}'"
    assert found.evaluation.remarks[0].startswith("60 of these images")
    assert found.test.images.labels is not None
    assert sorted(found.test.images.labels.unique().tolist()) == [3, 7]
    (tmp_path / "others" / "test" / "7").rename(tmp_path / "others" / "test" / "seven")
    with copies:
        assert open_view(run, str(tmp_path / "others")).test.images.labels is None
    shutil.rmtree(tmp_path / "others" / "train")
    with copies:
        assert open_view(run, str(tmp_path / "others")).evaluation["psnr"].n == 60


def test_a_run_that_held_no_test_images_out_is_measured_on_others(tmp_path: Path) -> None:
    run = train(tiny(**{"data.split": {"val": 0.2, "test": 0.0}}), out=tmp_path / "run")
    with pytest.raises(DataError, match=r"split\.test is 0"):
        evaluate(run)
    others = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "others.npy", others)
    found = evaluate(run, str(tmp_path / "others.npy"))
    assert found["psnr"].n == 40
    assert found.test_set == f"images of '{tmp_path / 'others.npy'}'"
    assert not any("trained on" in remark for remark in found.remarks)


def test_a_report_is_one_file(run: RunDir, tmp_path: Path) -> None:
    page = report([run], tmp_path / "page.html").read_text()
    own = report([run])
    assert own == run.report
    written = own.read_bytes()
    assert report([run, run]) == run.path.resolve().parent / "report.html"
    assert own.read_bytes() == written
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert len(page) < 15_000_000


# ── Recipes on their way in ─────────────────────────────────────────────────────────────────────────────────────────


def test_resolving(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    assert resolve("vae", folder).data.source == str(folder)
    assert resolve("vae", "digits", ["latent_dim=3"]).model.net.latent_dim == 3
    assert resolve(resolve("vae", "digits"), None, {"lr": 0.5}).optimizer.lr == 0.5
    with pytest.raises(RecipeError, match="no images given"):
        resolve("vae")


@pytest.mark.slow
def test_torchrun_trains_one_run_with_two_processes(tmp_path: Path) -> None:
    """The same global batch in one process and in two, to 1e-5."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny(**{"run.threads": 1}).yaml())
    script = tmp_path / "go.py"
    script.write_text("import sys, ectype; ectype.train(sys.argv[1], out=sys.argv[2])")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, command in (("one", [sys.executable]), ("two", launcher)):
        done = subprocess.run(
            [*command, str(script), str(recipe), str(tmp_path / name)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
    one, two = (ectype.load(tmp_path / name).state_dict() for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=0)
    seen = [
        [line["seen"] for line in RunDir(tmp_path / k).metrics() if line["kind"] == "check"] for k in ("one", "two")
    ]
    assert seen[0] == seen[1] == [320, 640], "one process writes for both"
