"""Blur: outputs that have the shape of images and none of their fine detail."""

from __future__ import annotations

from ectype.diagnose import alike, small_latent
from ectype.diagnose.finding import Advice, Evidence, Finding
from ectype.measure.evaluation import number
from ectype.measure.variety import DETAIL
from ectype.measure.view import RunView
from ectype.models.base import reconstructs_itself

__all__ = ["of_run"]

BLURRED, GRAVE = 0.5, 0.25
"""Share of images' fine detail below which outputs are blurred, and gravely so."""
SMALLEST = 32
"""Pixels of a side from which the networks of perceptual losses see anything."""


def of_run(view: RunView) -> Finding | None:
    """Whether reconstructions have lost their fine detail."""
    kept = view.evaluation.get(DETAIL)
    if kept is None or kept.value >= BLURRED or (kept.high or 0) >= BLURRED or not reconstructs_itself(view.model):
        return None
    if view.info.binary:
        return None  # what is expected of a pixel that is black or white is grey
    if small_latent.of_run(view) or alike.of_run(view):
        return None  # which explains it, and has the better advice
    original = view.images(view.chosen(8, "blurred"))
    evidence = [Evidence(DETAIL, kept.value, f"95% {kept.interval}")]
    if (ssim := view.evaluation.get("SSIM")) is not None:
        evidence.append(Evidence("SSIM", ssim.value, f"95% {ssim.interval}"))
    return Finding(
        "blur",
        "serious" if kept.value < GRAVE else "warning",
        f"outputs have {number(kept.value)} of the fine detail that images have: a loss that is averaged over pixels "
        "answers doubt with blur",
        evidence,
        _advice(view),
        {"images": original, "reconstructions": view.model.reconstruct(original)},
    )


def _advice(view: RunView) -> list[Advice]:
    objective, found = view.recipe.objective, []
    if getattr(objective, "kind", "") == "reconstruction":
        if min(view.info.size) >= SMALLEST and "perceptual" not in getattr(objective, "loss", {}):
            why = "features of a network are far apart where one image is sharp and the other is not"
            found.append(Advice("a perceptual term", why, {"objective.loss": {"l1": 1.0, "perceptual": 0.1}}))
        rules = getattr(objective, "adversary", None)
        if rules is not None and not rules.weight:
            why = "a critic sees blur at once"
            found.append(Advice("a patch critic", why, {"objective.adversary.weight": 0.5}))
    return found
