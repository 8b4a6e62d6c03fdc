"""Callbacks that show a training run: JSON lines, pictures, and a progress display."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from torch import Tensor, nn

from ectype.core.console import doing, say
from ectype.core.escape import for_terminal
from ectype.core.images import to_uint8
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.data.preview import save_grid
from ectype.evaluation.figure_names import display_name
from ectype.evaluation.monitor import Monitor
from ectype.models.base import Reconstructs, Samples, Translates, evaluating
from ectype.runs.json_files import JsonLinesFile
from ectype.training.loop import Callback, Check, Outcome
from ectype.training.notebook import NotebookBar
from ectype.training.trainer import Trainer

__all__ = ["JsonLines", "Pictures", "ProgressDisplay"]


PICTURES_PER_GROUP = {"reconstructions": 2, "translations": 3, "samples": 1}
"""Number of pictures that belong side by side in a grid."""


class JsonLines(Callback):
    """Writes metrics and checks as lines of `metrics.jsonl`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._open: JsonLinesFile | None = None

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        self._open = JsonLinesFile(self.file)

    def sync(self) -> None:
        """Flush all lines to the disk, before a checkpoint is saved that continues after them."""
        if self._open is not None:
            self._open.sync()

    def _write(self, entry: dict[str, Any]) -> None:
        if self._open is not None:
            self._open.write({**entry, "time": round(time.time(), 3)})

    def logged(self, seen: int, step: int, metrics: dict[str, float]) -> None:
        self._write({"kind": "train", "seen": seen, "step": step, **metrics})

    def measured(self, trainer: Trainer, check: Check) -> None:
        entry = {"kind": "check", "seen": check.seen, "step": check.step, **check.values, "best": check.best}
        if check.verdict is not None:
            entry |= {"verdict": check.verdict.name, "evidence": check.verdict.evidence}
        self._write({**entry, "seconds": round(check.seconds, 3)})

    def ended(self, outcome: Outcome | None) -> None:
        if self._open is not None:
            self._open.close()


class Pictures(Callback):
    """Saves samples from one seed, and the outputs for fixed images, after each check.

    Args:
        directory: Where pictures are saved.
        batch: Held-out images [n, c, h, w] in [0, 1] and their targets; n samples are drawn as well.
        context: The random draws for these images, the same at each check.
        seed: Seed of the samples.
    """

    def __init__(self, directory: Path, batch: Batch, context: StepContext, seed: int) -> None:
        self.directory, self.batch, self.context, self.seed = (directory, batch, context, seed)

    def checked(self, trainer: Trainer, check: Check) -> None:
        self.directory.mkdir(exist_ok=True)
        for name, grid in self.grids(trainer.model).items():
            side = PICTURES_PER_GROUP[name]
            columns = side * math.ceil((len(grid) / side) ** 0.5)
            save_grid(to_uint8(grid), self.directory / f"{name}-{check.step:08d}.png", columns=columns, owned=True)

    def grids(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's pictures by name: input, output and target of each image in turn."""
        shown: dict[str, Tensor] = {}
        images = self.batch.image
        with evaluating(model):
            if isinstance(model, Reconstructs):
                shown["reconstructions"] = torch.stack([images, model.reconstruct(images)], dim=1).flatten(0, 1)
            if isinstance(model, Translates):
                inputs, targets = model.input_and_target(self.batch, self.context)
                columns = (
                    inputs.clamp(0, 1).expand(-1, 3, -1, -1),
                    model.to_rgb(model.translate(inputs)),
                    model.to_rgb(targets),
                )
                shown["translations"] = torch.stack([each.cpu() for each in columns], dim=1).flatten(0, 1)
            if isinstance(model, Samples):
                generator = torch.Generator().manual_seed(self.seed)
                shown["samples"] = model.sample(len(images), generator=generator)
        return shown


class ProgressDisplay(Callback):
    """Shows a bar with speed, time left and losses on a terminal or in a notebook, and a line for each check."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.notebook: NotebookBar | None = None

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        self.budget, self.pace = trainer.budget, ""
        if self.console.is_terminal:
            position, losses = (TextColumn(f"{{task.fields[{key}]}}", markup=False) for key in ("position", "losses"))
            self.bar = Progress(BarColumn(20), position, TimeElapsedColumn(), losses, console=self.console)
            self.task = self.bar.add_task("", total=trainer.budget, position="", losses="", completed=trainer.seen)
            self.bar.start()
        elif self.console.is_jupyter:
            self.notebook = NotebookBar(trainer.budget)
        doing(self.console, self._activity)
        self.seen = trainer.seen

    def _activity(self) -> str:
        """Return the progress as one line for a log."""
        return " · ".join(filter(None, [f"{self.seen:,}/{self.budget:,} images", self.pace]))

    def stepped(self, trainer: Trainer) -> None:
        self.seen = trainer.seen

    def logged(self, seen: int, step: int, metrics: dict[str, float]) -> None:
        speed = metrics.get("images/s", 0.0)
        left = max(0, self.budget - seen) / speed if speed else 0.0
        self.pace = f"{speed:,.0f} images/s · {_clock(left)} left"
        hidden = ("images/s", "rate", "total", "gradient norm")
        losses = " · ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name not in hidden)
        position = f"{seen:,}/{self.budget:,} · {self.pace}"
        if self.bar is not None:
            self.bar.update(self.task, completed=seen, position=position, losses=losses)
        if self.notebook is not None:
            self.notebook.update(seen, f"{position} · {losses}")

    def checked(self, trainer: Trainer, check: Check) -> None:
        if not check.values:
            return
        total = next(iter(check.values.values()))
        # A bound that equals the total is not printed twice. The values behind a verdict are in its evidence.
        few = list(check.values.items())[: 1 if check.verdict is not None else None]
        printed = [name for at, (name, value) in enumerate(few) if at == 0 or value != total]
        terms = "  ".join(f"{display_name(name)} {check.values[name]:.5g}" for name in printed)
        pace = "" if self.bar is not None else f"  |  {self.pace}"
        best = (f"  {check.verdict.name}" if check.verdict is not None else "") + (" ← best" if check.best else "")
        say(self.console, f"{check.seen:>11,}  held-out {terms}{best}{pace}")
        if check.verdict is not None and check.verdict.name not in ("healthy", "learning"):
            evidence = for_terminal(f"{'':>11}  {check.verdict.name}: {check.verdict.evidence}")
            self.console.print(Text(evidence), style="yellow", soft_wrap=True)

    def ended(self, outcome: Outcome | None) -> None:
        if self.bar is not None:
            self.bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
