"""Latent gap: samples decoded from random codes are far worse than reconstructions."""

from __future__ import annotations

from ectype.analysis.diagnose.finding import Advice, Evidence, Finding
from ectype.analysis.run_view import RunView
from ectype.models.base import Reconstructs, Samples, is_trained_to_encode

__all__ = ["find_in_run"]

MIN_RATIO, WARNING_RATIO = 6.0, 15.0
"""Distance of samples ÷ distance of reconstructions, both less that of real images, above which it is reported."""


def find_in_run(view: RunView) -> Finding | None:
    """Report samples that are far from real images although reconstructions are close to them."""
    model = view.model
    if not (isinstance(model, Samples) and is_trained_to_encode(model) and isinstance(model, Reconstructs)):
        return None
    figure = view.evaluation.first_of("fd")
    if figure is None or "reconstructions" not in figure.baselines:
        return None
    floor, reconstructions = figure.baselines["real_images"], figure.baselines["reconstructions"]
    ratio = (figure.value - floor) / max(reconstructions - floor, floor)
    if ratio < MIN_RATIO:
        return None
    if reconstructions - floor < floor:
        distance = f"{figure.value / floor:.0f} times as far from real images as real images are from each other"
    else:
        distance = (
            f"{ratio:.0f} times as far from real images as reconstructions are (less the distance of real images)"
        )
    return Finding(
        "codes hard to generate",
        # The fix costs reconstruction quality, or needs only another density. That is no reason to train again for a
        # small gap, or if the codes were never meant to be drawn from a prior.
        "warning" if ratio > WARNING_RATIO and getattr(model, "prior", None) is not None else "note",
        f"samples are {distance}: the decoder is good, but the random codes differ from the codes of images",
        [
            Evidence(f"{figure.name} of samples", figure.value),
            Evidence(f"{figure.name} of reconstructions", reconstructions),
            Evidence(f"{figure.name} of real images", floor),
        ],
        _advice(view),
        {
            "reconstructions": model.reconstruct(view.images(view.chosen(16, "hard codes"))),
            "samples": model.sample(16, generator=view.generator("hard codes")),
        },
        headline="Samples are much worse than reconstructions: random codes differ from the codes of images",
    )


def _advice(view: RunView) -> list[Advice]:
    objective, advice = view.recipe.objective, []
    if getattr(getattr(view.recipe.model, "bottleneck", None), "kind", "") == "identity":
        why = "these codes were not trained to follow N(0, I); draw from a fitted density: ectype sample --density gmm"
        advice.append(Advice("a density fitted on the codes", why, {}))
        why = "codes that are trained towards a prior can be drawn from it"
        advice.append(Advice("a variational autoencoder", why, {}))
    beta = getattr(objective, "beta", None)
    if beta is not None:
        why = "codes come closer to the prior that samples are drawn from, at a cost to reconstructions"
        advice.append(Advice("a larger β", why, {"objective.beta": 4 * beta if beta else 1.0}))
        why = "a fitted mixture follows the codes more closely than the prior: ectype sample --density gmm"
        advice.append(Advice("a density fitted on the codes", why, {}))
    if getattr(getattr(view.recipe.model, "net", None), "latent", None) is not None:
        equivariance = getattr(objective, "equivariance", None)
        if equivariance is not None and not equivariance.weight:
            why = "code maps become as smooth as images (EQ-VAE, Kouzelis et al. 2025), at a cost to reconstructions"
            advice.append(Advice("equivariance to scaling", why, {"objective.equivariance.weight": 0.5}))
    return advice
