"""A run's directory: what lies where, who may write to it, and how runs are found."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ectype.errors import EctypeWarning, RunError, TrainingError
from ectype.recipe import Recipe, load_recipe

__all__ = ["NOT_MEASURED", "RunDir", "find_runs", "numbered"]

NOT_MEASURED = ("kind", "seen", "step", "best", "time", "seconds", "verdict", "evidence")
"""Keys of a line of metrics that are no measure of the model."""


class RunDir:
    """The files of one run."""

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
        self.watch_file = self.path / "watch.json"
        self.summary_file = self.path / "summary.json"

    @classmethod
    def existing(cls, path: str | Path) -> RunDir:
        """The directory of a run that was started.

        Raises:
            RunError: There is none.
        """
        found = cls(path)
        if not found.recipe_file.is_file():
            within, near = find_runs(found.path), find_runs(found.path.parent)
            alike = difflib.get_close_matches(found.path.name, [run.path.name for run in near], n=1)
            some = ", ".join(str(run.path) for run in (within or near)[-3:])
            hint = f"beside it: {some}." if near else "`ectype runs` lists them."
            if within:
                hint = f"there are runs in it: {some}."
            elif alike:
                hint = f"did you mean '{found.path.with_name(alike[0])}'?"
            raise RunError(f"no run at '{path}' (it has no recipe.yaml); {hint}")
        return found

    @property
    def recipe(self) -> Recipe:
        """The recipe it was started with."""
        return load_recipe(str(self.recipe_file))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.resolve().name

    def begin(self, recipe: Recipe, environment: dict[str, Any]) -> None:
        """Write what defines the run."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.environment_file.write_text(json.dumps(environment, indent=1))
            # Last and at once: a directory that holds it is a run.
            fresh = self.recipe_file.with_suffix(".tmp")
            fresh.write_text(recipe.yaml(), encoding="utf-8")
            fresh.replace(self.recipe_file)
        except OSError as error:
            raise TrainingError(
                f"cannot write to '{self.path}' ({error.strerror}): give another --out, or make room."
            ) from None

    def forget_if_unbegun(self) -> None:
        """Remove the directory if the run failed before it began. For the process that holds its lock."""
        with contextlib.suppress(OSError):
            held = {path.name for path in self.path.iterdir()}
            if held <= {".lock", self.environment_file.name, "recipe.tmp"}:
                for name in held:
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training the same run.

        Raises:
            RunError: One does already.
            TrainingError: The directory cannot be made, or not written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise TrainingError(f"cannot write to '{self.path}' ({error.strerror}): give another --out.") from None
        with file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # Windows has no such lock
                pass
            except BlockingIOError:
                raise RunError(
                    f"'{self.path}' is being trained by another process: wait for it, or give another --out."
                ) from None
            except OSError as error:
                warnings.warn(
                    f"'{self.path}' lies where files cannot be locked ({error.strerror}): train there once at a time.",
                    EctypeWarning,
                    stacklevel=3,
                )
            yield

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics so far; a line cut short by a kill is left out."""
        if not self.metrics_file.is_file():
            return []
        lines = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def cut_metrics(self, seen: int) -> None:
        """Forget what was logged after a checkpoint, since it will be logged again."""
        kept = [line for line in self.metrics() if line["seen"] <= seen]
        fresh = self.metrics_file.with_suffix(".tmp")
        fresh.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
        fresh.replace(self.metrics_file)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step-{step:08d}"

    def summary(self) -> dict[str, Any]:
        """What became of the run; empty while it has not ended."""
        try:
            return json.loads(self.summary_file.read_text())
        except (OSError, ValueError):
            return {}

    def amend_summary(self, more: dict[str, Any]) -> None:
        """Add to what became of the run."""
        self.summary_file.write_text(json.dumps({**self.summary(), **more}, indent=1, ensure_ascii=False))

    def seen(self) -> int:
        """Images shown so far."""
        lines = self.metrics()
        return self.summary().get("seen") or (lines[-1]["seen"] if lines else 0)

    def main_figure(self) -> str:
        """The best of what the run is watched by, with its name."""
        name, looks = self.followed()
        return f"held-out {name} {min(value for _, value in looks):.5g}" if looks else ""

    def followed(self) -> tuple[str, list[tuple[int, float]]]:
        """What the run is watched by, and (images seen, value) of each check; empty before the first."""
        checks = [line for line in self.metrics() if line["kind"] == "check"]
        name = next((key for key in (checks[-1] if checks else {}) if key not in NOT_MEASURED), "")
        return name, [(line["seen"], line[name]) for line in checks if name in line]

    def last_verdict(self) -> str:
        """What the last two checks said of a generator; empty where they said different things, or nothing."""
        last = [line["verdict"] for line in self.metrics() if "verdict" in line][-2:]
        return last[0] if len(last) == 2 and last[0] == last[1] else ""

    def attempt(self, number: int) -> RunDir:
        """Another try at the same with advice applied; the first is number 1."""
        return RunDir(self.path / "attempts" / str(number))

    @property
    def shipped(self) -> RunDir:
        """The try whose model is this run's: an attempt, or itself."""
        number = self.summary().get("shipped_attempt")
        return self.attempt(number) if number else self

    @property
    def trained(self) -> bool:
        """Whether its own training came to an end, however it ended."""
        return self.state() not in ("unfinished", "failed")

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train: neither the run itself nor an attempt that was begun."""
        begun = [int(path.name) for path in (self.path / "attempts").glob("[0-9]*")]
        return self.trained and max(begun, default=0) <= len(self.summary().get("attempts", []))

    def state(self) -> str:
        """finished, stopped early, collapsed, memorising, failed, or unfinished."""
        return self.summary().get("state", "unfinished")


def find_runs(root: str | Path = "runs") -> list[RunDir]:
    """All runs in a directory, oldest first."""
    found = [RunDir(path.parent) for path in Path(root).glob("*/recipe.yaml")]
    return sorted(found, key=lambda run: run.recipe_file.stat().st_mtime)


def numbered(root: Path, name: str) -> Path:
    """The next free numbered directory: vae-001, vae-002, … made at once, so that two starts do not share one."""
    taken = [
        int(m[1]) for path in root.glob(f"{name}-*") if (m := re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name))
    ]
    number = max(taken, default=0) + 1
    while True:
        path = root / f"{name}-{number:03d}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise TrainingError(
                f"cannot make '{path}' ({error.strerror}): give an --out that can be written."
            ) from None
        else:
            return path
