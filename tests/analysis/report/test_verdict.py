"""The verdict that a report shows first: on samples, or how training ended."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ectype.analysis.report.verdict import run_verdict
from ectype.analysis.run_view import RunView
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo


def view(preset: str, verdict: str) -> RunView:
    model = load_recipe(preset).model.build(DataInfo(channels=1, size=(16, 16)))
    attempt = SimpleNamespace(summary=lambda: {"state": "finished", "reason": "the budget was used"})
    evaluation = SimpleNamespace(verdict=verdict, verdict_evidence="recall 0.00" if verdict else "")
    made = RunView.__new__(RunView)  # nothing else of a run is needed
    made.__dict__.update(model=model, evaluation=evaluation, run=SimpleNamespace(selected_attempt=attempt))
    return made


@pytest.mark.parametrize(
    "preset, verdict, name, standing",
    [
        ("gan", "collapsed", "collapsed", "bad"),
        ("gan", "healthy", "healthy", "good"),
        ("vae", "undertrained", "undertrained", "held"),
        ("vae", "healthy", "healthy", "good"),
        ("ae", "", "finished", "good"),
    ],
)
def test_the_verdict_on_samples_comes_before_how_training_ended(
    preset: str, verdict: str, name: str, standing: str
) -> None:
    found = run_verdict(view(preset, verdict))
    assert (found.name, found.standing) == (name, standing)
    assert found.short_evidence == ("the budget was used" if name == "finished" else "recall 0.00")
