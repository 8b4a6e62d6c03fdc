"""What only a GPU shows; skipped where there is none. `ECTYPE_TEST_DEVICE=cuda` has all presets tried there, too."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import ectype
from ectype.analysis.results import evaluate
from ectype.config.recipe import Recipe
from ectype.core.errors import EctypeWarning, Interrupted
from ectype.core.memory import free_memory, release_memory
from ectype.data.loader import Loader
from ectype.evaluation.figure_names import metric_of
from ectype.models.base import Samples
from ectype.runs import checkpoint
from ectype.runs.load import open_data
from ectype.runs.run_dir import RunDir
from ectype.training.build import build_trainer
from ectype.training.loop import Callback
from ectype.training.micro_batch import find_micro_batch
from ectype.training.run import train
from ectype.training.trainer import Trainer
from tests.conformance.small import small

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def trainer(recipe: Recipe, device: torch.device = CUDA) -> Trainer:
    _, store = open_data(recipe.data)
    feed = Loader(store.split("train"), recipe.data, device, training=True, seed=0)
    return build_trainer(recipe, store.info, feed, budget=3200, device=device)


def totals(made: Trainer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        made.step()
        found.append(sum(value for name, value in made.take_metrics().items() if name.endswith("total")))
    return found


EXACT = {"train.precision": "fp32", "train.channels_last": False}


@pytest.mark.parametrize("name", ["ae", "ae-conv", "unet-translate"])
def test_steps_equal_those_of_the_processor(name: str) -> None:
    """But for rounding, where nothing is drawn: each device draws in its own way."""
    recipe = small(name, **EXACT)
    assert totals(trainer(recipe), 10) == pytest.approx(totals(trainer(recipe, CPU), 10), rel=1e-2, abs=2e-3)


@pytest.mark.parametrize("name", ["ae", "vae", "gan", "unet-translate"])
def test_by_itself_it_is_bf16_and_channels_last(name: str) -> None:
    recipe = small(name, **{"train.precision": "auto", "train.channels_last": "auto"})
    made = trainer(recipe)
    assert made.autocast._enabled
    assert made.autocast.fast_dtype is torch.bfloat16
    wide = [p for p in made.model.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
    assert all(p.dtype is torch.float32 for p in made.model.parameters())
    assert totals(made, 10) == pytest.approx(totals(trainer(small(name, **EXACT)), 10), rel=0.05, abs=0.02)


@pytest.mark.parametrize("name", ["ae", "gan"])
def test_compiled_steps_are_those_of_eager(name: str) -> None:
    """In a process without the checks of shapes: a compiler looks into calls, and so into these."""
    code = (
        "import json, sys\n"
        "from tests.training.test_cuda import EXACT, small, totals, trainer\n"
        "recipes = [small(sys.argv[1], **EXACT, **{'train.compile': wanted}) for wanted in (False, True)]\n"
        "print(json.dumps([totals(trainer(recipe), 6) for recipe in recipes]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    plain, compiled = json.loads(done.stdout.splitlines()[-1])
    assert compiled == pytest.approx(plain, rel=1e-2, abs=2e-3)


def test_memory_is_measured_and_the_batch_split(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {"data.size": 128, "model.net.width": 64, "train.batch": 256, **EXACT}
    recipe = small("ae", **changes)
    made = trainer(recipe)
    free = free_memory(CUDA)
    assert free is not None
    assert find_micro_batch(made) is None
    release_memory(CUDA)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    made.step()
    peak = torch.cuda.max_memory_allocated() - before
    monkeypatch.setattr("ectype.core.memory.free_memory", lambda device: int(0.7 * peak))
    chosen = find_micro_batch(made)
    assert chosen is not None
    assert chosen < 256


def test_running_out_of_memory_halves_and_goes_on() -> None:
    """A limit that is real: the allocator refuses."""
    changes: dict[str, Any] = {
        "data.size": 128,
        "model.net.width": 64,
        "train.batch": 256,
        "run.micro_batch": None,
        **EXACT,
    }
    made = trainer(small("ae", **changes))
    release_memory(CUDA)
    torch.cuda.reset_peak_memory_stats()
    made.dry_run_copy().step()
    release_memory(CUDA)
    peak, total = (torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory)
    torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
    try:
        with pytest.warns(EctypeWarning, match="out of memory with 256 images at a time"):
            made.step()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert made.micro_batch is not None
    assert made.micro_batch < 256
    assert all(math.isfinite(total) for total in totals(made, 2))


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_a_run_is_evaluated_alike_on_both(name: str, tmp_path: Path) -> None:
    run = train(small(name, **{"run.device": "cuda", "train.images": 640, "monitor.every": 320}), out=tmp_path / "run")
    assert torch.cuda.get_device_name() in run.environment_file.read_text()
    on = {device: {f.key: f for f in evaluate(run, device=device).figures} for device in ("cpu", "cuda")}
    assert on["cpu"].keys() == on["cuda"].keys()
    for key, figure in on["cpu"].items():
        if metric_of(key) in ("psnr", "ssim", "mse", "negative_elbo", "coverage", "precision"):
            assert on["cuda"][key].value == pytest.approx(figure.value, rel=2e-2, abs=2e-2), key
    shown = []
    for device in ("cpu", "cuda"):
        model = ectype.load(run.path, device=device)
        assert isinstance(model, Samples)
        shown.append(model.sample(4, generator=torch.Generator().manual_seed(1)).cpu())
    assert torch.allclose(*shown, atol=2e-2)


def test_what_was_begun_on_a_gpu_goes_on_elsewhere(tmp_path: Path) -> None:
    class Stop(Callback):
        def stepped(self, trainer: Trainer) -> None:
            if trainer.step_count == 15:
                os.kill(os.getpid(), signal.SIGTERM)

    recipe = small("vae", **{"run.device": "cuda", "train.images": 640, "monitor.every": 320})
    with pytest.raises(Interrupted):
        train(recipe, out=tmp_path / "run", callbacks=[Stop()])
    newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EctypeWarning)  # that what follows is not bit-equal
        run = train(recipe.override({"run.device": "cpu"}), out=tmp_path / "run")
    assert run.summary()["seen"] == 640


def test_a_process_group_of_one_over_nccl(tmp_path: Path) -> None:
    code = (
        "import sys, ectype\n"
        "from tests.conformance.small import small\n"
        "ectype.train(small('vae', **{'run.device': 'cuda', 'train.images': 640}), out=sys.argv[1])\n"
    )
    script = tmp_path / "one.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", str(script)]
    done = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert RunDir(tmp_path / "run").state() == "finished"
