"""A reconstruction that its critic has wrecked."""

from __future__ import annotations

from ectype.diagnose.advice import advised
from ectype.diagnose.finding import Finding
from ectype.measure.view import RunView

__all__ = ["of_run"]


def of_run(view: RunView) -> Finding | None:
    """Whether a run ended because a critic spoiled what was there."""
    run = view.run.shipped
    if run.state() != "spoiled":
        return None
    said = f"the critic spoiled the reconstruction: {run.summary().get('reason', '')}"
    return Finding("spoiled by its critic", "serious", said, [], advised(view.recipe, "spoiled"))
