"""Nearly identical outputs: a decoder that ignores most of its code, mostly because of posterior collapse."""

from __future__ import annotations

from ectype.analysis.diagnose.finding import Advice, Evidence, Finding
from ectype.analysis.run_view import RunView
from ectype.evaluation.figure_names import pca_key
from ectype.evaluation.figures import format_number
from ectype.models.base import is_trained_to_reconstruct

__all__ = ["find_in_run"]

MIN_VARIANCE_OVER_PCA, SERIOUS_VARIANCE_OVER_PCA = 0.5, 0.3
"""Variance of outputs ÷ that of PCA with as many dimensions below which outputs are too similar, or far too similar."""
MAX_ACTIVE_FRACTION = 0.7
"""Fraction of active dimensions above which the code is used, so it is too small and β is not to blame."""
MIN_VARIANCE_WITHOUT_PCA = 0.2
"""Variance that outputs should keep if PCA cannot be fitted for comparison."""
MIN_VARIANCE_OF_PCA = 0.02
"""Variance that PCA must keep on held-out images; a code by which PCA keeps less is no basis for a comparison."""


def find_in_run(view: RunView) -> Finding | None:
    """Report outputs that vary far less than their code allows."""
    figures = view.evaluation
    variance, error, size = figures.get("output_variance"), figures.get("mse"), figures.code_elements
    if variance is None or error is None or size is None or not is_trained_to_reconstruct(view.model):
        return None
    linear, total = error.baselines.get(pca_key(size)), error.baselines.get("mean_image", 0.0)
    if total <= 0:
        return None
    possible = MIN_VARIANCE_WITHOUT_PCA / MIN_VARIANCE_OVER_PCA if linear is None else 1 - linear / total
    if possible < MIN_VARIANCE_OF_PCA:
        return None
    ratio, active = variance.value / possible, figures.get("active_units")
    is_used = active is not None and active.value > MAX_ACTIVE_FRACTION * size
    if ratio >= MIN_VARIANCE_OVER_PCA or (is_used and ratio > SERIOUS_VARIANCE_OVER_PCA):
        return None
    reference = f"PCA of {size:,} dimensions {format_number(possible)}" if linear is not None else ""
    evidence = [Evidence(variance.name, variance.value, reference)]
    message = f"outputs vary {variance.value:.0%} as much as images do"
    if linear is not None:
        message += f" (PCA with as many dimensions reaches {possible:.0%})"
    if active is not None:
        evidence.append(Evidence("active units", active.value, f"of {size:,}"))
        message += f", and {active.value:.0f} of {size:,} dimensions of the code are active"
    if (kl := figures.get("kl")) is not None:
        evidence.append(Evidence("KL in nats", kl.value))
    original = view.images(view.chosen(8, "alike"))
    has_collapsed = active is not None and not is_used
    return Finding(
        "posterior collapse" if has_collapsed else "outputs alike",
        "serious" if ratio < SERIOUS_VARIANCE_OVER_PCA else "warning",
        f"{message}: the decoder ignores most of its code, and a larger latent would not help",
        evidence,
        _advice(view),
        {"images": original, "reconstructions": view.model.reconstruct(original)},
        headline="The posterior has collapsed: the decoder ignores most of its code"
        if has_collapsed
        else "Outputs are nearly identical: the decoder ignores most of its code",
    )


def _advice(view: RunView) -> list[Advice]:
    objective = view.recipe.objective
    advice = _advice_on_kl(view) if getattr(objective, "beta", None) else []
    weights = getattr(objective, "weights", None)
    if weights:
        smaller = {name: value / 10 for name, value in weights.items()}
        why = "the cost of the code outweighs the reconstruction"
        advice.append(Advice("smaller weights on the code", why, {"objective.weights": smaller}))
    if not advice:
        why = "at a high learning rate units die, and the network outputs one image"
        slower = {"optimizer.lr": view.recipe.optimizer.lr / 5, "optimizer.clip": 1.0}
        advice.append(Advice("a lower learning rate and gradient clipping", why, slower))
    return advice


def _advice_on_kl(view: RunView) -> list[Advice]:
    objective = view.recipe.objective
    advice = []
    beta: float = objective.beta  # pyright: ignore[reportAttributeAccessIssue]
    if beta >= view.info.num_elements / 10:
        why = (
            f"β = {beta:g} with a loss that is summed over {view.info.num_elements:,} pixel values is the result of "
            "averaging the loss and summing the KL"
        )
        advice.append(Advice("the standard β of 1", why, {"objective.beta": 1.0}))
    elif beta > 1:
        why = "above 1 the KL is weighted more than the evidence lower bound requires"
        advice.append(Advice("a smaller β", why, {"objective.beta": max(1.0, beta / 10)}))
    else:
        advice.append(Advice("a smaller β", "each nat of the code then costs a tenth", {"objective.beta": beta / 10}))
    now = {"warmup": getattr(objective, "warmup", 0.0), "free_bits": getattr(objective, "free_bits", 0.0)}
    gentle = {"warmup": max(0.4, now["warmup"]), "free_bits": max(0.05, now["free_bits"])}
    if gentle != now:
        why = "the decoder learns to use the code before the KL counts fully (Kingma et al. 2016)"
        changes = {f"objective.{key}": value for key, value in gentle.items()}
        advice.append(Advice("KL warm-up and free bits", why, changes))
    return advice
