"""The directory of a run: its files, its lock, what they say about the run, and how runs are found."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ectype.config.recipe import Recipe, load_recipe
from ectype.core.errors import EctypeWarning, RunError, TrainingError, similar_words
from ectype.core.files import file_lock

__all__ = ["NON_METRIC_KEYS", "RunDir", "find_runs", "next_numbered_dir"]

NON_METRIC_KEYS = ("kind", "seen", "step", "best", "time", "seconds", "verdict", "evidence")
"""Keys of a line of metrics that are not a metric of the model."""


class RunDir:
    """The files of one run.

    Attributes:
        path: The directory.
        recipe_file: The recipe that the run was started with. A directory that contains it is a run.
        metrics_file: One JSON object per line: training losses, and checks on held-out images.
        environment_file: Versions and hardware at the start.
        checkpoints: Directory of the checkpoints.
        samples: Directory of the image grids that training writes.
        model: Directory of the run's model; see `ectype.runs.model_files`.
        report: The HTML report.
        evaluation_file: Metrics on the test images.
        monitor_file: Reference values of the sample monitor, measured between real images.
        summary_file: How the run ended.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.environment_file = self.path / "environment.json"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.model = self.path / "model"
        self.report = self.path / "report.html"
        self.evaluation_file = self.path / "evaluation.json"
        self.monitor_file = self.path / "watch.json"
        self.summary_file = self.path / "summary.json"

    @classmethod
    def existing(cls, path: str | Path) -> RunDir:
        """Return the directory of a run that was started.

        Raises:
            RunError: There is no run at this path.
        """
        run = cls(path)
        if not run.recipe_file.is_file():
            inside, siblings = find_runs(run.path), find_runs(run.path.parent)
            similar = similar_words(run.path.name, [sibling.path.name for sibling in siblings])
            listed = ", ".join(str(other.path) for other in (inside or siblings)[-3:])
            hint = f"runs next to it: {listed}." if siblings else "`ectype runs` lists all runs."
            if inside:
                hint = f"this directory contains runs: {listed}."
            elif similar:
                hint = f"did you mean {' or '.join(repr(str(run.path.with_name(name))) for name in similar)}?"
            raise RunError(f"no run at '{path}' (it has no recipe.yaml); {hint}")
        return run

    @property
    def recipe(self) -> Recipe:
        """The recipe that the run was started with."""
        return load_recipe(str(self.recipe_file))

    @property
    def name(self) -> str:
        """The name of the directory."""
        return self.path.resolve().name

    def write_start(self, recipe: Recipe, environment: dict[str, Any]) -> None:
        """Write the files that make the directory a run.

        Raises:
            TrainingError: The directory cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.environment_file.write_text(json.dumps(environment, indent=1))
            self.write_recipe(recipe)  # last: a directory that contains it is a run
        except OSError as error:
            raise TrainingError(
                f"cannot write to '{self.path}' ({error.strerror}): give another --out, or free some space."
            ) from None

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the recipe, all at once."""
        scratch = self.recipe_file.with_suffix(".tmp")
        scratch.write_text(recipe.yaml(), encoding="utf-8")
        scratch.replace(self.recipe_file)

    def remove_if_not_started(self) -> None:
        """Remove the directory if the run failed before `write_start`. The caller has to hold the run's lock."""
        with contextlib.suppress(OSError):
            names = {path.name for path in self.path.iterdir()}
            if names <= {".lock", self.environment_file.name, "recipe.tmp"}:
                for name in names:
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Prevent other processes from training the same run.

        Raises:
            RunError: Another process is training it.
            TrainingError: The directory cannot be created or written.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                held = stack.enter_context(file_lock(self.path / ".lock", wait=False))
            except BlockingIOError:
                raise RunError(
                    f"'{self.path}' is being trained by another process: wait for it, or give another --out."
                ) from None
            except OSError as error:
                raise TrainingError(f"cannot write to '{self.path}' ({error.strerror}): give another --out.") from None
            if not held:
                warnings.warn(
                    f"'{self.path}' is on a file system where files cannot be locked: make sure that only one process "
                    "trains this run at a time.",
                    EctypeWarning,
                    stacklevel=3,
                )
            yield

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics so far. A line that was cut off when the process was killed is left out."""
        if not self.metrics_file.is_file():
            return []
        lines = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def truncate_metrics(self, seen: int) -> None:
        """Remove the metrics after this many images. They will be logged again by a run resumed from there."""
        kept = [line for line in self.metrics() if line["seen"] <= seen]
        scratch = self.metrics_file.with_suffix(".tmp")
        scratch.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
        scratch.replace(self.metrics_file)

    def checkpoint(self, step: int) -> Path:
        """Return the directory of the checkpoint of a step, which may not exist."""
        return self.checkpoints / f"step-{step:08d}"

    def summary(self) -> dict[str, Any]:
        """Return how the run ended; empty if it has not."""
        try:
            return json.loads(self.summary_file.read_text())
        except (OSError, ValueError):
            return {}

    def update_summary(self, changes: dict[str, Any]) -> None:
        """Add to the summary of the run."""
        self.summary_file.write_text(json.dumps({**self.summary(), **changes}, indent=1, ensure_ascii=False))

    def seen(self) -> int:
        """Return the number of images shown so far."""
        lines = self.metrics()
        return self.summary().get("seen") or (lines[-1]["seen"] if lines else 0)

    def monitored_values(self) -> tuple[str, list[tuple[int, float]]]:
        """Return the name of the monitored metric and (images seen, value) of each check; empty before the first."""
        checks = [line for line in self.metrics() if line["kind"] == "check"]
        name = next((key for key in (checks[-1] if checks else {}) if key not in NON_METRIC_KEYS), "")
        return name, [(line["seen"], line[name]) for line in checks if name in line]

    def last_verdict(self) -> str:
        """Return the verdict of the last two checks of a generator; empty if they disagree or there are none."""
        last = [line["verdict"] for line in self.metrics() if "verdict" in line][-2:]
        return last[0] if len(last) == 2 and last[0] == last[1] else ""

    def attempt(self, number: int) -> RunDir:
        """Return the directory of another attempt at the same run, with advice applied. The first has number 1."""
        return RunDir(self.path / "attempts" / str(number))

    @property
    def selected_attempt(self) -> RunDir:
        """The attempt whose model was selected as the model of this run; the run itself if none was better."""
        number = self.summary().get("shipped_attempt")
        return self.attempt(number) if number else self

    @property
    def training_ended(self) -> bool:
        """Whether the run's own training has ended, in whatever way, except by an error."""
        return self.state() not in ("unfinished", "failed")

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to train, neither of the run itself nor of an attempt that was started."""
        started = [int(path.name) for path in (self.path / "attempts").glob("[0-9]*")]
        return self.training_ended and max(started, default=0) <= len(self.summary().get("attempts", []))

    def state(self) -> str:
        """Return finished, stopped early, collapsed, memorising, failed, or unfinished."""
        return self.summary().get("state", "unfinished")


def find_runs(root: str | Path = "runs") -> list[RunDir]:
    """Return all runs in a directory, oldest first."""
    runs = [RunDir(path.parent) for path in Path(root).glob("*/recipe.yaml")]
    return sorted(runs, key=lambda run: run.recipe_file.stat().st_mtime)


def next_numbered_dir(root: Path, name: str) -> Path:
    """Create and return the next numbered directory: vae-001, vae-002, … Two processes never get the same one.

    Raises:
        TrainingError: It cannot be created.
    """
    numbered = re.compile(rf"{re.escape(name)}-([0-9]{{1,9}})")
    taken = [int(match[1]) for path in root.glob("*") if (match := numbered.fullmatch(path.name))]
    number = max(taken, default=0) + 1
    while True:
        path = root / f"{name}-{number:03d}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise TrainingError(
                f"cannot create '{path}' ({error.strerror}): give an --out in a directory that can be written."
            ) from None
        else:
            return path
