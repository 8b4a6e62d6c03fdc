"""Loggers of real runs, read back from what they have written: event files, an MLflow database, W&B's offline files."""

from __future__ import annotations

import json
import math
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import ectype
from ectype.config.recipe import load_recipe
from ectype.core.errors import EctypeWarning, RecipeError
from ectype.runs.run_dir import RunDir
from ectype.training.loggers import Results, run_loggers
from ectype.training.loggers.base import End, LoggedRun, Logger
from ectype.training.loop import Callback
from ectype.training.run import resolve, train
from ectype.training.trainer import Trainer

pytestmark = pytest.mark.trains

ALL = ["tensorboard", "wandb", "mlflow"]
SMALL = {"size": 8, "batch": 32, "width": 8, "prior": "none", "train.images": 960, "monitor.every": 320}
SMALL |= {"run.log_every": 0, "run.pictures": 4, "run.device": "cpu", "run.evaluation": "quick"}


@pytest.fixture(autouse=True)
def _nothing_outside(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("home")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))


def session(out: Path, *, loggers: list[str], callbacks: tuple[Callback, ...] = (), **changes: Any) -> RunDir:
    """Train without measuring."""
    recipe = resolve("ae", "digits", {**SMALL, "run.loggers": loggers, **changes})
    return train(recipe, out=out, callbacks=callbacks)


# ── Reading back ─────────────────────────────────────────────────────────────────────────────────────────────────────

Scalars = dict[str, list[tuple[int, float]]]
"""Name → (images seen, value), in the order in which they were logged."""


def tensorboard_scalars(run: RunDir) -> tuple[Scalars, dict[str, list[str]]]:
    """Scalars, and kind → tags of the rest."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
        events.Reload()
    tags = events.Tags()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {"images": tags["images"], "tensors": tags["tensors"]}
    return scalars, texts


def mlflow_run(run: RunDir) -> tuple[Scalars, Any, set[str]]:
    """Scalars, the run and the paths of its files, from the database in the run."""
    from mlflow.tracking import MlflowClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = MlflowClient(tracking_uri=f"sqlite:///{run.path.resolve()}/mlflow/mlflow.db")
        experiment = client.get_experiment_by_name("ectype")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id])
        history = {key: client.get_metric_history(found.info.run_id, key) for key in found.data.metrics}
        inside = client.list_artifacts(found.info.run_id)
        files = {
            each.path
            for item in inside
            for each in ([item] if not item.is_dir else client.list_artifacts(found.info.run_id, item.path))
        }
    return {key: [(each.step, each.value) for each in values] for key, values in history.items()}, found, files


def records(file: Path) -> Iterator[Any]:
    """The records of an offline file: a log in LevelDB's format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, joined = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        joined += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(joined)
            joined = b""
            yield record


def wandb_files(run: RunDir) -> list[Path]:
    return sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))


def wandb_run(files: list[Path]) -> tuple[Scalars, set[str], dict[str, Any]]:
    """Scalars, kinds of records with ids of runs and names of artifacts, and the summary."""
    scalars: Scalars = {}
    kinds: set[str] = set()
    summary: dict[str, Any] = {}
    for record in (record for file in files for record in records(file)):
        kind = record.WhichOneof("record_type")
        kinds.add({"run": f"run {record.run.run_id}", "artifact": f"artifact {record.artifact.type}"}.get(kind, kind))
        for item in record.history.item if kind == "history" else ():
            name, value = item.key or "/".join(item.nested_key), json.loads(item.value_json)
            scalars.setdefault(name, []).append((record.history.step.num, value))
        for item in record.summary.update if kind == "summary" else ():
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return scalars, kinds, summary


# ── One run in all three ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> ectype.Run:
    """A run that was trained and measured."""
    place = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(place / "netrc"))
        return ectype.train("ae", "digits", {**SMALL, "run.loggers": ALL}, out=place / "run", progress=False)


def expected(run: RunDir) -> Scalars:
    lines = [line for line in run.metrics() if line["kind"] == "train"]
    return {"train/total": [(line["seen"], line["total"]) for line in lines]}


def test_event_files_hold_losses_checks_pictures_recipe_and_findings(logged: ectype.Run) -> None:
    scalars, rest = tensorboard_scalars(logged.directory)
    (want,) = expected(logged.directory).values()
    assert scalars["train/total"] == [(seen, pytest.approx(value, rel=1e-5)) for seen, value in want]
    checks = [name for name in scalars if name.startswith("held-out/")]
    assert [seen for seen, _ in scalars[checks[0]]] == [320, 640, 960]
    assert scalars["test/psnr"] == [(960, pytest.approx(logged.evaluate()["psnr"].value, rel=1e-5))]
    assert {"reconstructions", "samples"} <= set(rest["images"])
    assert {"recipe/text_summary", "model/text_summary", "findings/text_summary"} <= set(rest["tensors"])


def test_an_mlflow_database_holds_the_same_and_the_model(logged: ectype.Run) -> None:
    scalars, found, files = mlflow_run(logged.directory)
    (want,) = expected(logged.directory).values()
    assert scalars["train/total"] == want
    assert scalars["test/psnr"][0][1] == pytest.approx(logged.evaluate()["psnr"].value)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["train.images"] == "960"
    assert {"recipe.yaml", "findings.txt", "model/model.safetensors"} <= files
    assert "reconstructions/reconstructions-00000030.png" in files
    stored = next((logged.path / "mlflow" / "artifacts").rglob("model.safetensors"))
    assert stored.read_bytes() == (logged.path / "model" / "model.safetensors").read_bytes()
    said = next((logged.path / "mlflow" / "artifacts").rglob("findings.txt")).read_text(encoding="utf-8")
    assert all(finding.message in said for finding in logged.findings())


def test_offline_files_of_wandb_hold_the_same_and_the_model(logged: ectype.Run) -> None:
    files = wandb_files(logged.directory)
    assert len(files) == 1
    scalars, kinds, summary = wandb_run(files)
    (want,) = expected(logged.directory).values()
    assert scalars["train/total"] == [(seen, pytest.approx(value)) for seen, value in want]
    identity = json.loads((logged.path / "loggers.json").read_text())["wandb"]["id"]
    assert {f"run {identity}", "artifact model", "exit"} <= kinds
    assert summary["test/psnr"] == pytest.approx(logged.evaluate()["psnr"].value)
    assert summary["findings"].count("\n") >= 1
    assert any(name.startswith("reconstructions") for name in scalars)
    copy = logged.path / "wandb" / "model" / "model.safetensors"
    assert copy.read_bytes() == (logged.path / "model" / "model.safetensors").read_bytes()


# ── Going on ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Stop(Callback):
    """Ends a run by an error after a number of images."""

    def __init__(self, after: int) -> None:
        self.after = after

    def stepped(self, trainer: Trainer) -> None:
        if trainer.seen >= self.after:
            raise ConnectionAbortedError("the machine is switched off")


def test_a_run_that_goes_on_continues_in_each_tool_without_doubled_steps(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="switched off"):
        session(tmp_path / "run", loggers=ALL, callbacks=(Stop(544),))
    before = json.loads((tmp_path / "run" / "loggers.json").read_text())
    assert before["mlflow"]["train"] > 320, "something was sent after the last checkpoint"
    run = session(tmp_path / "run", loggers=ALL)
    after = json.loads((tmp_path / "run" / "loggers.json").read_text())
    assert {name: sent["id"] for name, sent in before.items()} == {name: sent["id"] for name, sent in after.items()}
    files = wandb_files(run)
    assert len(files) == 2, "one offline file for each process, with one id"
    wandb_scalars, kinds, _ = wandb_run(sorted(files, key=lambda file: file.stat().st_mtime_ns))
    assert len([kind for kind in kinds if kind.startswith("run ")]) == 1
    mlflow_scalars, found, _ = mlflow_run(run)
    assert found.info.status == "FINISHED"
    steps = list(range(32, 961, 32))
    for scalars in (tensorboard_scalars(run)[0], mlflow_scalars, wandb_scalars):
        assert [seen for seen, _ in scalars["train/total"]] == steps
        check = next(name for name in scalars if name.startswith("held-out"))
        assert [seen for seen, _ in scalars[check]] == [320, 640, 960]


def test_a_run_that_starts_anew_is_a_new_run_in_each_tool(tmp_path: Path) -> None:
    run = session(tmp_path / "run", loggers=["tensorboard"])
    for checkpoint in run.checkpoints.iterdir():
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    (run.model / "config.json").unlink()
    (tmp_path / "run" / "loggers.json").write_text('{"tensorboard": {"id": "tensorboard", "train": 10000}}')
    session(tmp_path / "run", loggers=["tensorboard"])
    assert json.loads((tmp_path / "run" / "loggers.json").read_text())["tensorboard"]["train"] == 960


@pytest.mark.parametrize("content", ["", "[]", '{"fake": []}', '{"fake": {"train": "x"}}', "\0"])
def test_a_damaged_note_of_what_was_sent_does_not_matter(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run_loggers.LOGGERS, "tensorboard", Fake)
    (tmp_path / "loggers.json").write_text(content)
    loggers = run_loggers.RunLoggers(["tensorboard"], load_recipe("ae"), RunDir(tmp_path))
    loggers._start()
    loggers.logged(32, 1, {"total": 1.0, "broken": math.nan})
    loggers.close()
    assert Fake.made[-1].sent == [{"train/total": 1.0}]


# ── What goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


class Fake(Logger):
    """A logger that may fail."""

    name, library, module = "fake", "Fake", "json"
    made: ClassVar[list[Fake]] = []
    fails_in: ClassVar[str] = ""

    def __init__(self) -> None:
        self.sent: list[dict[str, float]] = []
        self.made.append(self)

    def _do(self, what: str) -> None:
        if self.fails_in == what:
            raise OSError(28, f"No space left on device: {what}\nsecond line")

    def open(self, run: LoggedRun, identity: str | None) -> str:
        self._do("open")
        return "id"

    def scalars(self, values: Mapping[str, float], seen: int) -> None:
        if len(self.sent) == 2:
            self._do("scalars")
        self.sent.append(dict(values))

    def pictures(self, files: Mapping[str, Path], seen: int) -> None:
        self._do("pictures")

    def model(self, folder: Path) -> None:
        self._do("model")

    def results(self, results: Results, seen: int) -> None:
        self._do("results")

    def close(self, end: End) -> None:
        self._do("close")


@pytest.mark.parametrize("where", ["open", "scalars", "pictures", "model", "close"])
def test_a_logger_that_fails_is_reported_once_and_changes_nothing(
    where: str, logged: ectype.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run_loggers.LOGGERS, "tensorboard", Fake)
    monkeypatch.setattr(Fake, "fails_in", where)
    with pytest.warns(EctypeWarning, match=r"logger tensorboard failed \(.*No space left.*\) and is off") as found:
        run = session(tmp_path / "run", loggers=["tensorboard"])
    assert len(found) == 1
    assert "\n" not in str(found[0].message)
    assert run.state() == "finished"
    same = [place / "model" / "model.safetensors" for place in (run.path, logged.path)]
    assert same[0].read_bytes() == same[1].read_bytes()


def test_a_server_that_cannot_be_reached_does_not_stop_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.warns(EctypeWarning, match="logger mlflow failed") as found:
        run = session(tmp_path / "run", loggers=["mlflow"])
    assert len(found) == 1
    assert run.state() == "finished"
    assert not (run.path / "mlflow").exists()


def test_a_place_that_cannot_be_written_does_not_stop_the_training(tmp_path: Path) -> None:
    place = tmp_path / "run"
    train(resolve("ae", "digits", {**SMALL, "train.images": 32}), out=place)  # a run, so that it may hold more
    loggers = run_loggers.RunLoggers(["mlflow"], load_recipe("ae"), RunDir(place))
    (place / "mlflow").write_text("a file")
    with pytest.warns(EctypeWarning, match="logger mlflow failed"):
        loggers._start()
    loggers.logged(32, 1, {"total": 1.0})
    loggers.close()
    assert (place / "mlflow").read_text() == "a file"


@pytest.mark.parametrize(
    "name, module", [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow.tracking")]
)
def test_what_is_not_installed_is_said_before_anything_starts(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecipeError, match=rf"run.loggers='\[{name}\]' needs .*: pip install 'ectype\[{name}\]'\."):
        session(tmp_path / "run", loggers=[name])
    assert not (tmp_path / "run").exists()


def test_recipes_of_earlier_versions_are_read() -> None:
    assert load_recipe({**load_recipe("ae").plain(), "run": {"tensorboard": True}}).run.loggers == ["tensorboard"]
    assert load_recipe({**load_recipe("ae").plain(), "run": {"tensorboard": False}}).run.loggers == []
    assert load_recipe("ae", ["run.loggers=wandb"]).run.loggers == ["wandb"]
    assert load_recipe("ae", ["run.loggers=[mlflow, mlflow]"]).run.loggers == ["mlflow"]
    with pytest.raises(RecipeError, match="neptune"):
        load_recipe("ae", ["run.loggers=[neptune]"])
