"""How a CPU computes training steps is timed at the start of a run: precision, memory format and threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import ectype
from ectype.config.recipe import Recipe
from ectype.core.distributed import World
from ectype.runs import checkpoint
from ectype.runs.run_dir import RunDir
from ectype.training import session, speed
from ectype.training.loop import Callback, Check
from ectype.training.run import train
from ectype.training.speed import FasterSteps, find_faster_steps
from ectype.training.trainer import Trainer
from tests.conformance.small import small

PLAIN = small("ae", **{"train.images": 160_000, "train.batch": 16})
Seconds = Callable[[Recipe], float]
SLOW = 0.1


class Clock:
    """Stands in for the module `time`; only steps take time."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(speed, "time", made)
    monkeypatch.setattr(speed, "has_bf16_units", lambda device: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return made


class Steps(Trainer):
    """A trainer whose steps take as long as they are told to."""

    def __init__(self, recipe: Recipe, clock: Clock, seconds: Seconds, loss: Seconds = lambda recipe: 2.0) -> None:
        # Not as a trainer does, which needs a model.
        self.recipe, self.clock, self.seconds, self.loss = recipe, clock, seconds, loss
        self.device, self.world = torch.device("cpu"), World()
        self.made: list[Recipe] = []

    def step(self) -> None:
        self.clock.now += self.seconds(self.recipe)

    def take_metrics(self) -> dict[str, float]:
        return {"total": self.loss(self.recipe), "gradient norm": self.clock.now}

    def build(self, recipe: Recipe) -> Trainer:
        self.made.append(recipe)
        return Steps(recipe, self.clock, self.seconds, self.loss)


def is_bf16(recipe: Recipe) -> bool:
    return recipe.train.precision == "bf16"


def found(steps: Steps) -> FasterSteps:
    return find_faster_steps(steps, steps.build)


def test_what_is_faster_is_chosen_and_said(clock: Clock) -> None:
    fast = found(Steps(PLAIN, clock, lambda recipe: SLOW / 2 if is_bf16(recipe) else SLOW))
    assert fast.recipe == PLAIN.override({"train.precision": "bf16"})
    assert fast.sentence == "timed on this processor: bf16 (2 × as fast)"


def test_each_way_is_compared_with_the_best_so_far(clock: Clock) -> None:
    def seconds(recipe: Recipe) -> float:
        factor = 0.5 if is_bf16(recipe) else 1
        factor *= 0.8 if recipe.train.channels_last is True else 1
        return SLOW * factor * (0.95 if recipe.run.threads == 1 else 1)

    fast = found(Steps(PLAIN, clock, seconds))
    assert fast.recipe == PLAIN.override({"train.precision": "bf16", "train.channels_last": True})
    assert fast.sentence.endswith("bf16 (2 × as fast), channels last (1.2 × as fast)"), "not one thread, by 5%"


@pytest.mark.parametrize("loss", [2.2, math.nan])
def test_other_losses_are_not_accepted(loss: float, clock: Clock) -> None:
    def losses(recipe: Recipe) -> float:
        return loss if is_bf16(recipe) else 2.0

    fast = found(Steps(PLAIN, clock, lambda recipe: 0.5 * SLOW if is_bf16(recipe) else SLOW, losses))
    assert fast.recipe == PLAIN


def test_a_way_that_fails_is_left_out(clock: Clock) -> None:
    def seconds(recipe: Recipe) -> float:
        if is_bf16(recipe):
            raise RuntimeError("no kernel")
        return SLOW / 2 if recipe.run.threads == 1 else SLOW

    assert found(Steps(PLAIN, clock, seconds)).recipe == PLAIN.override({"run.threads": 1})


def test_a_way_that_is_far_slower_costs_no_more_than_its_first_step(clock: Clock) -> None:
    steps = Steps(PLAIN, clock, lambda recipe: 20 * SLOW if is_bf16(recipe) else SLOW)
    assert found(steps).recipe == PLAIN
    assert clock.now < 20 * SLOW + 60 * SLOW


@pytest.mark.parametrize(
    "changes",
    [
        {"train.images": 1600},  # ten seconds
        {"train.minutes": 0.9},
        {"train.deterministic": True},
        {"train.compile": True},
        {"train.precision": "fp32", "train.channels_last": False, "run.threads": 2},
    ],
)
def test_where_it_does_not_pay_nothing_is_compared(changes: dict[str, Any], clock: Clock) -> None:
    steps = Steps(PLAIN.override(changes), clock, lambda recipe: SLOW / 2 if is_bf16(recipe) else SLOW)
    assert found(steps) == FasterSteps(steps.recipe, "")
    assert len(steps.made) <= 1, "only the plain steps"


def test_a_setting_of_the_recipe_is_kept(clock: Clock) -> None:
    recipe = PLAIN.override({"train.precision": "fp32"})
    assert found(Steps(recipe, clock, lambda recipe: SLOW / 2 if is_bf16(recipe) else SLOW)).recipe == recipe


def test_bf16_is_not_tried_without_units_for_it(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "has_bf16_units", lambda device: False)
    steps = Steps(PLAIN, clock, lambda recipe: SLOW)
    found(steps)
    assert not any(map(is_bf16, steps.made))


@pytest.mark.trains
def test_the_choice_is_stored_and_holds_when_the_run_is_resumed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small("ae", **{"train.images": 960, "train.prior": "none", "monitor.every": 320})
    ways = {"train.precision": "bf16", "train.channels_last": True, "run.threads": 1}
    monkeypatch.setattr(session, "find_faster_steps", lambda *given: FasterSteps(recipe.override(ways), "bf16"))
    threads = torch.get_num_threads()
    whole = train(recipe, out=tmp_path / "whole")
    assert torch.get_num_threads() == threads, "the threads of a run are its own"

    class Stop(Callback):
        def checked(self, trainer: Trainer, check: Check) -> None:
            if check.seen == 640:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=tmp_path / "cut", callbacks=[Stop()])
    monkeypatch.setattr(session, "find_faster_steps", lambda *given: pytest.fail("timed again"))
    resumed = train(recipe, out=tmp_path / "cut")
    stored = checkpoint.load_state(RunDir(resumed.path).checkpoint(960 // 32))["choices"]
    assert (stored["precision"], stored["channels_last"], stored["threads"]) == ("bf16", True, 1)
    one, two = (ectype.load(run.path, device="cpu").state_dict() for run in (whole, resumed))
    assert all(torch.equal(one[key], two[key]) for key in one)
    monkeypatch.setattr(session, "find_faster_steps", lambda *given: FasterSteps(recipe, ""))
    plain = train(recipe.override({"train.precision": "fp32"}), out=tmp_path / "plain")
    assert any(
        not torch.equal(one[key], value) for key, value in ectype.load(plain.path, device="cpu").state_dict().items()
    )


@pytest.mark.trains
def test_steps_are_timed_with_as_many_images_as_fit_into_memory(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small("ae", **{"train.images": 320, "monitor.every": 320})
    found: list[int | None] = []

    def timed(trainer: Trainer, build: Callable[[Recipe], Trainer]) -> FasterSteps:
        found.extend((trainer.micro_batch, build(recipe).micro_batch))
        return FasterSteps(recipe, "")

    monkeypatch.setattr(session, "find_micro_batch", lambda trainer: 8)
    monkeypatch.setattr(session, "find_faster_steps", timed)
    train(recipe, out=tmp_path / "run")
    assert found == [8, 8]
