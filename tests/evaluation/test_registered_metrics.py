"""A user's own metrics in evaluations, reports and comparisons."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ectype
from ectype.analysis.open_view import open_view
from ectype.core.errors import EctypeWarning, RecipeError
from ectype.evaluation import figure_names, registered
from ectype.evaluation.comparison_stats import compare_figures
from ectype.evaluation.figures import Evaluation
from ectype.evaluation.registered import (
    metric_digests,
    output_figures,
    output_values,
    register_metric,
    registered_metrics,
    sample_figures,
)
from ectype.runs.run_dir import RunDir
from tests.conformance.small import small

FAST = {"train.images": 320, "monitor.every": 160, "run.pictures": 0, "run.log_every": 1000}


@pytest.fixture(autouse=True)
def _own_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "_metrics", {})
    monkeypatch.setattr(figure_names, "NAMES", dict(figure_names.NAMES))


def brightness(images: Tensor, outputs: Tensor) -> Tensor:
    return (images.mean((1, 2, 3)) - outputs.mean((1, 2, 3))).abs()


def mean_difference(real: Tensor, samples: Tensor) -> float:
    return abs(float(real.mean() - samples.mean()))


def trained(name: str, out: Path, **changes: Any) -> RunDir:
    ectype.train(small(name, **FAST, **changes), out=out)
    return RunDir(out)


def test_examples() -> None:
    assert doctest.testmod(registered).failed == 0


def test_a_metric_on_outputs_is_a_mean_over_images_with_its_interval() -> None:
    register_metric("brightness", brightness, name="brightness error", better="lower", unit="levels", note="why")
    images, outputs = torch.rand(2, 20, 1, 4, 4).unbind()
    values = output_values(images, outputs)
    (figure,) = output_figures(values, "reconstruction")
    expected = brightness(images, outputs)
    assert figure.key == "brightness"
    assert figure.name == "brightness error"
    assert (figure.group, figure.unit, figure.better, figure.note) == ("reconstruction", "levels", "lower", "why")
    assert figure.value == pytest.approx(float(expected.mean()))
    assert figure.low is not None
    assert figure.high is not None
    assert figure.high - figure.value == pytest.approx(1.96 * float(expected.std()) / 20**0.5)
    assert figure.n == 20


def test_numpy_values_and_own_groups() -> None:
    register_metric("mine", lambda images, outputs: np.arange(len(images)), group="contrast")
    values = output_values(torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4))
    (figure,) = output_figures(values, "reconstruction")
    assert (figure.value, figure.group, figure.better, figure.name) == (1.0, "contrast", None, "mine")


def test_a_metric_on_samples_has_a_jackknife_interval_and_a_baseline() -> None:
    register_metric("mean_difference", mean_difference, better="lower", group="generation")
    generator = torch.Generator().manual_seed(0)
    real, samples, train = (torch.rand(40, 1, 4, 4, generator=generator) for _ in range(3))
    (figure,) = sample_figures(real, samples + 0.1, train, seed=0)
    assert figure.value == pytest.approx(0.1, abs=0.05)
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < figure.value < figure.high
    assert figure.baselines == {"real_images": pytest.approx(mean_difference(real, train))}
    (few,) = sample_figures(real[:5], samples[:5], train[:5], seed=0)
    assert few.low is None


def test_metrics_of_one_kind_are_not_called_for_the_other() -> None:
    register_metric("one", brightness)
    register_metric("two", mean_difference, on="samples")
    assert registered_metrics() == ["one", "two"]
    values = output_values(torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4))
    assert [figure.key for figure in output_figures(values, "reconstruction")] == ["one"]
    assert [figure.key for figure in sample_figures(*torch.rand(3, 20, 1, 4, 4), seed=0)] == ["two"]


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda images, outputs: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda images, outputs: images, r"returned shape \[3, 1, 4, 4\] for 3 images"),
        (lambda images, outputs: "text", "ValueError"),
    ],
)
def test_a_metric_that_fails_is_left_out_with_a_warning(function: Any, message: str) -> None:
    register_metric("mine", function)
    with pytest.warns(EctypeWarning, match=message):
        values = output_values(torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4))
    assert not output_figures(values, "reconstruction")
    assert registered.failed_remarks(values) == ["Metric 'mine' has no finite value for 3 of 3 test images."]


def test_a_metric_on_samples_that_fails_is_left_out() -> None:
    register_metric("mine", lambda real, samples: real, on="samples")
    with pytest.warns(EctypeWarning, match="not one number"):
        assert not sample_figures(*torch.rand(3, 20, 1, 4, 4), seed=0)


@pytest.mark.parametrize(
    "key, more, message",
    [
        ("psnr", {}, "built-in"),
        ("fd_mine", {}, "built-in"),
        ("Mine", {}, "lower-case"),
        ("a-b", {}, "lower-case"),
        ("mine", {"function": 3}, "pass a function"),
    ],
)
def test_keys_that_cannot_be(key: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        register_metric(key, **{"function": brightness, **more})


def test_a_metric_may_be_registered_again() -> None:
    register_metric("mine", brightness)
    before = metric_digests()
    register_metric("mine", brightness)
    assert metric_digests() == before
    register_metric("mine", mean_difference)
    assert metric_digests() != before


def test_a_run_is_measured_again_for_a_new_metric_and_keeps_it(tmp_path: Path) -> None:
    run = trained("vae-fast", tmp_path / "run")
    first = open_view(run).evaluation
    assert first.get("brightness") is None
    register_metric("brightness", brightness, name="brightness error", better="lower")
    found = open_view(run).evaluation
    figure = found["brightness"]
    assert figure.low is not None
    assert figure.low < figure.value
    assert figure.group == "reconstruction"
    assert found["psnr"].value == first["psnr"].value
    stored = json.loads(run.evaluation_file.read_text())
    assert list(stored["metrics"]) == ["brightness"]
    registered._metrics.clear()  # as in another process, which knows nothing of it
    assert open_view(run).evaluation["brightness"] == figure
    assert Evaluation.from_json(found.to_json()) == found


def test_a_comparison_and_a_report_have_own_metrics(tmp_path: Path) -> None:
    from ectype.analysis.results import report

    register_metric("brightness", brightness, name="brightness error", better="lower")
    register_metric("mean_difference", mean_difference, name="difference of means", better="lower", on="samples")
    runs = [trained("vae-fast", tmp_path / str(seed), **{"train.seed": seed}) for seed in range(2)]
    evaluations = {str(i): [open_view(run).evaluation] for i, run in enumerate(runs)}
    keys = {comparison.key: comparison for comparison in compare_figures(evaluations)}
    assert keys["brightness"].name == "brightness error"
    assert keys["mean_difference"].baselines["real_images"] >= 0
    page = report([runs[0]]).read_text(encoding="utf-8")
    assert "brightness error" in page
    assert "difference of means" in page


def test_translators_have_own_metrics(tmp_path: Path) -> None:
    shapes = []

    @register_metric("mine", better="higher")
    def mine(wanted: Tensor, outputs: Tensor) -> Tensor:
        shapes.append((wanted.shape[1:], outputs.shape[1:]))
        return (outputs.argmax(1) == wanted).flatten(1).float().mean(1)

    run = trained("unet-segment", tmp_path / "run")
    figure = open_view(run).evaluation["mine"]
    assert figure.group == "masks"
    assert 0 <= figure.value <= 1
    assert shapes[0] == ((16, 16), (2, 16, 16))
