"""Too little training: so few updates that nothing else can be told."""

from __future__ import annotations

from ectype.diagnose.finding import Advice, Evidence, Finding
from ectype.measure.view import RunView

__all__ = ["of_run"]

LEAST = 50
"""Updates before which a network is little more than its initial weights: what looks like a fault is how it began."""


def of_run(view: RunView) -> Finding | None:
    """Whether a run ended before it had begun to learn."""
    run = view.run.shipped
    steps = run.summary().get("step")
    if steps is None or steps >= LEAST:
        return None
    train = view.recipe.train
    smaller = max(4, train.batch // 4)
    if run.state() == "stopped early":
        advice = [
            Advice("an end by the budget alone", "it was stopped before it had begun", {"monitor.patience": None})
        ]
    else:
        wanted = LEAST * 20
        advice = [Advice("a larger budget", f"--images {wanted * train.batch} would be {wanted:,} updates", {})]
    if smaller < train.batch and len(view.train) < LEAST * train.batch:
        advice.append(Advice("smaller batches", "more updates of as many images", {"train.batch": smaller}))
    return Finding(
        "too little training",
        "warning",
        f"{steps:,} updates are too few to tell what else is off",
        [Evidence("updates", steps, f"{LEAST} are few"), Evidence("images shown", run.seen())],
        advice,
        decisive=True,
    )
