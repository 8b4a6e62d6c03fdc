"""What is seen of a training run: lines of JSON, TensorBoard, pictures, a progress display."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.data.preview import save_grid
from ectype.errors import RecipeError
from ectype.models.base import Reconstructs, Samples, Translates, evaluating
from ectype.training.loop import Callback, Check, Outcome
from ectype.training.monitor import Monitor
from ectype.training.trainer import Trainer

__all__ = ["JsonLines", "Pictures", "ProgressDisplay", "TensorBoard", "to_uint8"]


TOGETHER = {"reconstructions": 2, "translations": 3, "samples": 1}
"""Pictures that belong side by side in a grid."""


def to_uint8(image: Float[Tensor, "b c h w"]) -> Tensor:
    """Images in [0, 1] as bytes, rounded, on the CPU."""
    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


class JsonLines(Callback):
    """Every metric and check as a line of `metrics.jsonl`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._open: TextIO | None = None

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        self._open = self.file.open("a", encoding="utf-8")

    def _write(self, entry: dict[str, Any]) -> None:
        if self._open is not None:
            self._open.write(json.dumps({**entry, "time": round(time.time(), 3)}, ensure_ascii=False) + "\n")
            self._open.flush()

    def logged(self, seen: int, step: int, metrics: dict[str, float]) -> None:
        self._write({"kind": "train", "seen": seen, "step": step, **metrics})

    def checked(self, trainer: Trainer, check: Check) -> None:
        entry = {"kind": "check", "seen": check.seen, "step": check.step, **check.values, "best": check.best}
        if check.verdict is not None:
            entry |= {"verdict": check.verdict.name, "evidence": check.verdict.words}
        self._write({**entry, "seconds": round(check.seconds, 3)})

    def ended(self, outcome: Outcome | None) -> None:
        if self._open is not None:
            self._open.close()


class TensorBoard(Callback):
    """The same numbers for TensorBoard, over images seen."""

    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RecipeError("run.tensorboard=true needs TensorBoard: pip install 'ectype[tensorboard]'.") from None
        self.writer = SummaryWriter(str(directory))

    def logged(self, seen: int, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(f"train/{name}", value, seen)

    def checked(self, trainer: Trainer, check: Check) -> None:
        for name, value in check.values.items():
            self.writer.add_scalar(f"held-out/{name}", value, check.seen)

    def ended(self, outcome: Outcome | None) -> None:
        self.writer.close()


class Pictures(Callback):
    """Samples from one seed, and what becomes of fixed images, after each check.

    Args:
        directory: Where they are saved.
        batch: Held-out images, [n, c, h, w] in [0, 1], and their partners; as many samples are drawn.
        moment: Of what is drawn for them, always the same.
        seed: Of the samples.
    """

    def __init__(self, directory: Path, batch: Batch, moment: Moment, seed: int) -> None:
        self.directory, self.batch, self.moment, self.seed = directory, batch, moment, seed

    def checked(self, trainer: Trainer, check: Check) -> None:
        self.directory.mkdir(exist_ok=True)
        for name, grid in self.grids(trainer.model).items():
            side = TOGETHER[name]
            columns = side * math.ceil((len(grid) / side) ** 0.5)
            save_grid(to_uint8(grid), self.directory / f"{name}-{check.step:08d}.png", columns=columns)

    def grids(self, model: nn.Module) -> dict[str, Tensor]:
        """What the model can show, by name; inputs, outputs and partners stand in turns."""
        shown: dict[str, Tensor] = {}
        images = self.batch.image
        with evaluating(model):
            if isinstance(model, Reconstructs):
                shown["reconstructions"] = torch.stack([images, model.reconstruct(images)], dim=1).flatten(0, 1)
            if isinstance(model, Translates):
                given, wanted = model.pair(self.batch, self.moment)
                seen = (
                    given.clamp(0, 1).expand(-1, 3, -1, -1),
                    model.picture(model.translate(given)),
                    model.picture(wanted),
                )
                shown["translations"] = torch.stack([each.cpu() for each in seen], dim=1).flatten(0, 1)
            if isinstance(model, Samples):
                generator = torch.Generator().manual_seed(self.seed)
                shown["samples"] = model.sample(len(images), generator=generator)
        return shown


class ProgressDisplay(Callback):
    """A bar with speed, time left and every term on a terminal; a line per check elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        self.budget, self.pace = trainer.budget, ""
        if self.console.is_terminal:
            columns = [BarColumn(20), TextColumn("{task.fields[place]}"), TimeElapsedColumn()]
            self.bar = Progress(*columns, TextColumn("{task.fields[said]}"), console=self.console)
            self.task = self.bar.add_task("", total=trainer.budget, place="", said="", completed=trainer.seen)
            self.bar.start()

    def logged(self, seen: int, step: int, metrics: dict[str, float]) -> None:
        speed = metrics.get("images/s", 0.0)
        left = max(0, self.budget - seen) / speed if speed else 0.0
        self.pace = f"{speed:,.0f} images/s · {_clock(left)} left"
        if self.bar is not None:
            hidden = ("images/s", "rate", "total", "gradient norm")
            terms = " · ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name not in hidden)
            place = f"{seen:,}/{self.budget:,} · {self.pace}"
            self.bar.update(self.task, completed=seen, place=place, said=terms)

    def checked(self, trainer: Trainer, check: Check) -> None:
        if not check.values:
            return
        total = next(iter(check.values.values()))
        # A bound that is the total itself, as it is without constants or weights, need not be said twice; the signs
        # behind a verdict are in what it says.
        few = list(check.values.items())[: 1 if check.verdict is not None else None]
        said = [name for at, (name, value) in enumerate(few) if at == 0 or value != total]
        terms = "  ".join(f"{name} {check.values[name]:.5g}" for name in said)
        pace = "" if self.bar is not None else f"  |  {self.pace}"
        best = (f"  {check.verdict.name}" if check.verdict is not None else "") + (" ← best" if check.best else "")
        self.console.print(f"{check.seen:>11,}  held-out {terms}{best}{pace}", highlight=False, soft_wrap=True)
        if check.verdict is not None and check.verdict.name not in ("healthy", "learning"):
            self.console.print(f"{'':>11}  {check.verdict.name}: {check.verdict.words}", style="yellow", soft_wrap=True)

    def ended(self, outcome: Outcome | None) -> None:
        if self.bar is not None:
            self.bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
