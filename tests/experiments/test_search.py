from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from ectype.core.errors import RecipeError, RunError
from ectype.experiments.search import Knob, Search, knobs_of, search
from ectype.runs.run_dir import RunDir

pytestmark = pytest.mark.trains

pytest.importorskip("optuna")

QUICK = ["size=8", "batch=32", "run.pictures=0", "monitor.every=640", "monitor.features=pixels", "hidden=[16]"]
KNOBS, _ = knobs_of(["latent_dim=1..32", "optimizer.lr=0.0001..0.01"])


def searched(place: Path, trials: int = 3, **given: object) -> Search:
    return search("vae-mlp", KNOBS, "digits", place, trials=trials, words=QUICK, images="1280", **given)  # pyright: ignore


def rows(place: Path) -> list[dict[str, str]]:
    with (place / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_words_are_ranges_choices_or_shared() -> None:
    knobs, shared = knobs_of(["latent_dim=2..512", "beta=0.1..10", "net=[1, 2],b", "size=64", "labels=../a.csv"])
    assert shared == ["size=64", "labels=../a.csv"]
    assert knobs == [
        Knob("latent_dim", (), 2.0, 512.0, True),
        Knob("beta", (), 0.1, 10.0, False),
        Knob("net", ("[1, 2]", "b")),
    ]
    for words, says in ((["a=1"], "no key has several values"), (["a=5..2"], "from the lower")):
        with pytest.raises(RecipeError, match=says):
            knobs_of(words)


def test_trials_are_judged_on_validation_and_shown_on_test(tmp_path: Path) -> None:
    found = searched(tmp_path / "study")
    assert found.figure == "psnr"
    done = rows(tmp_path / "study")
    assert [row["state"] for row in done] == ["complete"] * 3
    values = [float(row["psnr (validation)"]) for row in done]
    best = max(done, key=lambda row: float(row["psnr (validation)"]))
    assert str(found.best["latent_dim"]) == best["latent_dim"]
    assert len(set(values)) == 3
    assert f"best by PSNR on validation images: {max(values):.2f}"[:45] in found.conclusions[0]
    page = found.page.read_text()
    assert "chose nothing" in page
    # The same again trains nothing; more trials go on from these.
    before = RunDir(tmp_path / "study/trial-000").summary_file.stat().st_mtime_ns
    searched(tmp_path / "study", 4)
    assert RunDir(tmp_path / "study/trial-000").summary_file.stat().st_mtime_ns == before
    assert len(rows(tmp_path / "study")) == 4


def test_a_trial_that_was_cut_off_ends_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ectype.experiments import search as searching

    def killed(*_: object) -> dict[str, str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(searching, "launch_runs", killed)
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path / "study", 2)
    # In a container that is made anew, under another name.
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    searched(tmp_path / "study", 2)
    assert [row["state"] for row in rows(tmp_path / "study")] == ["complete"] * 2


def test_a_trial_that_was_cut_off_before_its_values_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", killed)
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path / "study", 1)
    searched(tmp_path / "study", 1)
    assert [row["state"] for row in rows(tmp_path / "study")] == ["fail", "complete"]


def test_what_cannot_be_searched_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="one budget for each trial"):
        search("ae", KNOBS, "digits", tmp_path / "a", trials=2)
    with pytest.raises(RecipeError, match="size: figures of images that are prepared or split differently"):
        search("ae", knobs_of(["size=8,12"])[0], "digits", tmp_path / "a", trials=2, images="640")
    with pytest.raises(RunError, match="--storage nothing cannot be used"):
        searched(tmp_path / "b", storage="nothing")
    with pytest.raises(RecipeError, match="no such figure that is better one way; have mse"):
        searched(tmp_path / "c", 1, by="beauty")
    # A figure that was mistyped costs nothing: the trial is judged by the right one, and by no other from then on.
    assert searched(tmp_path / "c", 1, by="SSIM").figure == "ssim"
    with pytest.raises(RunError, match="ranked by ssim"):
        searched(tmp_path / "c", 2, by="PSNR")
    knobs, _ = knobs_of(["likelihood=gaussian,discretised_logistic"])
    monkeypatch.setattr(Knob, "suggest", lambda self, trial: self.choices[trial.number % 2])
    with pytest.raises(
        RecipeError,
        match=r"trial-001 is ranked by .* \(probability, k = 64\), earlier trials by .* \(density, k = 64\),",
    ):
        search("vae-mlp", knobs, "digits", tmp_path / "e", trials=2, words=QUICK, processes=1, images="640")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RunError, match=r"pip install 'ectype\[search\]'"):
        searched(tmp_path / "d")
