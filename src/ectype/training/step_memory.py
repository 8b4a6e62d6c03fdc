"""Peak memory of one training step, measured in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ectype.analysis.cost import assumed_info, format_gigabytes
from ectype.config.recipe import Recipe, load_recipe
from ectype.config.schema import DataInfo
from ectype.config.yaml_text import parse_yaml
from ectype.core.distributed import choose_device
from ectype.core.environment import numerics
from ectype.core.errors import EctypeError, TrainingError
from ectype.core.memory import peak_memory
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.training.build import build_trainer

__all__ = ["Memory", "step_memory"]


class Memory(NamedTuple):
    """Memory of a training step in bytes."""

    peak: int
    """Peak of the process; on CUDA, peak of what PyTorch allocated there."""
    before: int
    """The same before a model was built: PyTorch itself."""
    images: int
    """Images at a time: one, or the fewest that the networks can be trained on."""

    def line(self) -> str:
        """Return a sentence."""
        many = "1 image" if self.images == 1 else f"{self.images} images"
        return (
            f"peak memory of a training step with {many} at a time: {format_gigabytes(self.peak)}, "
            f"{format_gigabytes(self.before)} of it before the model is built"
        )


def step_memory(recipe: Recipe) -> Memory:
    """Measure the peak memory of the second of two training steps, with every turn due, in a separate process.

    Raises:
        TrainingError: The steps failed.
    """
    command = [sys.executable, "-c", "from ectype.training.step_memory import _measure; _measure()"]
    done = subprocess.run(
        command,
        input=recipe.yaml(),
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]
        raise TrainingError(f"no training step could be measured: {last.removeprefix('ectype.core.errors.')}")
    return Memory(*map(int, done.stdout.split()[-3:]))


class _Noise:
    """A loader of noise images."""

    def __init__(self, info: DataInfo, device: torch.device) -> None:
        self.info, self.device = info, device

    def __len__(self) -> int:
        return len(self.info.classes)

    def __call__(self, index: Int[Tensor, " b"], context: SeededStepContext) -> Batch:
        image = context.uniform("image", len(index), *self.info.shape)
        target = None
        if self.info.target is not None:
            drawn = context.uniform("target", len(index), self.info.target.channels, *self.info.size)
            target = drawn.round().long()[:, 0] if self.info.target.kind == "masks" else drawn
        return Batch(image.round() if self.info.binary else image, index.to(self.device), target)


def _measure() -> None:
    """Read a recipe from standard input and print a `Memory`; runs in a separate process."""
    recipe = load_recipe(parse_yaml(sys.stdin.read()))
    info, device, budget = (assumed_info(recipe), choose_device(recipe.run.device), recipe.train.images)
    before = peak_memory(device) or 0
    with numerics(recipe.run.threads, deterministic=recipe.train.deterministic):
        for images in (1, 2, 4, 8):
            one = recipe.override({"train.batch": images, "run.micro_batch": images})
            trainer = build_trainer(one, info, _Noise(info, device), budget=budget, device=device)
            trainer.objective.activate_all_players()
            try:
                for _ in range(2):  # the first step creates the optimizer state
                    # At the end of the budget every turn has started, and at step 0 each is due.
                    trainer.seen, trainer.step_count = budget, 0
                    trainer.step()
            except (EctypeError, ValueError):  # BatchNorm needs more than one image, a packed critic several
                if images == 8:
                    raise
                continue
            print(peak_memory(device) or 0, before, images)
            return
