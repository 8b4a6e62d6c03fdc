"""Nothing of a user's is lost: every command that writes, in folders that hold other things."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ectype
from ectype.analysis import results
from ectype.config.schema import DataConfig
from ectype.core.errors import EctypeError, EctypeWarning, RunError, TrainingError
from ectype.core.files import cache_root
from ectype.core.table import Table
from ectype.data.prepare import clean, prepare
from ectype.experiments.launcher import claim_folder
from ectype.export.commands import export
from ectype.inference import anomaly, codes, nearest, reconstruct, sample
from ectype.runs import checkpoint, json_files
from ectype.runs.load import load
from ectype.runs.run_dir import RunDir
from ectype.training.run import train
from tests.crash import each_crash

pytestmark = pytest.mark.trains
OPTIONS = {"size": 8, "latent_dim": 2, "train.batch": 50, "monitor.every": 200, "run.keep_last": 1, "run.pictures": 2}
PROJECT = {
    "model/weights.bin": "mine",
    "report.html": "mine",
    "environment.json": "{}",
    "summary.json": "{}",
    "evaluation.json": "{}",
    "metrics.jsonl": "{}\n",
    "comparison.html": "mine",
    "trials.csv": "mine",
    "sample.py": "mine",
}
"""Files of someone else, with names that Ectype uses."""


def trained(out: Path, images: int = 400, **options: Any) -> RunDir:
    return train("ae-linear", "digits", {**OPTIONS, "train.images": images}, out=out, **options)


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "_warned", set())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = trained(tmp_path_factory.mktemp("original") / "run")
    ectype.Run(run.path).evaluate()  # once, for all tests
    return run


@pytest.fixture
def run(original: RunDir, tmp_path: Path) -> RunDir:
    return RunDir(shutil.copytree(original.path, tmp_path / "run"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(text)
    return tmp_path / "project"


def content(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


# ── Folders that hold other things ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "write",
    [
        trained,
        lambda out: claim_folder(out, "comparison.json", "comparison", "{}"),
        lambda out: claim_folder(out, "study.json", "study", "{}"),
    ],
)
def test_no_run_comparison_or_study_goes_into_a_folder_with_other_files(
    project: Path, write: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(project)
    monkeypatch.chdir(project)
    for out in (project, Path(".")):
        with pytest.raises(
            RunError, match=r"nothing is overwritten.*give another --out|nothing is overwritten: give an"
        ):
            write(out)
    assert content(project) == before


@pytest.mark.parametrize("to", ["onnx", "safetensors"])
def test_no_export_goes_into_a_folder_with_other_files(run: RunDir, project: Path, to: str) -> None:
    before = content(project)
    with pytest.raises(EctypeError, match=r"is not overwritten: it contains other files, such as 'comparison\.html'"):
        export(run.path, to, project)
    assert content(project) == before


WRITES: dict[str, Callable[[Path, str, Path], object]] = {
    "samples.png": lambda run, images, out: sample.sample(run, out / "samples.png", n=4, density="gmm"),
    "walk.gif": lambda run, images, out: sample.walk(run, out / "walk.gif", frames=2, n=1, density="gmm"),
    "codes.npz": lambda run, images, out: codes.encode(run, images, out / "codes.npz"),
    "codes.parquet": lambda run, images, out: codes.encode(run, images, out / "codes.parquet"),
    "scores.csv": lambda run, images, out: anomaly.score(run, [images], out / "scores.csv"),
    "scores.png": lambda run, images, out: anomaly.score(run, [images], out / "scores.csv"),
    "nearest.png": lambda run, images, out: nearest.nearest(run, [images], images, out / "nearest.png", k=1),
    "overview.png": lambda run, images, out: reconstruct.reconstruct(run, [images], out),
    "0.png": lambda run, images, out: reconstruct.reconstruct(run, [images], out),
    "page.html": lambda run, images, out: results.report([RunDir(run)], out / "page.html"),
    "table.csv": lambda run, images, out: Table([{"a": 1}]).to_csv(out / "table.csv"),
}


SLOW = {"page.html": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in WRITES])
def test_an_output_replaces_its_own_earlier_one_and_no_other_file(
    run: RunDir, photos: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(EctypeError, match="Ectype did not write it, or it was changed since"):
        WRITES[name](run.path, str(photos), out)
    assert content(out) == {name: b"mine"}
    (out / name).unlink()
    WRITES[name](run.path, str(photos), out)
    first = content(out)
    assert name in first
    WRITES[name](run.path, str(photos), out)
    assert content(out).keys() == first.keys()
    assert (photos / "0.png").is_file()
    assert sorted(os.listdir(photos)) == ["0.png", "1.png", "2.png"]


def test_photos_with_runs_and_outputs_inside_are_still_these_photos(run: RunDir, photos: Path) -> None:
    before = prepare(DataConfig(source=str(photos), size=8, split={"val": 0, "test": 0})).fingerprint  # pyright: ignore
    shutil.copytree(run.path, photos / "runs" / "vae-001")
    reconstruct.reconstruct(run.path, [str(photos)], photos / "reconstructions")
    assert len(list(photos.rglob("*.png"))) > 3
    after = prepare(DataConfig(source=str(photos), size=8, split={"val": 0, "test": 0}))  # pyright: ignore
    assert after.fingerprint == before


def test_a_crash_at_any_call_of_preparing_leaves_a_cache_that_gives_the_same_images(photos: Path) -> None:
    config = DataConfig(source=str(photos), size=8)

    def pixels() -> list[bytes]:
        return [np.load(shard).tobytes() for shard in prepare(config).shards]

    expected = pixels()
    for _ in each_crash(lambda: prepare(config), before=clean, step=2):
        assert pixels() == expected


# ── Modes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_every_file_of_a_run_an_export_and_the_cache_can_be_read_by_others(original: RunDir, tmp_path: Path) -> None:
    assert os.umask(0o022) == 0o022
    export(original.path, "safetensors", tmp_path / "export")
    checked = [original.path, tmp_path / "export", cache_root() / "data"]
    modes = {path: path.stat().st_mode & 0o777 for place in checked for path in (place, *place.rglob("*"))}
    assert {path.suffix for path in modes} >= {".safetensors", ".json", ".jsonl", ".yaml", ".npy", ".png"}
    assert {path: oct(mode) for path, mode in modes.items() if mode != (0o755 if path.is_dir() else 0o644)} == {}


# ── Metrics and checkpoints ──────────────────────────────────────────────────────────────────────────────────────────


def checks(run: RunDir) -> list[dict[str, Any]]:
    timed = ("time", "seconds")
    return [
        {key: value for key, value in line.items() if key not in timed}
        for line in run.metrics()
        if line["kind"] == "check"
    ]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_check_is_never_missing_from_the_metrics(
    original: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The process is killed before or after the checkpoint of the first check is saved."""
    save = checkpoint.save

    def killed(target: Path, *arguments: Any) -> None:
        if checkpoint.step_of(target) == 0 or when == "after":
            save(target, *arguments)
        if checkpoint.step_of(target):
            raise SystemExit

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(SystemExit):
        trained(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "train", "seen": 210, "text": "\xc3')
    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.warns(EctypeWarning, match=r"metrics\.jsonl': line \d+ is left out"):
        resumed = trained(tmp_path / "run")
    monkeypatch.setattr(json_files, "_warned", set())
    assert checks(resumed) == checks(original)  # and nothing is left out any more
    assert len(checks(resumed)) == 2
    one, two = load(resumed.path).state_dict(), load(original.path).state_dict()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_run_that_has_ended_is_not_trained_again_without_its_checkpoints(run: RunDir) -> None:
    shutil.rmtree(run.checkpoints)
    before = content(run.path)
    trained(run.path)
    assert content(run.path) == before


def test_a_run_with_damaged_files_goes_on(run: RunDir) -> None:
    files = {run.summary_file: "[]", run.environment_file: "{", run.evaluation_file: "\x00"}
    for file, text in files.items():
        file.write_text(text)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", EctypeWarning)
        assert trained(run.path).state() == "finished"
        assert ectype.Run(run.path).evaluate().get("psnr") is not None
    assert {str(each.message).partition(" is ignored")[0] for each in found} == {f"'{file}'" for file in files}


def test_a_run_that_can_only_be_read_is_measured(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path, _: object) -> None:
        raise TrainingError(f"cannot write '{file}' (Permission denied): free some space.")

    run.evaluation_file.unlink()
    monkeypatch.setattr("ectype.analysis.open_view.write_json_file", refuse)
    with pytest.warns(EctypeWarning, match=r"the figures are not stored: cannot write '.*evaluation\.json'"):
        assert ectype.Run(run.path).evaluate().get("psnr") is not None


def test_a_state_of_another_form_is_one_line(run: RunDir) -> None:
    run.summary_file.unlink()
    place = checkpoint.latest(run.checkpoints)
    assert place is not None
    (place / "state.json").write_text('{"seen": 400, "step": 8}')
    (place / checkpoint.MANIFEST).unlink()
    checkpoint.write_manifest(place)
    with pytest.raises(EctypeError, match=r"state\.json' has another form than this version writes \(KeyError"):
        trained(run.path)
