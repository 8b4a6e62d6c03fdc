"""Mode collapse: a generator whose samples leave out parts of the variety of real images."""

from __future__ import annotations

from ectype.analysis.diagnose.advice import advice_for_verdict
from ectype.analysis.diagnose.finding import Evidence, Finding
from ectype.analysis.run_view import RunView
from ectype.evaluation.figure_names import metric_of
from ectype.evaluation.figures import Evaluation, format_number
from ectype.models.base import Samples, is_trained_to_encode

__all__ = ["evidence_from_figures", "find_in_run"]

METRICS = ("coverage", "recall", "vendi_ratio", "ndb", "duplicates")


def find_in_run(view: RunView) -> Finding | None:
    """Report samples with the verdict that they have lost modes."""
    verdict, run = view.evaluation.verdict, view.run.selected_attempt
    # Samples of an autoencoder depend on the density of its codes, which is not trained.
    if is_trained_to_encode(view.model) or not isinstance(view.model, Samples):
        return None
    evidence = evidence_from_figures(view.evaluation, METRICS)
    if verdict not in ("collapsed", "losing modes"):
        if "collapsed" not in (run.state(), run.last_verdict()):
            return None
        message = (
            "the run had collapsed at its end; the selected weights may be from before that, and could have improved "
            "further without the collapse"
        )
        advice = advice_for_verdict(view.recipe, "collapsed", view.info.channels)
        headline = "The run had collapsed at its end"
        return Finding("mode collapse", "warning", message, evidence, advice, headline=headline)
    has_collapsed = verdict == "collapsed"
    problem = "samples have little of the variety of real images" if has_collapsed else "samples lack some variety"
    reason = view.evaluation.verdict_evidence or verdict
    return Finding(
        "mode collapse" if has_collapsed else "modes lost",
        "serious" if has_collapsed else "warning",
        f"{problem}: {reason}",
        evidence,
        advice_for_verdict(view.recipe, verdict, view.info.channels),
        {
            "images": view.images(view.chosen(16, "modes")),
            "samples": view.model.sample(16, generator=view.generator("modes")),
        },
        headline=f"{'Samples have collapsed' if has_collapsed else 'Samples lack variety'}: {reason.split('; ')[0]}",
    )


def evidence_from_figures(evaluation: Evaluation, metrics: tuple[str, ...]) -> list[Evidence]:
    """Return the figures of these metrics in every feature space, each compared with real images."""
    return [
        Evidence(figure.name, figure.value, f"real images {format_number(real)}" if real is not None else "")
        for figure in evaluation.figures
        if metric_of(figure.key) in metrics
        for real in [figure.baselines.get("real_images")]
    ]
