"""What a run does about a bad verdict: stop, warn, or begin anew from what was healthy, with advice applied."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import ectype
from ectype.analysis.diagnose.advice import advice_for_verdict
from ectype.config.recipe import load_recipe
from ectype.evaluation.monitor import Monitor, Verdict
from ectype.evaluation.sample_monitor import RealReference
from ectype.runs.run_dir import RunDir
from ectype.training import monitoring
from ectype.training.loop import Callback, Check
from ectype.training.run import train
from ectype.training.trainer import Trainer
from tests.conformance.small import small

pytestmark = pytest.mark.trains

FAST = {"train.images": 1920, "monitor.every": 320, "run.pictures": 0, "run.log_every": 1000, "monitor.images": 60}
Judge = Callable[[Mapping[str, float], Monitor], Verdict]


def says(*names: str) -> Callable[[Mapping[str, RealReference]], Judge]:
    """A judge that says these one after the other, in every run, then the last again and again."""

    def judged_by(reference: Mapping[str, RealReference]) -> Judge:
        return lambda values, monitor: Verdict(names[min(len(monitor.history), len(names) - 1)], "as planned")

    return judged_by


def trained(place: Path, how: str, *callbacks: Callback) -> RunDir:
    recipe = small("gan-mlp", **FAST, **{"monitor.on_collapse": how})
    return train(recipe, out=place, callbacks=callbacks)


@pytest.mark.parametrize("how, seen", [("stop", 1280), ("warn", 1920)])
def test_a_collapse_stops_the_run_or_is_only_said(
    how: str, seen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "verdict_function", says("healthy", "healthy", "collapsed", "collapsed"))
    said = trained(tmp_path / "run", how).summary()
    assert said["seen"] == seen
    assert said["state"] == ("collapsed" if how == "stop" else "finished")
    if how == "stop":
        assert "collapsed at 2 checks in a row" in said["reason"]


def test_a_new_attempt_begins_at_the_last_healthy_weights_with_the_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Trainer] = []

    def judged_by(reference: Mapping[str, RealReference]) -> Judge:
        def judge(values: Mapping[str, float], monitor: Monitor) -> Verdict:
            cured = begun[-1].recipe.objective.adversary.loss == "relativistic"
            return Verdict("healthy" if cured or len(monitor.history) < 2 else "collapsed", "as planned")

        return judge

    class Note(Callback):
        def started(self, trainer: Trainer, monitor: Monitor) -> None:
            begun.append(trainer)

    monkeypatch.setattr(monitoring, "verdict_function", judged_by)
    run = trained(tmp_path / "run", "rollback", Note())
    said = run.summary()
    assert said["state"] == "collapsed"
    (attempt,) = said["attempts"]
    assert attempt["attempt"] == said["shipped_attempt"] == 1
    assert attempt["why"] == "collapsed"
    assert attempt["state"] == "finished"
    advice = advice_for_verdict(run.recipe, "collapsed")[0]
    assert attempt["changed"] == json.loads(json.dumps(advice.overrides))
    assert attempt["from"] == str(run.checkpoint(20))  # 640 images, the second of two healthy checks
    second = run.attempt(1)
    assert second.recipe.objective.adversary.loss == "relativistic"
    assert second.recipe.train.seed == run.recipe.train.seed + 1
    assert len(begun) == 2
    one, two = (ectype.load(place.path, device="cpu").state_dict() for place in (run, second))
    assert all(one[key].equal(two[key]) for key in one)


def test_where_nothing_was_healthy_an_attempt_begins_with_what_the_run_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = trained(tmp_path / "given", "warn")
    monkeypatch.setattr(monitoring, "verdict_function", says("collapsed"))
    recipe = small("gan-mlp", **FAST, **{"monitor.on_collapse": "rollback"})
    run = train(recipe, out=tmp_path / "run", start=given.path)
    assert {attempt["from"] for attempt in run.summary()["attempts"]} == {str(given.path)}


@pytest.mark.parametrize("first, attempts", [("learning", 3), ("healthy", 0)])
def test_a_run_that_ends_collapsed_is_tried_again_unless_it_was_healthy(
    first: str, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two checks are too few for a second one to confirm the verdict, and nothing is left to wait for."""
    monkeypatch.setattr(monitoring, "verdict_function", says(first, "collapsed"))
    recipe = small("gan-mlp", **{**FAST, "monitor.every": 960, "monitor.on_collapse": "rollback"})
    said = train(recipe, out=tmp_path / "run").summary()
    assert said["state"] == "finished"
    assert len(said.get("attempts", [])) == attempts


def test_a_generator_that_outputs_one_noise_image_is_stopped_and_tried_again(tmp_path: Path) -> None:
    changes = {"monitor.on_collapse": "rollback", "optimizer.lr": 1e-12, "train.images": 6400, "monitor.every": 1600}
    run = train(small("gan-mlp", **{**FAST, **changes}), out=tmp_path / "run")
    checks = [line for line in run.metrics() if line["kind"] == "check"]
    assert [check["verdict"] for check in checks] == ["learning", "collapsed", "collapsed"]
    said = run.summary()
    assert said["state"] == "collapsed"
    assert said["attempts"]


def test_at_most_three_attempts_each_with_other_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "verdict_function", says("collapsed"))
    run = trained(tmp_path / "run", "rollback")
    said = run.summary()
    assert [entry["attempt"] for entry in said["attempts"]] == [1, 2, 3]
    assert all(entry["state"] == "collapsed" and entry["from"] is None for entry in said["attempts"])
    assert len({json.dumps(entry["changed"]) for entry in said["attempts"]}) == 3
    losses = [run.attempt(i).recipe.objective.adversary.loss for i in (1, 2, 3)]
    assert losses == ["relativistic"] * 3
    assert run.attempt(2).recipe.objective.adversary.augment.policy
    assert run.attempt(3).recipe.objective.adversary.pack == 2


class Kill(Callback):
    """Dies at a check of an attempt."""

    def __init__(self, seen: int) -> None:
        self.seen, self.runs = seen, 0

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        self.runs += 1

    def checked(self, trainer: Trainer, check: Check) -> None:
        if self.runs == 2 and check.seen >= self.seen:
            raise KeyboardInterrupt


def test_killed_in_an_attempt_the_same_command_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "verdict_function", says("healthy", "collapsed", "collapsed"))
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", "rollback", Kill(640))
    assert RunDir(tmp_path / "killed").training_ended
    assert not RunDir(tmp_path / "killed").is_complete
    # Without its directory --resume finds it, too.
    recipe = small("gan-mlp", **FAST, **{"monitor.on_collapse": "rollback"})
    resumed = train(recipe, root=tmp_path, resume=True)
    assert resumed.path == tmp_path / "killed"
    assert resumed.is_complete
    whole = trained(tmp_path / "whole", "rollback")
    assert [entry["state"] for entry in resumed.summary()["attempts"]] == ["collapsed"] * 3
    for number in (1, 2, 3):
        one, two = (run.attempt(number) for run in (resumed, whole))
        weights = [ectype.load(place.path, device="cpu").state_dict() for place in (one, two)]
        assert all(weights[0][key].equal(weights[1][key]) for key in weights[0])


def test_advice_comes_in_the_order_that_works_and_leaves_out_what_is_done() -> None:
    plain = load_recipe("gan-mlp", {"data.source": "digits"})
    titles = [advice.title for advice in advice_for_verdict(plain, "collapsed")]
    assert titles[0] == "the relativistic loss with R1 and R2 penalties"
    assert titles[-1] == "the Wasserstein loss with a gradient penalty"
    done = plain.override(advice_for_verdict(plain, "collapsed")[0].overrides)
    assert [advice.title for advice in advice_for_verdict(done, "collapsed")] == titles[1:]
    assert [advice.title for advice in advice_for_verdict(plain, "memorising")] == ["augmented images for the critic"]
    assert advice_for_verdict(load_recipe("vae"), "collapsed") == []


@pytest.mark.parametrize("preset", ["gan-mlp", "cgan-mlp", "gan", "cgan", "wgan-gp"])
def test_advice_is_a_command_that_can_be_typed(preset: str) -> None:
    import shlex

    recipe = load_recipe(preset, {"data.source": "digits"})
    for advice in advice_for_verdict(recipe, "collapsed"):
        typed = shlex.split(advice.as_arguments())
        assert load_recipe(preset, ["data.source=digits", *typed]) == recipe.override(advice.overrides)
