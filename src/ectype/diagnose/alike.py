"""Outputs alike: a decoder that hardly listens to its code, above all by posterior collapse."""

from __future__ import annotations

from ectype.diagnose.finding import Advice, Evidence, Finding
from ectype.measure.baselines import named
from ectype.measure.evaluation import number
from ectype.measure.variety import VARIANCE
from ectype.measure.view import RunView
from ectype.models.base import Reconstructs

__all__ = ["of_run"]

ALIKE, GRAVE = 0.6, 0.3
"""Share of the variance that a linear code of as many numbers keeps, below which outputs are alike, and gravely so."""
FULL = 0.7
"""Share of active numbers from which the code is used up: then it is too small, and β is not to blame."""
LEAST = 0.2
"""What is taken to be kept by a linear code where none can be fitted."""


def of_run(view: RunView) -> Finding | None:
    """Whether outputs vary far less than their code would let them."""
    found = view.evaluation
    variance, error, size = found.get(VARIANCE), found.get("MSE"), found.code_numbers
    if variance is None or error is None or size is None or not isinstance(view.model, Reconstructs):
        return None
    linear = error.beside.get(named(size))
    possible = max(LEAST, 1 - linear / error.beside["mean image"]) if linear is not None else 1.0
    share = variance.value / possible
    active = found.get("active units")
    if share >= ALIKE or (active is not None and active.value > FULL * size and share > GRAVE):
        return None
    evidence = [
        Evidence(VARIANCE, variance.value, f"a linear code of {size:,} numbers: {number(possible)}"),
        *([Evidence("active units", active.value, f"of {size:,}")] if active is not None else []),
        *([Evidence("KL in nats", kl.value)] if (kl := found.get("KL")) is not None else []),
    ]
    name = "posterior collapse" if active is not None else "outputs alike"
    why = f" and {active.value:.0f} of {size:,} numbers of the code are active" if active is not None else ""
    original = view.images(view.chosen(8, "alike"))
    return Finding(
        name,
        "serious" if share < GRAVE else "warning",
        f"outputs vary {variance.value:.0%} as much as images do, where a linear code of as many numbers would reach "
        f"{possible:.0%}{why}: the decoder hardly listens to its code, and a larger latent would not help",
        evidence,
        _advice(view),
        {"images": original, "reconstructions": view.model.reconstruct(original)},
    )


def _advice(view: RunView) -> list[Advice]:
    objective, found = view.recipe.objective, []
    beta = getattr(objective, "beta", None)
    if beta is not None:
        if beta >= view.info.numbers / 10:
            why = (
                f"β = {beta:g} beside a loss that is summed over {view.info.numbers:,} numbers is what averaging that "
                "loss and summing the KL comes to"
            )
            found.append(Advice("the bound itself", why, {"objective.beta": 1.0}))
        elif beta > 1:
            why = "above 1 the KL counts for more than the bound asks"
            found.append(Advice("a smaller β", why, {"objective.beta": max(1.0, beta / 10)}))
        else:
            why = "each nat of the code then costs a tenth"
            found.append(Advice("a smaller β", why, {"objective.beta": beta / 10}))
        gentle = {"objective.warmup": 0.4, "objective.free_bits": 0.05}
        if getattr(objective, "warmup", 0.0) < 0.3 or not getattr(objective, "free_bits", 0.0):
            why = "the decoder learns to use the code before the code must be cheap (Kingma et al. 2016)"
            found.append(Advice("a warm-up and free bits", why, gentle))
    weights = getattr(objective, "weights", None)
    if weights:
        why = "what the code costs drowns what it is for"
        found.append(
            Advice("cheaper codes", why, {"objective.weights": {name: value / 10 for name, value in weights.items()}})
        )
    if not found:
        why = "a rate at which units die leaves a network that gives one image"
        found.append(
            Advice(
                "a lower rate, and gradients cut",
                why,
                {"optimizer.lr": view.recipe.optimizer.lr / 5, "optimizer.clip": 1.0},
            )
        )
    return found
