"""Too little training: a run that cannot be judged yet, with the budget that would help."""

from __future__ import annotations

import math

from ectype.analysis.diagnose import posterior_collapse
from ectype.analysis.diagnose.finding import Advice, Evidence, Finding
from ectype.analysis.run_view import RunView
from ectype.evaluation.training_progress import FAR_RATIO, FEW_UPDATES, MIN_UPDATES, progress_of_run, shortfall

__all__ = ["find_in_run", "longer_training"]

TARGET_UPDATES = 2 * FEW_UPDATES
"""Updates that a longer run should make at least."""
MIN_GROWTH = 4
"""How many times as long a longer run should be at least: less hardly changes a loss that falls as a power of time."""


def find_in_run(view: RunView) -> Finding | None:
    """Report a run that was trained too little for other findings to mean anything."""
    run = view.run.selected_attempt
    training = progress_of_run(run)
    reason = training.lacks_training(shortfall(view.evaluation.figures))
    if not reason or _has_collapsed(view, training.updates):
        return None
    updates, shown, images = training.updates, run.seen(), len(view.train)
    gain = training.late_gain
    parameters = sum(p.numel() for p in view.model.parameters())  # a loaded model requires no gradients
    evidence = [
        Evidence("updates", updates, f"of {view.recipe.train.batch:,} images each"),
        Evidence("times each image was shown", shown / max(1, images), f"{images:,} training images"),
        Evidence("pixel values shown per parameter", shown * view.info.num_elements / max(1, parameters)),
    ]
    if gain is not None:
        evidence.append(Evidence("share of the improvement in the second half of the run", gain))
    needed, headline = None, f"The model is undertrained ({updates:,} updates)"
    if training.floor is not None and (needed := training.images_to_reach(FAR_RATIO * training.floor)) is not None:
        hours = needed * run.summary().get("seconds", 0.0) / max(1, shown) / 3600
        evidence.append(
            Evidence("images until samples come close to real ones", needed, f"at this pace, about {_duration(hours)}")
        )
        headline += f": at this pace, samples come close to real images after about {_duration(hours)}"
    if (above := view.evaluation.get("psnr_above_pca")) is not None:
        evidence.append(Evidence(above.name, above.value, "in dB, with as many dimensions as the code"))
    return Finding(
        "undertrained",
        "warning",
        f"the run was trained too little to judge the model by: {reason}",
        evidence,
        _advice(view, updates, shown, needed),
        decisive=True,
        withholds_others=updates < MIN_UPDATES,
        headline=headline,
    )


def _has_collapsed(view: RunView, updates: int) -> bool:
    """Return whether samples or the posterior have collapsed, which training longer does not undo."""
    if view.evaluation.verdict == "collapsed":
        return True  # the verdict takes the number of updates into account
    if updates < FEW_UPDATES:
        return False
    found = posterior_collapse.find_in_run(view)
    return found is not None and found.name == "posterior collapse"


def _duration(hours: float) -> str:
    """Return a duration to about one digit, which is all that a forecast knows."""
    if hours < 1:
        return f"{max(1, round(60 * hours)):.2g} minutes"
    return f"{hours:.2g} hours" if hours < 48 else f"{hours / 24:.2g} days"


def _advice(view: RunView, updates: int, shown: int, needed: float | None) -> list[Advice]:
    """Advise a longer run, and what gives more updates for the same images.

    Args:
        view: The run.
        updates: Updates made.
        shown: Images seen.
        needed: Forecast of the images after which samples are close to real ones; None if there is no forecast.
    """
    run, train = view.run.selected_attempt, view.recipe.train
    advice = [longer_training(view, needed)]
    if run.state() == "stopped early":
        why = "the run was stopped before it had learned much"
        advice.insert(0, Advice("training without early stopping", why, {"monitor.patience": None}))
    smaller = max(4, train.batch // 4)
    if smaller < train.batch and updates < MIN_UPDATES and len(view.train) < MIN_UPDATES * train.batch:
        advice.append(Advice("smaller batches", "the same images give more updates", {"train.batch": smaller}))
    return advice


def longer_training(view: RunView, needed: float | None = None) -> Advice:
    """Return the advice to train for at least four times as long, and for at least 2,000 updates.

    Args:
        view: The run.
        needed: Images that training should see at least; None if that is not known.
    """
    run, train = view.run.selected_attempt, view.recipe.train
    updates, shown = progress_of_run(run).updates, run.seen()
    growth = max(MIN_GROWTH, math.ceil(TARGET_UPDATES / max(1, updates)), math.ceil((needed or 0) / max(1, shown)))
    target = updates * growth
    if train.minutes is not None:
        options, about = f"--minutes {growth * train.minutes:.3g}", "about "
    else:
        options, about = f"--images {growth * shown}", ""
    return Advice("longer training", f"{options} would be {about}{target:,} updates", {}, options)
