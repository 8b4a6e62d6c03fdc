"""The one command to try next, which a page suggests below its first sentence."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ectype.analysis.diagnose.finding import Advice, Finding
from ectype.analysis.diagnose.undertrained import longer_training
from ectype.analysis.run_view import RunView
from ectype.models.base import Reconstructs, Samples, Translates

__all__ = ["advice_command", "next_command"]


def next_command(view: RunView, findings: Sequence[Finding]) -> tuple[str, str]:
    """Return what to do next with a run, in a few words, and the command for it.

    That is the first advice that a command can follow; longer training if a linear code reconstructs better; else
    something to do with a model that has no problem.

    Args:
        view: The run.
        findings: Its findings, the most serious first.
    """
    for finding in sorted(findings, key=lambda each: not each.decisive):
        for advice in finding.advice if finding.severity != "note" else ():
            if command := advice_command(view, advice):
                return f"Try {advice.title}", command
    gap = view.evaluation.get("psnr_above_pca")
    if gap is not None and gap.high is not None and gap.high < 0:
        advice = longer_training(view)
        return f"Try {advice.title}", advice_command(view, advice)
    run = str(view.run.path)
    if isinstance(view.model, Samples) and view.evaluation.density != "none":
        return "Draw samples", shlex.join(["ectype", "sample", run, "-n", "64", "--out", "samples.png"])
    if isinstance(view.model, Translates):
        return "Use it on your images", shlex.join(["ectype", "translate", run, "images/", "--out", "outputs/"])
    if isinstance(view.model, Reconstructs):
        return "Find odd images", shlex.join(["ectype", "score", run, "images/"])
    return "Measure it again", shlex.join(["ectype", "evaluate", run])


def advice_command(view: RunView, advice: Advice) -> str:
    """Return the command that trains a run again with an advice followed; empty if no command can follow it."""
    changes = " ".join(filter(None, [advice.options, advice.as_arguments()]))
    if not changes:
        return ""
    run = view.run.selected_attempt
    return f"{shlex.join(['ectype', 'train', str(run.recipe_file), str(run.recipe.data.source)])} {changes}"
