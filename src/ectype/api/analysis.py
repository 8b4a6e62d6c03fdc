"""Measuring and explaining runs from Python. Each function takes a run or its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ectype.analysis import results
from ectype.analysis.diagnose.finding import Finding
from ectype.api.inference import AnyRun, path_of
from ectype.api.run import Run, as_run
from ectype.config.recipe import preset_table
from ectype.core.table import Table
from ectype.evaluation.figures import Evaluation
from ectype.evaluation.monitor import best_check
from ectype.export import commands
from ectype.runs.run_dir import find_runs

__all__ = ["diagnose", "evaluate", "export_model", "presets", "push", "report", "runs"]


def evaluate(
    run: str | Path | Run, data: str | Path | None = None, *, likelihood: int | None = None, device: str | None = None
) -> Evaluation:
    """Measure a run's model on images that it was not trained on; see `Run.evaluate`."""
    return as_run(run).evaluate(data, likelihood=likelihood, device=device)


def diagnose(what: str | Path | Run, overrides: Sequence[str] = (), *, device: str | None = None) -> list[Finding]:
    """Return the problems of a run, or of images alone, the most serious first, each with advice.

    Args:
        what: A run, its path, or a source of images.
        overrides: For images: `key=value` texts that say how they are prepared, such as `size=128`.
        device: `cpu`, `cuda`, `mps` or `auto`.
    """
    if isinstance(what, Run) and not overrides:
        return what.findings()
    return results.diagnose(str(what.path if isinstance(what, Run) else what), overrides, device=device)


def report(run: str | Path | Run | Sequence[str | Path | Run], out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about one or more runs, and return its path.

    Args:
        run: A run or its path, or several.
        out: The file. If it is not given: `report.html` in the run, or next to the first of several.
    """
    found = [as_run(run)] if isinstance(run, str | Path | Run) else [as_run(each) for each in run]
    return results.report([each.view() for each in found], None if out is None else Path(out))


def presets() -> Table:
    """Return all presets: name, family, density, task, summary."""
    rows = [
        {
            "name": about.name,
            "family": about.family,
            "density": about.density,
            "task": about.task,
            "summary": about.summary,
        }
        for about in preset_table()
    ]
    return Table(rows)


def runs(root: str | Path = "runs") -> Table:
    """Return the runs in a directory, oldest first: path, state, images seen, best check."""
    rows = [
        {"path": str(run.path), "state": run.state(), "images": run.seen(), "best_check": best_check(run)}
        for run in find_runs(root)
    ]
    return Table(rows, ["path", "state", "images", "best_check"])


def export_model(run: AnyRun, to: str, out: str | Path, *, license: str | None = None) -> Path:
    """Write a model for other programs, and test the result on held-out images.

    Args:
        run: A run or its path.
        to: `onnx`, `openvino`, `safetensors` or `diffusers`.
        out: A folder.
        license: For the model card, such as `apache-2.0`.

    Returns:
        The folder.

    Raises:
        ModelError: The model has no such export, a library is missing, or outputs differ.
    """
    commands.export(path_of(run), to, Path(out), license=license)
    return Path(out)


def push(run: AnyRun, name: str, **options: Any) -> str:
    """Upload a model to the Hub, with a card; `ectype.load(name)` then works anywhere.

    Args:
        run: A run or its path.
        name: `user/name`.
        options: `private`, `license` and `local`; see `ectype push --help`.

    Returns:
        The line that the command prints.
    """
    return commands.push(path_of(run), name, **options)
