"""What a run is monitored by: its loss on held-out images, or its samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from ectype.core.errors import RecipeError
from ectype.runs.run_dir import RunDir
from ectype.training.run import train
from tests.conformance.small import small

SHORT = {"train.images": 320, "monitor.every": 160, "monitor.images": 100, "monitor.features": "pixels"}


@pytest.mark.parametrize(
    "preset, metric, match",
    [
        ("gan-mlp", "loss", "monitor.metric=loss: the losses of gan-mlp do not measure how good it is: set it to auto"),
        ("unet-denoise", "samples", "monitor.metric=samples: unet-denoise draws no samples: set it to auto"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(
    preset: str, metric: str, match: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=match):
        train(small(preset, **{**SHORT, "monitor.metric": metric}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.trains
@pytest.mark.parametrize("metric, name", [("auto", "FD-pixels"), ("loss", "the loss on held-out images")])
def test_a_flow_is_monitored_by_its_samples_or_its_loss(metric: str, name: str, tmp_path: Path) -> None:
    run = train(small("flow", **{**SHORT, "monitor.metric": metric}), out=tmp_path / "run")
    assert run.summary()["measure"] == name
    checks = [line for line in run.metrics() if line["kind"] == "check"]
    assert ("velocity mse" in checks[0]) == (metric == "loss")


@pytest.mark.trains
def test_the_loss_of_two_checks_differs_by_the_model_alone(tmp_path: Path) -> None:
    recipe = small("flow", **{**SHORT, "monitor.metric": "loss", "optimizer.lr": 1e-30})
    run: RunDir = train(recipe, out=tmp_path / "run")
    first, *_, last = [line["velocity mse"] for line in run.metrics() if line["kind"] == "check"]
    assert first == pytest.approx(last, rel=1e-6), "the noise and the times are the same"


@pytest.mark.trains
def test_an_autoencoder_may_be_monitored_by_its_samples(tmp_path: Path) -> None:
    run = train(small("vae", **{**SHORT, "monitor.metric": "samples"}), out=tmp_path / "run")
    assert run.summary()["measure"] == "FD-pixels"
