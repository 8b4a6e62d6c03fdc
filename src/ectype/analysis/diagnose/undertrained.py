"""Too little training: so few updates that nothing else can be concluded."""

from __future__ import annotations

from ectype.analysis.diagnose.finding import Advice, Evidence, Finding
from ectype.analysis.run_view import RunView

__all__ = ["find_in_run"]

MIN_UPDATES = 50
"""Number of updates below which a network is little more than its initial weights, so apparent faults mean nothing."""


def find_in_run(view: RunView) -> Finding | None:
    """Report a run that ended before it had learned anything."""
    run = view.run.selected_attempt
    updates = run.summary().get("step")
    if updates is None or updates >= MIN_UPDATES:
        return None
    train = view.recipe.train
    smaller = max(4, train.batch // 4)
    if run.state() == "stopped early":
        why = "the run was stopped before it had learned anything"
        advice = [Advice("training without early stopping", why, {"monitor.patience": None})]
    else:
        target = MIN_UPDATES * 20
        advice = [Advice("longer training", f"--images {target * train.batch} would be {target:,} updates", {})]
    if smaller < train.batch and len(view.train) < MIN_UPDATES * train.batch:
        advice.append(Advice("smaller batches", "the same images give more updates", {"train.batch": smaller}))
    return Finding(
        "too little training",
        "warning",
        f"{updates:,} updates are too few to judge the model by",
        [Evidence("updates", updates, f"at least {MIN_UPDATES} are needed"), Evidence("images shown", run.seen())],
        advice,
        decisive=True,
        headline=f"The model has hardly been trained ({updates:,} updates)",
    )
