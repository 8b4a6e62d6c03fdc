"""Overfitting: held-out images get worse while training images still get better."""

from __future__ import annotations

from ectype.diagnose.finding import Advice, Evidence, Finding
from ectype.measure.view import RunView

__all__ = ["of_run"]

RISEN, FEWEST = 0.1, 5
"""Share of what was won on held-out images that has been lost again, and checks that it takes to say so."""


def of_run(view: RunView) -> Finding | None:
    """Whether the loss on held-out images has risen from its minimum by much of what it had fallen."""
    run = view.run.shipped
    critic = getattr(view.recipe.objective, "adversary", None)
    if run.watch_file.is_file() or getattr(critic, "weight", 0.0):
        return None  # what follows samples has verdicts of its own, and a critic gives a loss away for what it sees
    name, looks = run.followed()
    if len(looks) < FEWEST:
        return None
    place = min(range(len(looks)), key=lambda i: looks[i][1])
    (seen, least), (end, last) = looks[place], looks[-1]
    won = looks[0][1] - least
    if won <= 0 or last - least < RISEN * won:
        return None
    advice = [Advice("more images, or more varied ones", "it has learnt these by heart", {})]
    augment = view.recipe.data.augment
    if not augment.flip or not augment.shift:
        why = "an image that is never shown twice alike cannot be learnt by heart"
        advice.append(Advice("changed images", why, {"data.augment.flip": True, "data.augment.shift": 0.05}))
    if view.recipe.monitor.patience is None:
        advice.append(Advice("an early stop", "what comes after the minimum is lost time", {"monitor.patience": 5}))
    return Finding(
        "overfitting",
        "note" if view.recipe.run.keep_best else "warning",
        f"{name} on held-out images was best after {seen:,} images and has lost {(last - least) / won:.0%} of what it "
        f"had won by {end:,}" + ("; the weights of the best check are shipped" if view.recipe.run.keep_best else ""),
        [Evidence(f"best {name}", least), Evidence(f"last {name}", last)],
        advice,
    )
