"""Mode collapse: a generator that leaves out what real images have."""

from __future__ import annotations

from ectype.diagnose.advice import advised
from ectype.diagnose.finding import Evidence, Finding
from ectype.measure.evaluation import Evaluation, number
from ectype.measure.view import RunView
from ectype.models.base import Samples, has_own_codes

__all__ = ["of_run", "signs"]

SIGNS = ("coverage", "recall", "Vendi ratio", "NDB/K", "repeated")


def of_run(view: RunView) -> Finding | None:
    """Whether samples were judged to have lost modes."""
    verdict, shipped = view.evaluation.verdict, view.run.shipped
    # What samples of an autoencoder lack is a matter of its codes' density.
    if has_own_codes(view.model) or not isinstance(view.model, Samples):
        return None
    if verdict not in ("collapsed", "losing modes"):
        if "collapsed" not in (shipped.state(), shipped.last_verdict()):
            return None
        said = "at its end the run had collapsed; what is shipped may be from before that, and could have become better"
        found = signs(view.evaluation, SIGNS)
        return Finding("mode collapse", "warning", said, found, advised(view.recipe, "collapsed", view.info.channels))
    how = "hold little of the variety that real images have" if verdict == "collapsed" else "leave out some of it"
    return Finding(
        "mode collapse" if verdict == "collapsed" else "modes lost",
        "serious" if verdict == "collapsed" else "warning",
        f"samples {how}: {next((r for r in view.evaluation.remarks if r.startswith('Samples:')), verdict)}",
        signs(view.evaluation, SIGNS),
        advised(view.recipe, verdict, view.info.channels),
        {
            "images": view.images(view.chosen(16, "modes")),
            "samples": view.model.sample(16, generator=view.generator("modes")),
        },
    )


def signs(found: Evaluation, names: tuple[str, ...]) -> list[Evidence]:
    """Figures by the beginning of their names, each beside what real images show."""
    return [
        Evidence(figure.name, figure.value, f"real images {number(real)}" if real is not None else "")
        for figure in found.figures
        if figure.name.startswith(names)
        for real in [figure.beside.get("real images")]
    ]
