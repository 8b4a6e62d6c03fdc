"""Runs of comparisons and studies are trained in this process, except where a process is the point of a test.

Starting Python and importing torch takes longer than these small trainings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from ectype.config.recipe import Recipe
from ectype.core.errors import EctypeError
from ectype.experiments import launcher

START = launcher._start


class Finished:
    """A process that has ended already."""

    def __init__(self, code: int) -> None:
        self.returncode = code

    def poll(self) -> int:
        return self.returncode

    def terminate(self) -> None:
        pass

    def wait(self) -> int:
        return self.returncode


def start_here(place: Path, name: str, recipe: Recipe) -> tuple[Any, Path]:
    """Do what the command of a run does: train, measure, diagnose, report."""
    from ectype.api.train import train
    from ectype.cli.train import show_results

    log, file = place / f"{name}.log", place / f"{name}.yaml"
    file.write_text(recipe.yaml(), encoding="utf-8")
    with log.open("a") as target, redirect_stdout(target), redirect_stderr(target):
        try:
            run = train(file, str(recipe.data.source), out=place / name, progress=False)
            show_results(run, every_figure=False)
        except EctypeError as error:
            print(f"error: {error}")
            return Finished(error.exit_code), log
    return Finished(0), log


@pytest.fixture(autouse=True, scope="session")
def _in_this_process() -> Iterator[None]:
    launcher._start = start_here  # pyright: ignore[reportAttributeAccessIssue]
    yield
    launcher._start = START


@pytest.fixture
def real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start runs as processes, as a command does."""
    monkeypatch.setattr(launcher, "_start", START)
