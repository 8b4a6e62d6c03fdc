"""All loggers of a run. One that fails is switched off with a warning, and never stops the training."""

from __future__ import annotations

import atexit
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ectype.config.recipe import Recipe
from ectype.core.errors import EctypeWarning
from ectype.core.escape import as_one_line
from ectype.core.files import atomic_file
from ectype.evaluation.figure_names import display_name
from ectype.evaluation.monitor import Monitor
from ectype.runs.run_dir import RunDir
from ectype.training.loggers.base import End, LoggedRun, Logger, Results
from ectype.training.loggers.mlflow import MlflowLogger
from ectype.training.loggers.tensorboard import TensorBoardLogger
from ectype.training.loggers.wandb import WandbLogger
from ectype.training.loop import Callback, Check, Outcome
from ectype.training.trainer import Trainer

__all__ = ["RunLoggers", "check_loggers"]

LOGGERS: dict[str, type[Logger]] = {each.name: each for each in (TensorBoardLogger, WandbLogger, MlflowLogger)}
STATE_FILE = "loggers.json"
MAX_REASON_CHARACTERS = 200


def check_loggers(names: Iterable[str]) -> None:
    """Check that the libraries of these loggers are installed.

    Raises:
        RecipeError: One is not; the message names the extra that installs it.
    """
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            LOGGERS[name].check()


class RunLoggers(Callback):
    """Sends a run to its loggers: losses and checks over images seen, pictures, recipe, model, figures and findings.

    What has been sent is noted in `loggers.json`, before it is sent. A run that continues goes on in the same run of
    each tool, and what it repeats since its last checkpoint is not sent twice.

    Args:
        names: The loggers, as in `run.loggers`.
        recipe: The recipe of the run.
        run: The run.
    """

    def __init__(self, names: Sequence[str], recipe: Recipe, run: RunDir) -> None:
        self._names, self._recipe, self._run = tuple(names), recipe, run
        self._file = run.path / STATE_FILE
        self._open: dict[str, Logger] = {}
        self._sent: dict[str, dict[str, Any]] = {}
        self._end: End = "interrupted"

    def __bool__(self) -> bool:
        return bool(self._names)

    def forget(self) -> None:
        """Forget earlier runs of the tools: training starts from the beginning."""
        if self._names:
            self._file.unlink(missing_ok=True)

    # ── During training ──────────────────────────────────────────────────────────────────────────────────────────────

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        self._start()

    def logged(self, seen: int, step: int, metrics: dict[str, float]) -> None:
        self._scalars("train", {f"train/{name}": value for name, value in metrics.items()}, seen)

    def checked(self, trainer: Trainer, check: Check) -> None:
        values = {f"held-out/{display_name(name)}": value for name, value in check.values.items()}
        self._scalars("check", values, check.seen)
        ending = f"-{check.step:08d}.png"
        files = {each.name.removesuffix(ending): each for each in self._run.samples.glob(f"*{ending}")}
        if files:
            self._each("pictures", check.seen, lambda logger: logger.pictures(files, check.seen))

    def ended(self, outcome: Outcome | None) -> None:
        if outcome is None:
            self.close()
        else:
            self._end = "finished"

    # ── After training ───────────────────────────────────────────────────────────────────────────────────────────────

    def model(self) -> None:
        """Send the model, when its best weights are in the run."""
        self._each("model", 1, lambda logger: logger.model(self._run.model))

    def results(self, results: Results) -> None:
        """Send what is known when the run has been measured, once."""
        if not self._open and any("results" not in self._read().get(name, {}) for name in self._names):
            self._start()  # an earlier process has trained the run
        self._end = "finished"
        finite = {key: value for key, value in results.figures.items() if math.isfinite(value)}
        seen = self._run.seen()
        self._each("results", 1, lambda logger: logger.results(results._replace(figures=finite), seen))

    def close(self) -> None:
        """Close all loggers. May be called more than once."""
        atexit.unregister(self.close)
        for name in list(self._open):
            self._try(name, lambda logger: logger.close(self._end))
        self._open.clear()

    # ── The part that may fail ───────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        if not self._names:
            return
        self._sent = self._read()
        above = self._run.path.resolve().parent
        name = f"{above.name}/{self._run.name}" if (above / "recipe.yaml").is_file() else self._run.name
        about = LoggedRun(self._run, name, self._recipe.plain(), self._recipe.yaml())
        atexit.register(self.close)  # a program that ends early leaves no run open
        for name in self._names:
            logger, sent = LOGGERS[name](), self._sent.setdefault(name, {})
            self._open[name] = logger

            def begin(logger: Logger, sent: dict[str, Any] = sent) -> None:
                sent["id"] = logger.open(about, sent.get("id"))

            self._try(name, begin)
        self._write()

    def _scalars(self, kind: str, values: Mapping[str, float], seen: int) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if finite:
            self._each(kind, seen, lambda logger: logger.scalars(finite, seen))

    def _each(self, kind: str, mark: int, send: Callable[[Logger], None]) -> None:
        """Let each logger send something of a kind, unless something with this or a later mark was sent before."""
        due = [name for name in self._open if self._sent[name].get(kind, -1) < mark]
        for name in due:
            self._sent[name][kind] = mark
        if due:
            self._write()
        for name in due:
            self._try(name, send)

    def _try(self, name: str, work: Callable[[Logger], None]) -> None:
        try:
            # What a library warns of in its own code is not for the user of this one.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                work(self._open[name])
        except Exception as error:  # a full disk, a network that is down, a server that refuses: any of them
            self._open.pop(name, None)
            reason = as_one_line(str(error) or type(error).__name__)[:MAX_REASON_CHARACTERS]
            warnings.warn(
                f"logger {name} failed ({reason}) and is off from here on: training continues without it.",
                EctypeWarning,
                stacklevel=2,
            )

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        kinds = {"id": str, "train": int, "check": int, "pictures": int, "model": int, "results": int}
        valid = isinstance(found, dict) and all(
            isinstance(sent, dict) and all(isinstance(sent.get(key, kind()), kind) for key, kind in kinds.items())
            for sent in found.values()
        )
        return found if valid else {}

    def _write(self) -> None:
        try:
            with atomic_file(self._file, durable=False) as scratch:
                scratch.write_text(json.dumps(self._sent), encoding="utf-8")
        except OSError:
            return  # the checkpoint that follows reports a full disk
