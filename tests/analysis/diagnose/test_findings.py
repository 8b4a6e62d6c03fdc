"""Each finding on a run or images that have it, and on a twin that has not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

import ectype
import ectype.analysis.diagnose
from ectype.analysis import results
from ectype.analysis.diagnose import (
    blur,
    check,
    critic_balance,
    latent_gap,
    memorization,
    mode_collapse,
    overfitting,
    posterior_collapse,
    small_latent,
    undertrained,
)
from ectype.analysis.diagnose.advice import adversarial_objective, advice_for_verdict
from ectype.analysis.diagnose.finding import Advice, Finding
from ectype.analysis.open_view import open_view
from ectype.analysis.run_view import RunView
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.evaluation import training_progress
from ectype.evaluation.figures import Figure
from ectype.runs.run_dir import RunDir
from ectype.training.run import train
from tests.conformance.small import small

pytestmark = pytest.mark.trains

QUICK: dict[str, Any] = {
    "train.images": 20_000,
    "train.batch": 32,
    "monitor.every": 10_000,
    "monitor.patience": None,
    "optimizer.lr": 0.004,
    "run.pictures": 0,
    "data.source": "digits",
}


def trained(place: Path, preset: str, **changes: Any) -> RunView:
    recipe = load_recipe(preset).override({**QUICK, **changes})
    return open_view(train(recipe, out=place))


def names(view: RunView) -> dict[str, Finding]:
    return {finding.name: finding for finding in check.check_run(view)}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    return trained(tmp_path_factory.mktemp("runs") / "vae", "vae-mlp", latent_dim=16, hidden=[128])


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    recipe = small("gan-mlp", **{"run.log_every": 0, "run.pictures": 0})
    return open_view(train(recipe, out=tmp_path_factory.mktemp("runs") / "gan"))


def with_figure(view: RunView, figure: Figure, **more: Any) -> RunView:
    others = [each for each in view.evaluation.figures if each.key != figure.key]
    evaluation = dataclasses.replace(view.evaluation, figures=[figure, *others], **more)
    return dataclasses.replace(view, evaluation=evaluation, memo={})


def test_a_healthy_run_is_left_alone(healthy: RunView) -> None:
    assert not {"latent too small", "posterior collapse", "outputs alike"} & set(names(healthy))


def test_a_small_latent_is_found_and_the_advice_helps(tmp_path: Path) -> None:
    sick = trained(tmp_path / "sick", "vae-mlp", latent_dim=2, hidden=[128])
    finding = names(sick)["latent too small"]
    (advice,) = finding.advice
    size = advice.overrides["model.net.latent_dim"]
    assert size > 2
    assert f"model.net.latent_dim={size}" in advice.as_arguments()
    assert len(finding.pictures["images"]) == len(finding.pictures["reconstructions"]) > 0
    better = trained(tmp_path / "better", "vae-mlp", **{"hidden": [128], **advice.overrides})
    assert better.evaluation["psnr"].low > sick.evaluation["psnr"].high
    assert "MSE of PCA of 4" in {evidence.name for evidence in finding.evidence}


def test_of_a_dozen_updates_nothing_but_their_number_is_said(tmp_path: Path) -> None:
    """Not that a posterior has collapsed which had no time to do anything."""
    view = trained(tmp_path / "short", "vae", **{"size": 16, "train.images": 416, "monitor.every": 208})
    (finding,) = check.check_run(view)
    assert finding.name == "undertrained"
    assert finding.evidence[0].value == 13
    assert [advice.overrides for advice in finding.advice] == [{}, {"train.batch": 8}]
    assert load_recipe("vae", [finding.advice[0].why.split(" would")[0].replace("--images ", "train.images=")])
    # A try of which more can be told is better than one of which nothing can, whatever that is.
    said = train(view.recipe, out=view.run.path, fix=True).summary()
    assert said["attempts"][0]["changed"] == {"train.batch": 8}
    assert said["shipped_attempt"] >= 1
    found = names(open_view(RunDir(view.run.path))).values()
    assert not any(each.withholds_others for each in found)


def test_a_short_run_is_undertrained_and_nothing_else(tmp_path: Path) -> None:
    """After 90 updates a posterior has not collapsed, and outputs are not blurred for want of another loss."""
    view = trained(tmp_path / "short", "vae", **{"size": 16, "width": 8, "train.images": 2880, "monitor.every": 2880})
    assert view.evaluation["psnr_above_pca"].high < 0
    found = check.check_run(view)
    assert (found[0].name, found[0].severity) == ("undertrained", "warning")
    assert {each.severity for each in found[1:]} <= {"note"}
    assert all(each.message.endswith("may go away with training") and not each.advice for each in found[1:])
    assert "there were only 90 updates" in found[0].message
    per_parameter = {each.name: each.value for each in found[0].evidence}["pixel values shown per parameter"]
    parameters = sum(values.numel() for values in load_file(view.run.model / "model.safetensors").values())
    assert per_parameter == pytest.approx(2880 * view.info.num_elements / parameters, rel=0.02)  # buffers are few
    assert "--images 66240 would be 2,070 updates" in found[0].advice[0].why
    assert view.evaluation.verdict in ("undertrained", "healthy")


def test_a_short_gan_says_how_long_its_samples_take(generator: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, summary = generator.run.seen(), {**generator.run.summary(), "seconds": 60.0}
    monkeypatch.setattr(RunDir, "summary", lambda run: summary)
    falling = [(round(seen * share), 400 / share**0.5) for share in (0.25, 0.5, 0.75, 1.0)]
    short = training_progress.TrainingProgress(300, falling, is_distance=True, floor=20.0, state="finished")
    monkeypatch.setattr(undertrained, "progress_of_run", lambda run: short)
    finding = undertrained.find_in_run(generator)
    assert finding is not None
    # From 400 to 3 times the floor, as the inverse root of the images.
    growth = (400 / 60) ** 2
    needed = {evidence.name: evidence.value for evidence in finding.evidence}
    assert needed["images until samples come close to real ones"] == pytest.approx(growth * seen, rel=0.01)
    assert finding.headline.endswith("at this pace, samples come close to real images after about 44 minutes")
    assert finding.advice[0].why.startswith(f"--images {45 * seen} ")
    never = short._replace(checks=[(at, 400.0 - at / seen) for at, _ in falling])
    monkeypatch.setattr(undertrained, "progress_of_run", lambda run: never)
    finding = undertrained.find_in_run(generator)
    assert finding is not None
    assert finding.headline == "The model is undertrained (300 updates)"


def test_what_training_cannot_change_is_said_of_an_undertrained_run(
    healthy: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Finding("undertrained", "warning", "", [], decisive=True)
    copied = Finding("memorisation", "serious", "", [], lasting=True)
    blurred = Finding("blur", "serious", "", [])
    monkeypatch.setattr(
        check, "_checks", lambda function: [lambda view: blurred, lambda view: copied, lambda view: first]
    )
    found = check.check_run(dataclasses.replace(healthy, memo={}))
    expected = [("undertrained", "warning"), ("memorisation", "serious"), ("blur", "note")]
    assert [(each.name, each.severity) for each in found] == expected
    first = dataclasses.replace(first, withholds_others=True)
    found = check.check_run(dataclasses.replace(healthy, memo={}))
    assert [each.name for each in found] == ["undertrained", "memorisation"]


def test_outputs_are_compared_with_what_pca_keeps_however_little(healthy: RunView) -> None:
    """Of images of noise a small code keeps hardly anything, and outputs cannot vary more."""

    def judged(variance: float, kept: float, active: float = 2.0) -> Finding | None:
        error = healthy.evaluation["mse"]
        baselines = {**error.baselines, "mean_image": 1.0, "pca_16": 1.0 - kept}
        view = with_figure(healthy, dataclasses.replace(error, baselines=baselines))
        view = with_figure(view, Figure("output_variance", variance, "reconstruction"))
        return posterior_collapse.find_in_run(with_figure(view, Figure("active_units", active, "codes")))

    assert judged(0.06, 0.1) is None
    assert judged(0.005, 0.01) is None
    found = judged(0.02, 0.1)
    assert found is not None
    assert (found.name, found.severity) == ("posterior collapse", "serious")
    used = judged(0.02, 0.1, active=16.0)
    assert used is not None
    assert used.name == "outputs alike", "all dimensions of the code are active"


def test_a_network_that_loses_to_pca_is_not_blamed_on_its_latent(healthy: RunView) -> None:
    mse = healthy.evaluation["mse"]
    baselines = {**mse.baselines, "mean_image": mse.value * 2, "pca_16": mse.value / 2}
    assert small_latent.find_in_run(with_figure(healthy, dataclasses.replace(mse, baselines=baselines))) is None


def test_posterior_collapse_is_found_named_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (training_progress, undertrained):
        monkeypatch.setattr(module, "FEW_UPDATES", 500)  # these runs have 625 updates
    words = {"hidden": [128], "latent_dim": 16, "objective.beta": 100.0}
    run = train(load_recipe("vae-mlp").override({**QUICK, **words}), out=tmp_path / "run")
    before = open_view(run)
    finding = names(before)["posterior collapse"]
    assert finding.severity == "serious"
    assert finding.advice[0].overrides == {"objective.beta": 1.0}
    assert "averaging" in finding.advice[0].why  # 100 ≥ a tenth of 64 numbers
    mended = train(load_recipe("vae-mlp").override({**QUICK, **words}), out=run.path, fix=True)
    said = mended.summary()
    assert said["shipped_attempt"] >= 1
    assert said["attempts"][0]["why"] == "posterior collapse"
    assert said["attempts"][0]["changed"] == {"objective.beta": 1.0}
    after = open_view(mended)
    assert after.evaluation["psnr"].low > before.evaluation["psnr"].high
    assert "posterior collapse" not in names(after)
    # The same again trains nothing, and page and terminal say what was done.
    again = train(load_recipe("vae-mlp").override({**QUICK, **words}), out=run.path, fix=True)
    assert again.summary() == said
    assert "posterior collapse, so from the beginning with objective.beta=1.0" in results.report([run]).read_text()


def test_a_run_says_early_that_its_outputs_are_alike(tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Console):
        def print(self, *text: Any, **_: Any) -> None:
            said.extend(map(str, text))

    words = {**QUICK, "hidden": [128], "latent_dim": 16, "monitor.every": 2000}
    for beta in (1.0, 100.0):
        said.clear()
        recipe = load_recipe("vae-mlp").override({**words, "objective.beta": beta})
        train(recipe, out=tmp_path / f"{beta}", console=Listening())
        warned = [line for line in said if "reconstructions of different images are nearly identical" in line]
        assert len(warned) == (beta > 1)
        assert all("a smaller objective.beta or a longer objective.warmup" in line for line in warned)


def test_lost_modes_and_copies_are_told_with_what_cures_them(
    generator: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last checks of a run as short as this one have their own view.
    monkeypatch.setattr(RunDir, "last_verdict", lambda self: "")

    def judged(verdict: str) -> RunView:
        found = dataclasses.replace(generator.evaluation, verdict=verdict)
        return dataclasses.replace(generator, evaluation=found)

    assert mode_collapse.find_in_run(judged("healthy")) is None
    collapsed = mode_collapse.find_in_run(judged("collapsed"))
    assert collapsed is not None
    assert collapsed.severity == "serious"
    assert {"coverage", "recall"} <= {e.name.split(" (")[0] for e in collapsed.evidence}
    assert collapsed.advice[0].overrides["objective.adversary.loss"] == "relativistic"
    assert memorization.find_in_run(judged("collapsed")) is None
    copied = memorization.find_in_run(judged("memorising"))
    assert copied is not None
    assert "objective.adversary.augment.policy" in copied.advice[0].overrides


def test_what_a_run_ended_by_is_told_though_better_weights_are_shipped(
    generator: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunDir, "last_verdict", lambda self: "")
    good = dataclasses.replace(generator, evaluation=dataclasses.replace(generator.evaluation, verdict="healthy"))
    for verdict, find in (
        ("collapsed", mode_collapse.find_in_run),
        ("memorising", memorization.find_in_run),
        ("memorising or shrunken", memorization.find_in_run),
    ):
        assert find(good) is None
        for said in ("state", "last_verdict"):
            with monkeypatch.context() as patch:
                patch.setattr(RunDir, said, lambda self, verdict=verdict: verdict)
                found = find(good)
            assert found is not None
            assert found.severity == "warning"
            assert "the selected weights may be" in found.message


def test_a_last_verdict_is_one_that_two_checks_agree_on(tmp_path: Path) -> None:
    def after(*verdicts: str) -> str:
        run = RunDir(tmp_path)
        common = {"kind": "check", "evidence": ""}
        lines = [{**common, "seen": i, "step": i, "verdict": verdict} for i, verdict in enumerate(verdicts)]
        run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run.last_verdict()

    assert after() == ""
    assert after("collapsed") == ""
    assert after("collapsed", "healthy") == ""
    assert after("healthy", "collapsed", "collapsed") == "collapsed"


def test_a_critic_that_always_or_never_tells_is_found(generator: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    line: dict[str, Any] = {
        "kind": "train",
        "seen": 1,
        "critic/D(real)": 3.0,
        "critic/D(made)": -3.0,
        "generator/gradient norm": 0.1,
    }
    monkeypatch.setattr(RunDir, "metrics", lambda self: [line] * 20)

    def told(share: float) -> Finding | None:
        line["critic/told apart"] = share
        return critic_balance.find_in_run(generator)

    strong, weak = told(1.0), told(0.4)
    assert strong is not None
    assert strong.name == "critic too strong"
    assert any("penalty" in key for advice in strong.advice for key in advice.overrides)
    assert weak is not None
    assert weak.name == "critic too weak"
    assert told(0.8) is None
    # Where the rates alone explain who wins, those come first.
    assert "the generator's learning rate for the critic" not in {
        advice.title for advice in [*strong.advice, *weak.advice]
    }
    rate = generator.recipe.optimizer.for_player("generator").lr
    for share, times in ((1.0, 25.0), (0.4, 1e-6)):
        uneven = generator.recipe.override({"optimizer.players": {"critic": {"lr": rate * times, "clip": 1.0}}})
        view = dataclasses.replace(generator)
        view.__dict__["recipe"] = uneven  # where a cached property keeps it
        line["critic/told apart"] = share
        found = critic_balance.find_in_run(view)
        assert found is not None
        changed = uneven.override(found.advice[0].overrides).optimizer.for_player("critic")
        assert (changed.lr, changed.clip) == (rate, 1.0)


def test_advice_is_a_recipe(generator: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"kind": "train", "seen": 1, "critic/told apart": 1.0}
    monkeypatch.setattr(RunDir, "metrics", lambda self: [line] * 20)
    finding = critic_balance.find_in_run(generator)
    assert finding is not None
    for advice in finding.advice:
        generator.recipe.override(advice.overrides)


def test_advice_for_a_game_of_codes_is_for_its_inner_rules() -> None:
    recipe = load_recipe("latent-gan", {"objective.inner.adversary.loss": "hinge"})
    rules, key = adversarial_objective(recipe)
    assert (key, rules.kind) == ("objective.inner", "adversarial")
    found = advice_for_verdict(recipe, "collapsed")
    assert found[0].overrides["objective.inner.adversary.loss"] == "relativistic"
    for advice in found:
        assert recipe.override(advice.overrides) != recipe
    assert not any("augment" in key for advice in found for key in advice.overrides), "codes are no pictures"


def test_advice_that_cannot_be_built_here_is_not_given(healthy: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("ae")
    blurred_by = {"objective.loss": {"l1": 1.0, "perceptual": 0.1}}
    finding = Finding("blur", "warning", "", [], [Advice("a perceptual term", "", blurred_by)], {})
    info = DataInfo(3, (32, 32))
    assert check._keep_applicable_advice([finding], recipe, info)[0].advice
    scored = recipe.override({"likelihood": "discretised_logistic"})
    assert not check._keep_applicable_advice([finding], scored, info)[0].advice
    monkeypatch.setattr("ectype.losses.features.find_weights", lambda *_: None)
    assert not check._keep_applicable_advice([finding], recipe, info)[0].advice


def test_blur_is_told_by_its_interval(healthy: RunView) -> None:
    def kept(value: float, high: float) -> Finding | None:
        return blur.find_in_run(
            with_figure(healthy, Figure("fine_detail", value, "reconstruction", low=value, high=high))
        )

    found = kept(0.2, 0.3)
    assert found is not None
    assert found.severity == "serious"
    assert kept(0.4, 0.6) is None
    assert kept(0.9, 1.0) is None


def test_codes_that_are_hard_to_generate(healthy: RunView) -> None:
    def far(value: float) -> Finding | None:
        baselines = {"real_images": 1.0, "reconstructions": 3.0}
        figure = Figure("fd_pixels", value, "generation", baselines=baselines)
        return latent_gap.find_in_run(with_figure(healthy, figure))

    assert far(8.0) is None
    found = far(40.0)
    assert found is not None
    assert found.severity == "warning"
    assert found.advice[0].overrides == {"objective.beta": 4.0}


def test_another_file_is_another_finding(healthy: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tuesday.py").write_text(
        "from ectype.analysis.diagnose.finding import Finding\n"
        "def find_in_run(view):\n    return Finding('tuesday', 'note', 'it is tuesday', [], lasting=True)\n"
    )
    monkeypatch.setattr(ectype.analysis.diagnose, "__path__", [*ectype.analysis.diagnose.__path__, str(tmp_path)])
    found = check.check_run(dataclasses.replace(healthy, memo={}))
    assert found[-1].name == "tuesday"
    assert found[-1].lines() == ["note: tuesday: it is tuesday"]
    assert json.dumps(found[-1].to_dict())


def test_overfitting_is_told_by_held_out_images_alone(healthy: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(*values: float) -> Finding | None:
        lines = [{"kind": "check", "seen": 100 * i, "step": i, "½·SSE": value} for i, value in enumerate(values, 1)]
        monkeypatch.setattr(RunDir, "metrics", lambda self: lines)
        return overfitting.find_in_run(healthy)

    assert checked(9, 5, 4, 3, 3.1, 3.0) is None
    assert checked(9, 3) is None
    assert checked(-3, -9, -9, -9, -8.9) is None
    found = checked(9, 5, 3, 4, 5, 6)
    assert found is not None
    assert found.severity == "note"
    assert "best after 300 images and has lost 50%" in found.message
