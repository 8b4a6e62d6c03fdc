"""Memorization: samples that are copies of training images."""

from __future__ import annotations

from ectype.analysis.diagnose.advice import advice_for_verdict
from ectype.analysis.diagnose.finding import Advice, Finding
from ectype.analysis.diagnose.mode_collapse import evidence_from_figures
from ectype.analysis.run_view import RunView
from ectype.evaluation.training_progress import FEW_UPDATES, progress_of_run
from ectype.models.base import Samples, is_trained_to_encode

__all__ = ["find_in_run"]

FINDINGS = {"memorising": "memorisation", "memorising or shrunken": "copies, or shrunken modes"}
"""Verdict → name of the finding."""
METRICS = ("membership_auc", "authenticity", "closer_to_training")


def find_in_run(view: RunView) -> Finding | None:
    """Report samples that are closer to training images than held-out images are."""
    figures, run = view.evaluation, view.run.selected_attempt
    # A small dataset may have too few test images for a verdict; the run's checks used validation images.
    at_end = [verdict for verdict in (run.state(), run.last_verdict()) if verdict in FINDINGS]
    is_current = figures.verdict in FINDINGS
    # Samples of an autoencoder depend on the density of its codes, which is not trained.
    if not (is_current or at_end) or not isinstance(view.model, Samples) or is_trained_to_encode(view.model):
        return None
    advice = advice_for_verdict(view.recipe, "memorising", view.info.channels)
    if view.recipe.monitor.patience is None:
        why = "copying starts late, and the best checkpoint is from before it"
        advice.append(Advice("early stopping", why, {"monitor.patience": 5, "monitor.stretch": 0.5}))
    evidence = evidence_from_figures(figures, METRICS)
    if not is_current:
        message = (
            "at the end of the run samples were closer to training images than held-out images are; the selected "
            "weights may be older"
        )
        headline = "Samples were copies of training images at the end of the run"
        return Finding(FINDINGS[at_end[0]], "warning", message, evidence, advice, headline=headline)
    is_certain = figures.verdict == "memorising"
    return Finding(
        FINDINGS[figures.verdict],
        "serious" if is_certain else "warning",
        "samples are closer to training images than held-out images are: they are copies"
        if is_certain
        else "samples are closer to training images than other real images are: they are copies, or lack variety",
        evidence,
        advice,
        {"samples": view.model.sample(16, generator=view.generator("memorised"))},
        lasting=is_certain or progress_of_run(run).updates >= FEW_UPDATES,
        headline="Samples are copies of training images"
        if is_certain
        else "Samples are too close to training images: they are copies, or lack variety",
    )
