"""The directory of a run: what may become one, and what is read from one that was damaged."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import EctypeWarning, RunError
from ectype.core.files import write_text_atomically
from ectype.runs import json_files
from ectype.runs.model_files import load_model, save_model
from ectype.runs.run_dir import RunDir, find_runs
from tests.crash import each_crash

RECIPE = load_recipe("ae-linear", {"data.source": "digits", "data.size": 8, "latent_dim": 2})
ENVIRONMENT = {"ectype": "0", "torch": "0"}


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "_warned", set())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.write_start(RECIPE, ENVIRONMENT)
    return run


def check_line(seen: int) -> str:
    return json.dumps({"kind": "check", "seen": seen, "step": seen, "loss": 1.0, "best": True}) + "\n"


# ── What may become a run ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_directory_that_is_new_empty_or_a_run_is_claimed(tmp_path: Path, run: RunDir) -> None:
    assert not RunDir(tmp_path / "new").claim()
    (tmp_path / "empty").mkdir()
    assert not RunDir(tmp_path / "empty").claim()
    (run.path / "my notes.txt").write_text("")
    assert run.claim()
    run.recipe_file.unlink()
    with pytest.raises(RunError, match=r"other files, such as 'my notes\.txt'.* nothing is overwritten: give an --out"):
        run.claim()


@pytest.mark.parametrize(
    "name, text",
    [
        ("notes.txt", ""),
        ("model", None),
        ("report.html", "<p>mine"),
        ("recipe.yaml", "flour: 500 g"),
        ("recipe.yaml", RECIPE.yaml()),  # a recipe that someone keeps with a project is no run
        ("environment.json", '{"name": "mine"}'),
        (".lock", "mine"),
        (".gitignore", ""),
    ],
)
def test_a_directory_with_other_files_becomes_no_run(tmp_path: Path, name: str, text: str | None) -> None:
    if text is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match=f"such as '{name}'"):
        RunDir(tmp_path).claim()
    with pytest.raises(RunError, match="Not a directory"):
        RunDir(Path(__file__)).claim()


def test_a_crash_at_any_call_of_the_start_leaves_a_directory_that_can_be_started_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")

    def begin() -> None:
        with run.locked():
            run.write_start(RECIPE, ENVIRONMENT)

    started = []
    for _ in each_crash(begin, before=lambda: shutil.rmtree(run.path, ignore_errors=True)):
        started.append(run.claim())
        assert started[-1] == run.recipe_file.exists()
        assert not started[-1] or run.recipe == RECIPE
    assert set(started) == {False, True}
    (run.path / "recipe.yaml").unlink()
    run.remove_if_not_started()
    assert not run.path.exists()


def test_only_what_was_left_by_ectype_is_removed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with run.locked():
        (run.path / "environment.json").write_text('{"mine": 1}')
    run.remove_if_not_started()
    assert sorted(os.listdir(run.path)) == [".lock", "environment.json"]


# ── What is read from damaged files ──────────────────────────────────────────────────────────────────────────────────

FOREIGN = ["", "{", "[1, 2]", "7", "null", '"text"', "\x00\x00", "[" * 100_000, '{"a": {"b": [1]}}']


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "check", "seen": 20, "step": 20, "loss": 0.',
        '{"kind": "check", "step": 20, "loss": 0.5}',
        '{"kind": "check", "seen": "20", "step": 20}',
        '{"kind": 5, "seen": 20, "step": 20}',
        '{"kind": "check", "seen": 20, "step": 20, "loss": "low"}',
        '{"kind": "check", "seen": 20, "step": 20, "loss": [1]}',
        '{"kind": "check", "seen": 20, "step": 20, "verdict": "healthy"}',
        "[1, 2]",
        "3",
        "\udcc3",
    ],
)
def test_a_bad_line_of_metrics_is_left_out_and_a_resumed_run_drops_it(run: RunDir, line: str) -> None:
    text = f"{check_line(10)}{line}\n{check_line(30)}"
    run.metrics_file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.warns(EctypeWarning, match=r"metrics\.jsonl': line 2 is left out"):
        assert [each["seen"] for each in run.metrics()] == [10, 30]
    assert run.seen() == 30
    assert run.monitored_values() == ("loss", [(10, 1.0), (30, 1.0)])
    run.truncate_metrics(10)
    assert len(run.metrics_file.read_text().splitlines()) == 1


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_files_are_named_and_left_out(run: RunDir, text: str) -> None:
    for file in (run.summary_file, run.environment_file, run.monitor_file, run.metrics_file):
        file.write_text(text)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert run.state() == "unfinished"
        assert run.monitor_values() is None
        assert run.environment() in ({}, {"a": {"b": [1]}})
        assert run.metrics() == []
        assert run.recipe == RECIPE
        assert run.seen() == 0
    assert all(each.category is EctypeWarning and "\n" not in str(each.message) for each in found)
    assert any("watch.json" in str(each.message) for each in found)


@pytest.mark.parametrize("key, value", [("state", 5), ("seen", "9"), ("attempts", [1]), ("attempts", {}), ("best", "")])
def test_a_summary_with_other_types_is_left_out(run: RunDir, key: str, value: object) -> None:
    run.write_summary({"state": "finished", "seen": 5, "reason": ""})
    assert run.state() == "finished"
    run.summary_file.write_text(json.dumps({"state": "finished", "seen": 5, key: value}))
    with pytest.warns(EctypeWarning, match=r"summary\.json' is ignored: keys are missing or have other types"):
        assert run.summary() == {}


def test_a_directory_among_the_attempts_that_is_none_is_left_out(run: RunDir) -> None:
    run.write_summary({"state": "finished"})
    (run.path / "attempts" / "1-of-mine").mkdir(parents=True)
    assert run.is_complete


def test_a_recipe_that_was_changed_since_is_named(run: RunDir) -> None:
    run.recipe_file.write_text(RECIPE.yaml().replace("latent_dim: 2", "latent_dim: 3"))
    with pytest.warns(EctypeWarning, match=r"recipe\.yaml' is not the file that the run was started with"):
        assert run.recipe != RECIPE


def test_damaged_runs_do_not_hide_others(tmp_path: Path) -> None:
    from ectype.evaluation.monitor import best_check

    for name in ("a", "b", "c"):
        RunDir(tmp_path / name).write_start(RECIPE, ENVIRONMENT)
    for name in ("summary.json", "metrics.jsonl"):
        (tmp_path / "b" / name).write_bytes(b"\xff[")
    (tmp_path / "c" / "metrics.jsonl").mkdir()
    with pytest.warns(EctypeWarning):
        rows = [(run.name, run.state(), run.seen(), best_check(run)) for run in find_runs(tmp_path)]
    assert sorted(rows) == [(name, "unfinished", 0, "") for name in ("a", "b", "c")]


# ── The model ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_crash_at_any_call_leaves_the_old_model_or_the_new_one(run: RunDir) -> None:
    info = DataInfo(channels=1, size=(8, 8), classes=(), frequencies=(), binary=False, target=None)
    shapes = RECIPE.model.build(info).state_dict()

    def save(value: float) -> None:
        weights = {name: torch.full_like(tensor, value) for name, tensor in shapes.items()}
        save_model(run.model, RECIPE, info, weights, step=int(value), seen=int(value))

    found = set()
    for _ in each_crash(lambda: save(2.0), before=lambda: save(1.0)):
        RunDir.existing(run.path)
        values = {float(value) for tensor in load_model(run.model).state_dict().values() for value in tensor.unique()}
        assert len(values) == 1
        found |= values
    assert found == {1.0, 2.0}
    assert sorted(path.name for path in run.path.iterdir()) == ["environment.json", "model", "recipe.yaml"]


def test_metrics_are_truncated_at_once(run: RunDir) -> None:
    whole = check_line(10) + check_line(20)
    for _ in each_crash(
        lambda: run.truncate_metrics(10), before=lambda: write_text_atomically(run.metrics_file, whole)
    ):
        assert [line["seen"] for line in run.metrics()] in ([10], [10, 20])
