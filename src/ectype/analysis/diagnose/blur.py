"""Blur: outputs that have the coarse shapes of images and little of their fine detail."""

from __future__ import annotations

from ectype.analysis.diagnose import posterior_collapse, small_latent
from ectype.analysis.diagnose.finding import Advice, Evidence, Finding
from ectype.analysis.run_view import RunView
from ectype.models.base import is_trained_to_reconstruct

__all__ = ["find_in_run"]

MIN_DETAIL, SERIOUS_DETAIL = 0.5, 0.25
"""Fraction of the images' fine detail below which outputs are blurred, or seriously blurred."""
MIN_PERCEPTUAL_SIDE_PX = 32
"""Side below which the networks of perceptual losses see too little."""


def find_in_run(view: RunView) -> Finding | None:
    """Report reconstructions that have lost their fine detail."""
    detail = view.evaluation.get("fine_detail")
    if detail is None or detail.value >= MIN_DETAIL or (detail.high or 0) >= MIN_DETAIL:
        return None
    if view.info.binary or not is_trained_to_reconstruct(view.model):
        return None  # the expected value of a black or white pixel is grey
    if small_latent.find_in_run(view) or posterior_collapse.find_in_run(view):
        return None  # these explain the blur, and have better advice
    original = view.images(view.chosen(8, "blurred"))
    evidence = [Evidence(detail.name, detail.value, f"95% interval {detail.interval}")]
    if (ssim := view.evaluation.get("ssim")) is not None:
        evidence.append(Evidence("SSIM", ssim.value, f"95% interval {ssim.interval}"))
    return Finding(
        "blur",
        "serious" if detail.value < SERIOUS_DETAIL else "warning",
        f"outputs keep {detail.value:.0%} of the fine detail of images: a loss that is averaged over pixels answers "
        "uncertainty with blur",
        evidence,
        _advice(view),
        {"images": original, "reconstructions": view.model.reconstruct(original)},
        headline=f"Outputs are blurred: they keep {detail.value:.0%} of the fine detail of images",
    )


def _advice(view: RunView) -> list[Advice]:
    objective = view.recipe.objective
    advice = []
    if getattr(objective, "kind", "") == "reconstruction":
        if min(view.info.size) >= MIN_PERCEPTUAL_SIDE_PX and "perceptual" not in getattr(objective, "loss", {}):
            why = "a network's features differ strongly between a sharp and a blurred image"
            advice.append(Advice("a perceptual loss", why, {"objective.loss": {"l1": 1.0, "perceptual": 0.1}}))
        critic = getattr(objective, "adversary", None)
        if critic is not None and not critic.weight:
            why = "a critic recognizes blurred images easily"
            advice.append(Advice("a patch critic", why, {"objective.adversary.weight": 0.5}))
    return advice
