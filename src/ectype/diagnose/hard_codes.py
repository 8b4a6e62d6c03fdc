"""Codes that are hard to generate: decoded draws are far worse than decoded codes."""

from __future__ import annotations

from ectype.diagnose.finding import Advice, Evidence, Finding
from ectype.measure.generation import RECONSTRUCTIONS
from ectype.measure.view import RunView
from ectype.models.base import Reconstructs, Samples, has_own_codes

__all__ = ["of_run"]

HARD, GRAVE = 6.0, 15.0
"""Times the distance of reconstructions, each above that of real images, from which samples are far worse."""


def of_run(view: RunView) -> Finding | None:
    """Whether samples are far from images though reconstructions are near."""
    model = view.model
    if not (isinstance(model, Samples) and has_own_codes(model) and isinstance(model, Reconstructs)):
        return None
    figure = next((f for f in view.evaluation.figures if f.name.startswith(("FD-", "FID"))), None)
    if figure is None or RECONSTRUCTIONS not in figure.beside:
        return None
    floor, back = figure.beside["real images"], figure.beside[RECONSTRUCTIONS]
    times = (figure.value - floor) / max(back - floor, floor)
    if times < HARD:
        return None
    far = (
        f"{times:.0f} times as far from real images as reconstructions are, above what real images are from each other"
    )
    if back - floor < floor:
        far = f"{figure.value / floor:.0f} times as far from real images as these are from each other"
    evidence = [
        Evidence(f"{figure.name} of samples", figure.value),
        Evidence(f"{figure.name} of reconstructions", back),
        Evidence(f"{figure.name} of real images", floor),
    ]
    return Finding(
        "codes hard to generate",
        # What is done about it costs reconstructions, or needs nothing but another density: a run is not begun anew for
        # a little of it, nor where nobody asked codes to be drawn from a prior.
        "warning" if times > GRAVE and getattr(model, "prior", None) is not None else "note",
        f"samples are {far}: the decoder is good, and what is drawn for it is unlike the codes that images have",
        evidence,
        _advice(view),
        {
            "reconstructions": model.reconstruct(view.images(view.chosen(16, "hard codes"))),
            "samples": model.sample(16, generator=view.generator("hard codes")),
        },
    )


def _advice(view: RunView) -> list[Advice]:
    objective, found = view.recipe.objective, []
    if getattr(getattr(view.recipe.model, "bottleneck", None), "kind", "") == "identity":
        why = (
            "nothing asks these codes to be near N(0, I); draw of what was fitted on them: ectype sample --density gmm"
        )
        found.append(Advice("a density on the codes", why, {}))
        found.append(Advice("a variational autoencoder", "codes trained towards a prior can be drawn from it", {}))
    beta = getattr(objective, "beta", None)
    if beta is not None:
        why = "codes come nearer to the prior that they are drawn from, and say less of each image"
        found.append(Advice("a larger β", why, {"objective.beta": 4 * beta if beta else 1.0}))
        why = "what the prior misses of the codes, a mixture fitted on them has: ectype sample --density gmm"
        found.append(Advice("a density on the codes", why, {}))
    if getattr(getattr(view.recipe.model, "net", None), "latent", None) is not None:
        smooth = getattr(objective, "equivariance", None)
        if smooth is not None and not smooth.weight:
            why = "code maps become as smooth as images (EQ-VAE, Kouzelis et al. 2025), at a cost to reconstructions"
            found.append(Advice("equivariance to scaling", why, {"objective.equivariance.weight": 0.5}))
    return found
