from __future__ import annotations

import copy
import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import ectype
from ectype.core.errors import EctypeWarning, Interrupted, TrainingError
from ectype.core.memory import free_memory, out_of_memory, peak_memory
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.objectives.base import LossTerms, Objective
from ectype.runs import checkpoint
from ectype.training import micro_batch
from ectype.training.loop import Callback
from ectype.training.micro_batch import find_micro_batch
from ectype.training.run import train
from ectype.training.trainer import Trainer
from ectype.training.tuning import TunedSettings, tune_settings
from tests.conformance.small import small

from .stand_ins import RECIPE, Pixels, close, game, play, same, scarce

HERE = torch.device("cpu")


def test_errors_of_allocation_are_known_from_others() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**45)
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(MemoryError())
    for text in (
        "[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried …",
        "could not create a primitive",
        "could not create a primitive descriptor for a convolution forward propagation primitive",
        "std::bad_alloc",
        "Unable to allocate 3.00 GiB for an array",
    ):
        assert out_of_memory(RuntimeError(text))
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not out_of_memory(OSError(errno.ENOSPC, "No space left on device"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))


# ── Running out ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("player", ["critic", "generator"])
@pytest.mark.parametrize("piece", [0, 1])
def test_a_failed_move_leaves_no_trace(where: str, player: str, piece: int) -> None:
    """Step 4 fails at 8 images at a time: what follows is, to the last bit, what a run does that takes 4 from there on.

    Running statistics and the buffer changed in `after` are included.
    """
    recipe = RECIPE.override({"run.micro_batch": 8})
    reference = play(game(norm=True), 4, recipe)
    failing = play(scarce(game(norm=True), most=4, since=4, where=where, player=player, piece=piece), 4, recipe)
    same(reference, failing)
    if player == "generator":  # the critic's move comes before, and is made with 8
        reference._take_turn(reference.objective.turns[0], reference.order.take(reference.seen, 16))
        reference.micro_batch = 4
        reference._take_turn(reference.objective.turns[1], reference.order.take(reference.seen, 16))
        reference.seen, reference.step_count = reference.seen + 16, 5
        reference.average.update(16, reference.seen)
    else:
        reference.micro_batch = 4
        reference.step()
    with pytest.warns(EctypeWarning, match="out of memory with 8 images.* continuing with 4; .* still have 16"):
        failing.step()
    assert failing.micro_batch == 4
    for _ in range(3):
        reference.step()
        failing.step()
    same(reference, failing)


def test_running_out_at_once_equals_the_run_that_knew() -> None:
    objective = scarce(game(), most=2)
    with pytest.warns(EctypeWarning) as said:
        failing = play(objective, 10)
    assert [w.message.args[0].split(":")[0] for w in said] == [
        f"out of memory with {size} images at a time" for size in (16, 8, 4)
    ]
    same(failing, play(game(), 10, RECIPE.override({"run.micro_batch": 2})))
    close(failing, play(game(), 10), atol=2e-6)


def test_the_other_players_are_as_they_were_after_a_failure() -> None:
    objective = scarce(game(), most=0)
    trainer = play(objective, 0)
    before = copy.deepcopy(trainer.tensors())
    rule = r"one image at a time: .*size or a narrower model.*checkpoint_activations=true"
    with pytest.warns(EctypeWarning, match="out of memory"), pytest.raises(TrainingError, match=rule) as caught:
        trainer.step()
    assert caught.value.exit_code == 6
    assert all(parameter.requires_grad and parameter.grad is None for parameter in objective.parameters())
    after = trainer.tensors()
    assert all(torch.equal(after[name][key], value) for name in before for key, value in before[name].items())


def test_other_errors_are_not_swallowed() -> None:
    objective = game()

    def broken(batch: Batch, context: StepContext) -> LossTerms:
        raise RuntimeError("a shape does not fit")

    objective.turns[0] = objective.turns[0]._replace(score=broken)
    with pytest.raises(RuntimeError, match="does not fit"):
        play(objective, 1)


class Whole(type(game())):
    @property
    def whole(self) -> str | None:
        return "it wants whole batches"


def test_a_net_with_statistics_says_what_changes() -> None:
    torch.manual_seed(7)
    with pytest.warns(EctypeWarning, match="continuing with 8; .*; .*, so this changes what is"):
        play(scarce(Whole(norm=True), most=8), 1)


@pytest.mark.slow
def test_a_process_that_fails_does_not_leave_the_other_waiting(tmp_path: Path) -> None:
    script = Path(__file__).parent / "two_short_of_memory.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("out of memory with 8 images at a time: continuing with 4") == 1
    one = play(game(), 10).tensors()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in ("objective", "average"):
            for key, value in one[name].items():
                torch.testing.assert_close(found[name][key], value, atol=1e-5, rtol=0, msg=f"{name}: {key}")


# ── Choosing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

AUTO = RECIPE.override({"run.micro_batch": "auto"})


class Wide(Objective):
    """A network whose activations are most of what a step needs."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        layers = [layer for _ in range(4) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.SiLU())]
        self.net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *layers, nn.Conv2d(16, 1, 1))
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()
        self.players = {"net": self}
        self.turns = [ectype.objectives.base.Turn("net", self.score)]

    @property
    def model(self) -> nn.Module:
        return self.net

    @property
    def whole(self) -> str | None:
        return "statistics" if isinstance(self.norm, nn.BatchNorm2d) else None

    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        return LossTerms({"SSE": (1.0, (self.norm(self.net(batch.image)) - batch.image).square().mean())})


def peak(trainer: Trainer) -> int:
    """Bytes of a step, measured as a whole."""
    trainer.step()
    with micro_batch._metered(HERE) as meter:
        trainer.step()
        meter.restart()
        trainer.step()
    return meter.read()


def at(micro_batch: int | None, objective: Objective | None = None) -> Trainer:
    trainer = play(objective or Wide(), 0, AUTO, feed=Pixels(size=32))
    trainer.micro_batch = micro_batch
    return trainer


def test_the_meter_counts_what_is_alive_at_once() -> None:
    with micro_batch._metered(HERE) as meter:
        one = torch.zeros(1000)
        two = one * 2
        view = two.view(10, 100)
        del two
        assert meter.read() == 8000
        del view
        meter.restart()
        assert meter.read() == 4000
        torch.zeros(500)
        assert meter.read() == 6000
    assert one.sum() == 0


def test_small_work_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = at(None)
    monkeypatch.setattr(Trainer, "dry_run_copy", lambda self: pytest.fail("measured"))
    assert find_micro_batch(trainer) is None
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: None)
    assert find_micro_batch(trainer) is None
    assert find_micro_batch(play(game(), 0, RECIPE.override({"run.micro_batch": 5}))) == 5
    assert find_micro_batch(play(game(), 0, RECIPE.override({"run.micro_batch": None}))) is None


@pytest.mark.parametrize("share", [1.05, 0.95, 0.55, 0.3, 0.05])
def test_the_largest_halving_that_fits_is_chosen(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {size: peak(at(size)) for size in (16, 8, 4, 2, 1)}
    free = int(share * peaks[16] / micro_batch.USABLE_SHARE["cpu"])
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: free)
    trainer = at(None)
    before = copy.deepcopy(trainer.tensors())
    chosen = find_micro_batch(trainer)
    fits = [size for size, found in peaks.items() if found <= micro_batch.USABLE_SHARE["cpu"] * free]
    assert (chosen or 16) == max(fits, default=1)
    after = trainer.tensors()
    assert all(torch.equal(after[name][key], value) for name in before for key, value in before[name].items())
    assert trainer.batch == 16


def test_what_may_not_be_split_is_split_only_at_need(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = peak(at(None, Wide(norm=True)))
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: int(1.2 * whole))
    assert find_micro_batch(at(None)) == 8
    assert find_micro_batch(at(None, Wide(norm=True))) is None
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: int(0.9 * whole))
    assert find_micro_batch(at(None, Wide(norm=True))) == 8


def test_a_net_that_wants_several_images_is_measured_with_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: 1)
    trainer = play(game(norm=True), 0, AUTO)  # BatchNorm1d refuses a batch of one
    assert find_micro_batch(trainer) == 2
    assert find_micro_batch(play(game(), 0, AUTO)) == 1


def test_running_out_while_measuring_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: 1000)
    with pytest.warns(EctypeWarning, match="continuing with 1"):
        assert find_micro_batch(play(scarce(game(), most=1), 0, AUTO)) == 1


def test_the_choice_is_part_of_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TunedSettings(budget=10, every=5).micro_batch is None, "as in checkpoints of before"
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: 1000)
    trainer = play(game(), 0, AUTO.override({"monitor.every": 320}))
    assert tune_settings(trainer, None) == TunedSettings(640, 320, 1)


def test_free_memory_is_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory(HERE, tmp_path) is None
    assert free_memory(torch.device("mps")) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   4000 kB\n")
    assert free_memory(HERE, tmp_path) == 4000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    (group / "memory").mkdir(parents=True)
    (group / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    (group / "memory.current").write_text("1200000\n")
    (group / "memory.max").write_text("max\n")
    assert free_memory(HERE, tmp_path) == 4000 * 1024
    (group / "memory.max").write_text("2000000\n")
    assert free_memory(HERE, tmp_path) == 1000000
    (group / "memory/memory.stat").write_text("total_inactive_file 0\n")
    (group / "memory/memory.usage_in_bytes").write_text("100\n")
    (group / "memory/memory.limit_in_bytes").write_text("600\n")
    assert free_memory(HERE, tmp_path) == 500
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert free_memory(HERE, tmp_path) == 250
    (group / "memory/memory.limit_in_bytes").write_text("50\n")
    assert free_memory(HERE, tmp_path) == 0


# ── A run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_goes_on_with_less_and_resumes_with_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small("ae", **{"train.images": 640, "monitor.every": 320})
    score = Trainer._compute_gradients

    def short(self: Trainer, turn, index):
        if self.seen >= 320 and (self.micro_batch or 32) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return score(self, turn, index)

    monkeypatch.setattr(Trainer, "_compute_gradients", short)
    with pytest.warns(EctypeWarning, match="continuing with 16"):
        whole = train(recipe, out=tmp_path / "whole")
    newest = checkpoint.latest(whole.checkpoints)
    assert newest is not None
    assert checkpoint.load_state(newest)["choices"] == TunedSettings(640, 320, 16)._asdict()
    summary = whole.summary()
    assert summary["state"] == "finished"
    assert 10 * 2**20 < summary["peak_memory"] <= peak_memory(HERE)

    class Stop(Callback):
        def stepped(self, trainer: Trainer) -> None:
            if trainer.step_count == 15:
                import signal

                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.warns(EctypeWarning, match="continuing with 16"), pytest.raises(Interrupted):
        train(recipe, out=tmp_path / "half", callbacks=[Stop()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half = train(recipe, out=tmp_path / "half")
    for file in newest.glob("*.safetensors"):
        resumed = checkpoint.load_tensors(half.checkpoints / newest.name / file.name)
        assert all(torch.equal(value, resumed[key]) for key, value in checkpoint.load_tensors(file).items())


@pytest.mark.parametrize("asked, expected", [(None, None), (8, 8)])
def test_who_asks_for_another_size_gets_it(asked: int | None, expected: int | None, tmp_path: Path) -> None:
    recipe = small("ae", **{"train.images": 320, "monitor.every": 160, "run.micro_batch": 16})
    sizes = []

    class Stop(Callback):
        def stepped(self, trainer: Trainer) -> None:
            sizes.append(trainer.micro_batch)
            if trainer.step_count == 3:
                import signal

                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(recipe, out=tmp_path / "run", callbacks=[Stop()])
    train(recipe.override({"run.micro_batch": asked}), out=tmp_path / "run", callbacks=[Stop()])
    assert sizes == [16] * 3 + [expected] * 7
