"""Whether a run was trained enough to be judged, on histories of checks that are known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from ectype.evaluation.figures import Figure
from ectype.evaluation.training_progress import Shortfall, TrainingProgress, progress_of_run, shortfall
from ectype.runs.run_dir import RunDir


def losses(updates: int, loss: Callable[[float], float], checks: int = 10, state: str = "finished") -> TrainingProgress:
    """A run whose loss is a function of the share of the run."""
    shares = [(place + 1) / checks for place in range(checks)]
    return TrainingProgress(updates, [(round(1000 * share), loss(share)) for share in shares], state=state)


def falling(share: float) -> float:
    return 10 - 5 * share


def level(share: float) -> float:
    return 10 - min(5.0, 40 * share)


def turning(share: float) -> float:
    return 10 - 5 * share if share < 0.8 else 6 + 10 * (share - 0.8)


@pytest.mark.parametrize(
    "training, below, said",
    [
        (losses(13, level), "", "13 updates are too few"),
        (losses(93, falling, checks=1), "below", "there were only 93 updates"),
        (losses(93, falling, checks=1), "", ""),
        (losses(3000, falling, checks=1), "below", ""),
        (losses(3000, falling, checks=1), "far below", "there were only 3,000 updates"),
        (losses(3000, level), "far below", ""),
        (losses(5000, falling, checks=1), "far below", ""),
        (losses(5000, falling, checks=4), "below", ""),  # the first check is too late to compare with
        (losses(5000, falling), "below", "the held-out loss still fell at the end, with 56% of its improvement"),
        (losses(5000, falling), "", ""),
        (losses(5000, level), "below", ""),
        (losses(300, level), "below", ""),
        (losses(300, lambda share: 9.0), "below", ""),
        (losses(300, turning), "below", ""),
        (losses(300, falling, state="stopped early"), "below", "there were only 300 updates"),
        (losses(5000, falling, state="stopped early"), "below", ""),
        (losses(5000, falling, state="spoiled"), "below", ""),
        (losses(300, lambda share: math.nan), "below", "there were only 300 updates"),
    ],
)
def test_a_run_lacks_training_if_it_is_poor_and_short_or_still_improving(
    training: TrainingProgress, below: Shortfall, said: str
) -> None:
    found = training.lacks_training(below)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_a_generator_is_compared_with_real_images_by_its_own_distance() -> None:
    def distances(updates: int, *values: float) -> str:
        checks = [(100 * place, value) for place, value in enumerate(values, 1)]
        training = TrainingProgress(updates, checks, is_distance=True, floor=2.0, state="finished")
        return training.lacks_training("")

    assert distances(300, 90, 80, 85, 84) == "there were only 300 updates"
    assert distances(300, 90, 20, 8, 5) == ""  # close to real images
    assert distances(5000, 90, 60, 50, 40).startswith("the distance of samples still fell at the end, by 33%")
    assert distances(5000, 60, 50, 55, 52) == ""
    assert distances(300, 138.01, 138.01, 138.01, 138.01) == "", "training longer would change nothing"
    assert distances(5000, math.nan, math.nan) == ""


def test_equal_distances_in_the_second_half_are_a_frozen_generator() -> None:
    def frozen(*values: float, updates: int = 300, is_distance: bool = True) -> bool:
        return TrainingProgress(updates, [(i, value) for i, value in enumerate(values)], is_distance).is_frozen

    assert frozen(138.01, 138.01)
    assert frozen(140.0, 138.01, 138.01, 138.01)
    assert not frozen(138.01)
    assert not frozen(140.0, 139.0, 138.01, 138.01)  # two checks that happen to agree
    assert not frozen(138.01, 138.01, updates=20)
    assert not frozen(138.01, 138.01, is_distance=False)


def test_the_simple_baseline_depends_on_what_a_model_is_for() -> None:
    def figure(key: str, value: float, high: float | None = None, **baselines: float) -> Figure:
        return Figure(key, value, "group", high=high, baselines=baselines)

    gap = figure("psnr_above_pca", -2.0, high=-1.5)
    assert shortfall([gap]) == "far below"
    assert shortfall([figure("psnr_above_pca", -1.0, high=-0.5)]) == "below"
    assert shortfall([figure("psnr_above_pca", -0.1, high=0.1)]) == ""
    assert shortfall([figure("psnr", 9.0, mean_image=8.0, nearest_training_image=10.0)]) == "below"
    assert shortfall([figure("psnr", 11.0, nearest_training_image=10.0)]) == ""
    assert shortfall([figure("mean_dice", 0.3, one_class=0.3)]) == "below"
    restored = figure("psnr_restored", 20.0, corrupted_input=15.0)
    assert shortfall([restored]) == ""
    assert shortfall([restored, gap, figure("psnr", 9.0, nearest_training_image=10.0)]) == "", "it restores images"
    assert shortfall([figure("psnr_restored", 20.0, corrupted_input=15.0, linear_filter=20.5)]) == "below"
    assert shortfall([figure("psnr", 20.0, nearest_training_image=10.0, downscaled_48=21.0)]) == "below"
    above = figure("psnr_above_pca", 0.5, high=0.6)
    assert shortfall([above, figure("psnr", 20.0, downscaled_48=21.0, pca_48=19.5)]) == ""
    assert shortfall([figure("psnr", 10.0, input=11.0)]) == "below"
    assert (
        shortfall([figure("fd_pixels", 9.0, real_images=2.0), figure("fd_classifier", 1.0, real_images=1.0)]) == "below"
    )
    assert shortfall([figure("fd_pixels", 5.0, real_images=2.0)]) == ""
    assert shortfall([]) == ""


def test_the_files_of_a_run_say_how_it_was_trained(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert progress_of_run(run).lacks_training("far below") == ""
    lines = [{"kind": "check", "seen": 100 * i, "step": i, "fd_pixels": 9.0 - i} for i in (1, 2)]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.summary_file.write_text(json.dumps({"state": "finished", "step": 200, "floor": 0.5}))
    assert progress_of_run(run) == TrainingProgress(200, [(100, 8.0), (200, 7.0)], True, 0.5, "finished")


def test_a_forecast_continues_the_power_law_of_distances() -> None:
    def forecast(law: Callable[[float], float], target: float, *, is_distance: bool = True) -> float | None:
        checks = [(1000 * place, law(1000 * place)) for place in range(1, 9)]
        return TrainingProgress(500, checks, is_distance=is_distance).images_to_reach(target)

    assert forecast(lambda seen: 1e5 / seen, 5.0) == pytest.approx(20_000, rel=0.01)
    assert forecast(lambda seen: 1000 * seen**-0.5, 2.0) == pytest.approx(250_000, rel=0.01)
    assert forecast(lambda seen: 1e5 / seen, 50.0) == 8000, "what is reached takes no longer than the run so far"
    assert forecast(lambda seen: 90.0, 5.0) is None
    assert forecast(lambda seen: 1000 * seen**-0.1, 2.0) is None, "more than a thousand times as long"
    assert forecast(lambda seen: math.nan, 2.0) is None
    assert forecast(lambda seen: 1e5 / seen, 5.0, is_distance=False) is None
