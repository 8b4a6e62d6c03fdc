"""Memorisation: samples that are training images."""

from __future__ import annotations

from ectype.diagnose.advice import advised
from ectype.diagnose.finding import Advice, Finding
from ectype.diagnose.modes import signs
from ectype.measure.view import RunView
from ectype.models.base import Samples, has_own_codes

__all__ = ["of_run"]

VERDICTS = {"memorising": "memorisation", "memorising or shrunken": "copies, or shrunken modes"}
"""What is found where a check says so."""
SIGNS = ("told from held-out", "authenticity", "closer to training images")


def of_run(view: RunView) -> Finding | None:
    """Whether samples are nearer to training images than held-out images are."""
    found = view.evaluation
    # Of few images none may be left to judge the shipped weights by; the run's checks had those for validation.
    ended = [said for said in (view.run.shipped.state(), view.run.shipped.last_verdict()) if said in VERDICTS]
    named = found.verdict in VERDICTS
    # What samples of an autoencoder are like is a matter of its codes' density.
    if not (named or ended) or not isinstance(view.model, Samples) or has_own_codes(view.model):
        return None
    sure = found.verdict == "memorising"
    advice = advised(view.recipe, "memorising", view.info.channels)
    if view.recipe.monitor.patience is None:
        why = "copying comes late; the best checkpoint is from before it"
        advice.append(Advice("stop when nothing gets better", why, {"monitor.patience": 5, "monitor.stretch": 0.5}))
    if not named:
        said = "at the run's end samples lay nearer to training images than held-out ones; what is shipped may be older"
        return Finding(VERDICTS[ended[0]], "warning", said, signs(found, SIGNS), advice)
    return Finding(
        VERDICTS[found.verdict],
        "serious" if sure else "warning",
        "samples lie nearer to training images than held-out images do: they are copied"
        if sure
        else "samples lie nearer to training images than other real images do, by copying or by keeping to the middle",
        signs(found, SIGNS),
        advice,
        {"samples": view.model.sample(16, generator=view.generator("memorised"))},
    )
