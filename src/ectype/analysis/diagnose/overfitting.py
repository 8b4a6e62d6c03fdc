"""Overfitting: the loss on held-out images rises while the loss on training images still falls."""

from __future__ import annotations

from ectype.analysis.diagnose.finding import Advice, Evidence, Finding
from ectype.analysis.run_view import RunView

__all__ = ["find_in_run"]

MAX_LOST_FRACTION = 0.1
"""Fraction of the improvement on held-out images that may be lost again before it is reported."""
MIN_CHECKS = 5
"""Number of checks needed to tell."""


def find_in_run(view: RunView) -> Finding | None:
    """Report a held-out loss that has risen from its minimum by much of what it had fallen before."""
    run = view.run.selected_attempt
    critic = getattr(view.recipe.objective, "adversary", None)
    if run.monitor_file.is_file() or getattr(critic, "weight", 0.0):
        return None  # runs monitored by samples have verdicts; with a critic, a higher loss is not worse
    name, checks = run.monitored_values()
    if len(checks) < MIN_CHECKS:
        return None
    best = min(range(len(checks)), key=lambda i: checks[i][1])
    (best_seen, lowest), (last_seen, last) = checks[best], checks[-1]
    improvement = checks[0][1] - lowest
    if improvement <= 0 or last - lowest < MAX_LOST_FRACTION * improvement:
        return None
    keeps_best, lost = view.recipe.run.keep_best, (last - lowest) / improvement
    advice = [Advice("more images, or more varied ones", "the model has memorized these", {})]
    augment = view.recipe.data.augment
    if not augment.flip or not augment.shift:
        why = "an image that never looks the same twice cannot be memorized"
        advice.append(Advice("augmentation", why, {"data.augment.flip": True, "data.augment.shift": 0.1}))
    if view.recipe.monitor.patience is None:
        why = "training after the minimum is wasted time"
        advice.append(Advice("early stopping", why, {"monitor.patience": 5}))
    return Finding(
        "overfitting",
        "note" if keeps_best else "warning",
        f"{name} on held-out images was best after {best_seen:,} images and has lost {lost:.0%} of its improvement by "
        f"{last_seen:,}" + ("; the weights of the best check were kept" if keeps_best else ""),
        [Evidence(f"best {name}", lowest), Evidence(f"last {name}", last)],
        advice,
        headline=f"The model overfits: its held-out loss was lowest after {best_seen:,} images",
    )
