"""An autoencoder that was trained before the model of its codes, and that is no better than a linear code."""

from __future__ import annotations

from ectype.analysis.diagnose.finding import Advice, Evidence, Finding
from ectype.analysis.run_view import RunView
from ectype.evaluation.training_progress import progress_of_run, shortfall
from ectype.runs.run_dir import RunDir

__all__ = ["find_in_run"]


def find_in_run(view: RunView) -> Finding | None:
    """Report an autoencoder whose reconstructions, which limit the samples, are worse than those of PCA."""
    run, gap = RunDir(view.run.autoencoder), view.evaluation.get("psnr_above_pca")
    if "autoencoder" not in view.run.summary() or not run.recipe_file.is_file():
        return None
    training = progress_of_run(run)
    reason = training.lacks_training(shortfall(view.evaluation.figures))
    if not reason and gap is not None and gap.high is not None and gap.high < 0:
        reason = "a linear code of the same size reconstructs better"
    if not reason:
        return None
    evidence = [Evidence("updates of the autoencoder", training.updates)]
    if gap is not None:
        evidence.append(Evidence(gap.name, gap.value, "in dB, with as many dimensions as the code"))
    why = f"its findings are in `ectype report {run.path}`; then give its run instead of images"
    return Finding(
        "undertrained autoencoder",
        "warning",
        f"the autoencoder limits the samples: {reason}",
        evidence,
        # Without overrides: they would change the model of the codes.
        [Advice("a longer run, or the autoencoder by itself", why, {})],
        lasting=True,
        headline="The autoencoder is undertrained",
    )
