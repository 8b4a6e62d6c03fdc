"""The directory of a run: its files, its lock, what they say about the run, and how runs are found."""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ectype.config.recipe import Recipe, load_recipe
from ectype.config.yaml_text import read_yaml
from ectype.core.errors import EctypeWarning, RunError, TrainingError, similar_words
from ectype.core.files import OWN_PREFIX, file_lock, is_locked, recover_directory, write_text_atomically
from ectype.core.outputs import RUN_FILES, claim_directory
from ectype.runs.json_files import JsonLinesFile, read_json_file, read_json_lines, warn_once, write_json_file

__all__ = [
    "NON_METRIC_KEYS",
    "RunDir",
    "find_runs",
    "is_metrics_line",
    "is_summary",
    "monitored_values",
    "next_numbered_dir",
]

NON_METRIC_KEYS = ("kind", "seen", "step", "best", "time", "seconds", "verdict", "evidence")
"""Keys of a line of metrics that are not a metric of the model."""
LOCK_NAME = ".lock"
SUMMARY_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("state", "reason", "measure"), str),
    **dict.fromkeys(("seen", "step", "shipped_step"), int),
    **dict.fromkeys(("seconds", "check_share"), (int, float)),
    **dict.fromkeys(("best", "floor"), (int, float, type(None))),
    "shipped_attempt": (int, type(None)),
    "attempts": list,
    "autoencoder": dict,
}
"""Types of the keys of a summary, each of which may be missing."""
ATTEMPT_KEYS = frozenset({"attempt", "why", "from", "changed", "state", "reason"})
"""Keys of every entry of `attempts`."""


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
        autoencoder: Directory of the run of the autoencoder that was trained first, if the run trains one.
        findings_file: What matters most about the run in one sentence, and the problems that were found last.
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
        self.autoencoder = self.path / "autoencoder"
        self.report = self.path / "report.html"
        self.evaluation_file = self.path / "evaluation.json"
        self.findings_file = self.path / "findings.json"
        self.monitor_file = self.path / "watch.json"
        self.summary_file = self.path / "summary.json"

    @classmethod
    def existing(cls, path: str | Path) -> RunDir:
        """Return the directory of a run that was started.

        Raises:
            RunError: There is no run at this path.
        """
        run = cls(path)
        recover_directory(run.model)
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
        recipe = load_recipe(str(self.recipe_file))
        expected = self.environment().get("recipe_sha256")
        if expected is not None and hashlib.sha256(self.recipe_file.read_bytes()).hexdigest() != expected:
            warn_once(f"'{self.recipe_file}' is not the file that the run was started with: it was changed or damaged.")
        return recipe

    def has_key(self, key: str) -> bool:
        """Return whether the recipe's file contains a dotted key; files of earlier versions lack those added since."""
        part: Any = read_yaml(self.recipe_file)
        for word in key.split("."):
            if not isinstance(part, dict) or word not in part:
                return False
            part = part[word]
        return True

    def claim(self) -> bool:
        """Check that the directory does not exist, is empty, or is a run, and return whether it is a run.

        Raises:
            RunError: It contains other files.
        """
        try:
            return claim_directory(self.path, RUN_FILES, [file.name for file in self._leftovers()])
        except OSError as error:
            raise RunError(
                f"no run can be written to '{self.path}' ({error.strerror}), and nothing is overwritten: give an --out "
                "that does not exist or is empty."
            ) from None

    @property
    def name(self) -> str:
        """The name of the directory."""
        return self.path.resolve().name

    def _leftovers(self) -> list[Path]:
        """Return the files that a process has left that was killed before it wrote the recipe."""
        lock = self.path / LOCK_NAME
        empty = [lock] if lock.is_file() and not lock.stat().st_size else []
        started = not self.recipe_file.exists() and "ectype" in self.environment()
        return [*empty, self.environment_file] if started else empty

    def write_start(self, recipe: Recipe, environment: dict[str, Any]) -> None:
        """Write the files that make the directory a run.

        Raises:
            TrainingError: The directory cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_recipe(recipe, environment)
        except OSError as error:
            raise TrainingError(
                f"cannot write to '{self.path}' ({error.strerror}): give another --out, or free some space."
            ) from None

    def write_recipe(self, recipe: Recipe, environment: dict[str, Any] | None = None) -> None:
        """Write the recipe and its hash, and what else is recorded of the environment if it is given."""
        text, recorded = recipe.yaml(), self.environment() if environment is None else environment
        recorded = {**recorded, "recipe_sha256": hashlib.sha256(text.encode()).hexdigest()}
        write_json_file(self.environment_file, recorded)
        # Last: a directory that contains the recipe is a run.
        write_text_atomically(self.recipe_file, text)

    def remove_if_not_started(self) -> None:
        """Remove the directory if the run failed before `write_start`. The caller has to hold the run's lock."""
        with contextlib.suppress(OSError):
            if not claim_directory(self.path, RUN_FILES, [file.name for file in self._leftovers()]):
                for path in (*self._leftovers(), *self.path.glob(f"{OWN_PREFIX}-*")):
                    path.unlink()
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
                held = stack.enter_context(file_lock(self.path / LOCK_NAME, wait=False))
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

    def is_locked(self) -> bool | None:
        """Return whether a process is training the run; None if that cannot be known. Nothing is written."""
        return is_locked(self.path / LOCK_NAME)

    def environment(self) -> dict[str, Any]:
        """Return versions and hardware at the start; empty if they are not known."""
        return read_json_file(self.environment_file) or {}

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics so far. Lines that are damaged or not of Ectype are left out, with a warning."""
        return read_json_lines(self.metrics_file, is_metrics_line)

    def truncate_metrics(self, seen: int) -> None:
        """Remove the metrics after this many images. They will be logged again by a run resumed from there."""
        if self.metrics_file.exists():
            JsonLinesFile.rewrite(self.metrics_file, [line for line in self.metrics() if line["seen"] <= seen])

    def checkpoint(self, step: int) -> Path:
        """Return the directory of the checkpoint of a step, which may not exist."""
        return self.checkpoints / f"step-{step:08d}"

    def summary(self) -> dict[str, Any]:
        """Return how the run ended; empty if it has not."""
        return read_json_file(self.summary_file, is_summary) or {}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace the summary of the run."""
        write_json_file(self.summary_file, summary)

    def update_summary(self, changes: Mapping[str, Any]) -> None:
        """Add to the summary of the run."""
        self.write_summary({**self.summary(), **changes})

    def monitor_values(self) -> dict[str, Any] | None:
        """Return the reference values of the sample monitor; None if the run has none that can be read.

        Their keys are key, floor, spread, samples, real and reference (key of a metric → value and spread).
        """
        values = read_json_file(self.monitor_file, _is_monitor)
        return None if values is None else {"key": values.get("name"), **values}  # `name` in earlier versions

    def seen(self) -> int:
        """Return the number of images shown so far."""
        lines = self.metrics()
        return self.summary().get("seen") or (lines[-1]["seen"] if lines else 0)

    def monitored_values(self) -> tuple[str, list[tuple[int, float]]]:
        """Return the name of the monitored metric and (images seen, value) of each check; empty before the first."""
        return monitored_values(self.metrics())

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
        started = [int(path.name) for path in (self.path / "attempts").glob("[0-9]*") if path.name.isdecimal()]
        return self.training_ended and max(started, default=0) <= len(self.summary().get("attempts", []))

    def state(self) -> str:
        """Return finished, stopped early, collapsed, memorising, failed, or unfinished."""
        return self.summary().get("state", "unfinished")


def monitored_values(lines: Iterable[Mapping[str, Any]]) -> tuple[str, list[tuple[int, float]]]:
    """Return what `RunDir.monitored_values` does, of lines of metrics that were read already."""
    checks = [line for line in lines if line["kind"] == "check"]
    name = next((key for key in (checks[-1] if checks else {}) if key not in NON_METRIC_KEYS), "")
    return name, [(line["seen"], line[name]) for line in checks if name in line]


def is_metrics_line(line: Mapping[str, Any]) -> bool:
    """Return whether a line of metrics has the keys and types that its readers rely on."""
    types: dict[str, type | tuple[type, ...]] = {"kind": str, "seen": int, "step": int, "best": bool}
    types |= {"verdict": str, "evidence": str}
    required = {"kind", "seen", "step"} | ({"evidence"} if "verdict" in line else set())
    return required <= line.keys() and all(
        isinstance(value, types.get(key, (int, float))) for key, value in line.items()
    )


def is_summary(summary: Mapping[str, Any]) -> bool:
    """Return whether a summary has the types that its readers rely on."""
    return all(isinstance(summary[key], kind) for key, kind in SUMMARY_TYPES.items() if key in summary) and all(
        isinstance(entry, dict) and entry.keys() >= ATTEMPT_KEYS for entry in summary.get("attempts", [])
    )


def _is_monitor(values: Mapping[str, Any]) -> bool:
    """Return whether reference values of the sample monitor have the keys and types that their readers rely on."""
    reference = values.get("reference")
    return (
        isinstance(values.get("key") or values.get("name"), str)
        and all(isinstance(values.get(key), int | float) for key in ("floor", "spread", "samples", "real"))
        and isinstance(reference, dict)
        and all(isinstance(entry, list) and entry and isinstance(entry[0], int | float) for entry in reference.values())
    )


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
