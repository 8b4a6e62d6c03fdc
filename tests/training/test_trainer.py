from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ectype.config.recipe import load_recipe
from ectype.core.errors import RecipeError
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.nets.param_groups import ParameterGroup
from ectype.objectives.base import LossTerms, Objective, Turn
from ectype.training.ema import WeightAverage
from ectype.training.optimizers import PlayerOptimizer
from ectype.training.trainer import Diverged

from .stand_ins import RECIPE, Pixels, close, game, play, same

OPTIMIZERS = ["adamw", "adam", "sgd", "muon"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", [False, True])
def test_resuming_is_bit_equal(optimizer: str, norm: bool) -> None:
    recipe = RECIPE.override({"optimizer.name": optimizer})
    whole = play(game(norm=norm), 12, recipe)
    half = play(game(norm=norm), 5, recipe)
    state = copy.deepcopy(half.tensors())
    torch.manual_seed(123)
    resumed = play(game(norm=norm), 0, recipe)
    resumed.load(state, seen=half.seen, steps=half.step_count)
    for _ in range(7):
        resumed.step()
    same(whole, resumed)


@pytest.mark.parametrize("size", [1, 5, 16])
def test_micro_batches_do_not_change_the_result(size: int) -> None:
    close(play(game(), 10), play(game(), 10, RECIPE.override({"run.micro_batch": size})), atol=2e-6)


def test_only_the_moving_player_moves_and_the_others_norms_stay_still() -> None:
    objective = game(norm=True)
    before = copy.deepcopy(objective.state_dict())
    trainer = play(objective, 1)  # the generator starts after 16 images
    after = objective.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("generator"))
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("critic"))
    trainer.step()
    running = objective.critic[2].running_mean.clone()
    trainer._take_turn(objective.turns[1], trainer.order.take(0, 16))
    assert torch.equal(objective.critic[2].running_mean, running)
    assert objective.critic[2].track_running_stats
    assert all(parameter.requires_grad for parameter in objective.parameters())


def test_turns_play_when_they_are_due() -> None:
    objective = game()
    played: list[tuple[str, int]] = []
    for place, turn in enumerate(objective.turns):
        score = turn.score

        def noted(batch: Batch, context: StepContext, score=score, name=turn.player) -> LossTerms:
            played.append((name, context.step))
            return score(batch, context)

        objective.turns[place] = turn._replace(score=noted)
    play(objective, 6)
    assert [step for name, step in played if name == "critic"] == [0, 1, 2, 3, 4, 5]
    assert [step for name, step in played if name == "generator"] == [2, 4]


def test_looking_changes_nothing() -> None:
    objective = game()
    trainer = play(objective, 3)
    torch.randn(5)
    trainer.dry_run_copy().step()
    trainer.take_metrics()
    for _ in range(3):
        trainer.step()
    same(trainer, play(game(), 6))


class Broken(Objective):
    """A loss that stops being a number at a given step; or whose gradient does."""

    def __init__(self, at: int, only_gradient: bool) -> None:
        super().__init__()
        self.net = nn.Linear(64, 1)
        self.at, self.only_gradient = at, only_gradient
        self.players = {"net": self.net}
        self.turns = [Turn("net", self.score)]

    @property
    def model(self) -> nn.Module:
        return self.net

    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        value = self.net(batch.image.flatten(1)).square().mean()
        if context.step == self.at:
            value = torch.sqrt(value * 0) if self.only_gradient else value * math.nan
        return LossTerms({"loss": (1.0, value)})


@pytest.mark.parametrize("only_gradient", [False, True])
def test_divergence_stops_before_the_update(only_gradient: bool) -> None:
    objective = Broken(3, only_gradient)
    trainer = play(objective, 3)
    before = copy.deepcopy(trainer.tensors())
    with pytest.raises(Diverged, match="not a finite number at step 3") as caught:
        trainer.step()
    assert caught.value.batch.image.shape == (16, 1, 8, 8)
    assert caught.value.exit_code == 6
    assert ("gradient norm" in str(caught.value)) == only_gradient
    for name, group in trainer.tensors().items():
        assert all(torch.equal(value, before[name][key]) for key, value in group.items())


def test_terms_are_logged_by_themselves_and_averaged() -> None:
    trainer = play(game(), 4)
    metrics = trainer.take_metrics()
    assert {"critic/adversarial", "critic/R1", "critic/total", "critic/sign", "generator/adversarial"} <= set(metrics)
    assert trainer.take_metrics() == {}
    lazy = play(game(lazy=2), 2).take_metrics()["critic/R1"]
    first = play(game(lazy=2), 1).take_metrics()["critic/R1"]
    assert lazy == first, "a term is averaged over the moves that have it"
    single = play(Broken(99, False), 2).take_metrics()
    assert set(single) == {"loss", "total", "gradient norm", "rate"}
    assert single["loss"] == single["total"]


# ── Movers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def mover(schedule: str = "cosine", **keys) -> PlayerOptimizer:
    config = load_recipe("ae", {"schedule": schedule, "lr": 1.0, "optimizer.warmup": 0.1, **keys}).optimizer
    return PlayerOptimizer(nn.Linear(3, 3), config, 1000)


def test_the_rate_rises_holds_and_falls() -> None:
    assert 0 < mover().learning_rate(0) < 0.02
    assert mover().learning_rate(50) == pytest.approx(0.505, abs=0.01)
    assert mover().learning_rate(100) == pytest.approx(1.0)
    assert mover().learning_rate(550) == pytest.approx(0.5)
    assert mover().learning_rate(1000) == pytest.approx(0.0)
    assert mover("linear").learning_rate(775) == pytest.approx(0.25)
    assert mover("linear", hold=0.5).learning_rate(540) == pytest.approx(1.0)
    assert mover("linear", hold=0.5).learning_rate(775) == pytest.approx(0.5)
    assert mover("constant").learning_rate(999) == 1.0
    assert mover(final=0.1).learning_rate(1000) == pytest.approx(0.1)
    assert mover(**{"optimizer.warmup": 0}).learning_rate(0) == 1.0


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slow, self.late = nn.Linear(2, 1), nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup([*self.slow.parameters(), *self.frozen.parameters()], lr_scale=0.1),
            ParameterGroup(list(self.late.parameters()), starts=100),
        ]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_groups_have_rates_and_starts_of_their_own(optimizer: str) -> None:
    torch.manual_seed(0)
    player = Grouped()
    changes = {"optimizer.name": optimizer, "lr": 0.1, "schedule": "constant", "optimizer.warmup": 0}
    config = load_recipe("ae", {**changes, "weight_decay": 0, "clip": None})
    moves = PlayerOptimizer(player, config.optimizer, 1000)
    before = copy.deepcopy(player)

    def move(seen: int) -> None:
        moves.zero_grad()
        x = player.frozen(torch.ones(1, 2))
        (player.slow(x) + player.late(x)).sum().backward()
        gradients = moves.gradients(seen)
        assert len(gradients) == (2 if seen == 0 else 4)  # what does not move yet is in no norm and no limit
        moves.step(seen, torch.nn.utils.get_total_norm(gradients))

    move(0)
    assert torch.equal(player.frozen.weight, before.frozen.weight)
    assert torch.equal(player.late.weight, before.late.weight)
    assert not torch.equal(player.slow.weight, before.slow.weight)
    small = (player.slow.bias - before.slow.bias).abs().detach()
    move(100)
    large = (player.late.bias - before.late.bias).abs().detach()
    assert float(large / small) == pytest.approx(10, rel=1e-3)


def test_the_average_follows_with_its_half_life_and_copies_counters() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    with torch.no_grad():
        model[0].weight.fill_(0)
    average = WeightAverage(model, half_life=100)
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[1].num_batches_tracked.fill_(7)
    for _ in range(10):
        average.update(10, 10**6)
    assert float(average.model[0].weight) == pytest.approx(0.5)
    assert int(average.model[1].num_batches_tracked) == 7
    assert not average.model[0].weight.requires_grad


def test_a_young_average_stays_near_its_model() -> None:
    """However long its half-life: its first steps are forgotten when twenty times as many have been made."""
    model = nn.Linear(1, 1)
    average = WeightAverage(model, half_life=10**6)
    for step in range(1, 101):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(10, 10 * step)
        assert 0.9 * step <= float(average.model.weight) <= step


# ── Several processes ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    script = Path(__file__).parent / "two_processes.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, "--standalone", str(script), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    one = play(game(), 10).tensors()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in ("objective", "average"):
            for key, value in one[name].items():
                torch.testing.assert_close(found[name][key], value, atol=1e-5, rtol=0, msg=f"{name}: {key}")
    # BatchNorm sees its own part of the batch: its running statistics are averaged, so that the processes agree.
    norms = [torch.load(tmp_path / f"norm-{rank}.pt", weights_only=True)["objective"] for rank in (0, 1)]
    assert all(torch.equal(norms[0][key], norms[1][key]) for key in norms[0])


def test_settings_of_a_player_that_is_none_are_refused() -> None:
    """But for those of a critic that is switched off."""
    with pytest.raises(RecipeError, match=r"players\.critc: there is no such player; did you mean 'critic'"):
        play(game(), 0, RECIPE.override({"optimizer.players": {"critc": {"lr": 1e-4}}}))
    play(game(), 0, RECIPE.override({"optimizer.players": {"critic": {"lr": 1e-4}}}))


def test_a_feed_smaller_than_a_batch_still_fills_it() -> None:
    trainer = play(game(), 2, feed=Pixels(n=5))
    assert trainer.order.take(0, 16).unique().tolist() == [0, 1, 2, 3, 4]
