"""Critic damage: a critic that has made the reconstruction worse."""

from __future__ import annotations

from ectype.analysis.diagnose.advice import advice_for_verdict
from ectype.analysis.diagnose.finding import Finding
from ectype.analysis.run_view import RunView

__all__ = ["find_in_run"]


def find_in_run(view: RunView) -> Finding | None:
    """Report a run that ended because its critic degraded the reconstruction."""
    run = view.run.selected_attempt
    if run.state() != "spoiled":
        return None
    message = f"the critic degraded the reconstruction: {run.summary().get('reason', '')}"
    advice = advice_for_verdict(view.recipe, "spoiled")
    headline = "The critic has degraded the reconstruction"
    return Finding("spoiled by its critic", "serious", message, [], advice, lasting=True, headline=headline)
