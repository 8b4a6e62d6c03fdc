"""Outputs alike: a decoder that hardly listens to its code, above all by posterior collapse."""

from __future__ import annotations

from ectype.diagnose.finding import Advice, Evidence, Finding
from ectype.measure.baselines import named
from ectype.measure.evaluation import number
from ectype.measure.variety import VARIANCE
from ectype.measure.view import RunView
from ectype.models.base import reconstructs_itself

__all__ = ["of_run"]

ALIKE, GRAVE = 0.5, 0.3
"""Share of the variance that a linear code of as many numbers keeps, below which outputs are alike, and gravely so."""
FULL = 0.7
"""Share of active numbers from which the code is used up: then it is too small, and β is not to blame."""
LEAST = 0.2
"""What outputs should at least keep where no linear code can be fitted to compare with."""


def of_run(view: RunView) -> Finding | None:
    """Whether outputs vary far less than their code would let them."""
    found = view.evaluation
    variance, error, size = found.get(VARIANCE), found.get("MSE"), found.code_numbers
    if variance is None or error is None or size is None or not reconstructs_itself(view.model):
        return None
    linear, total = error.beside.get(named(size)), error.beside.get("mean image", 0.0)
    if total <= 0:
        return None
    possible = max(LEAST, 1 - linear / total) if linear is not None else LEAST / ALIKE
    share = variance.value / possible
    active = found.get("active units")
    if share >= ALIKE or (active is not None and active.value > FULL * size and share > GRAVE):
        return None
    evidence = [
        Evidence(
            VARIANCE,
            variance.value,
            f"a linear code of {size:,} numbers: {number(possible)}" if linear is not None else "",
        ),
        *([Evidence("active units", active.value, f"of {size:,}")] if active is not None else []),
        *([Evidence("KL in nats", kl.value)] if (kl := found.get("KL")) is not None else []),
    ]
    name = "posterior collapse" if active is not None else "outputs alike"
    why = f" and {active.value:.0f} of {size:,} numbers of the code are active" if active is not None else ""
    original = view.images(view.chosen(8, "alike"))
    return Finding(
        name,
        "serious" if share < GRAVE else "warning",
        f"outputs vary {variance.value:.0%} as much as images do"
        + (f", where a linear code of as many numbers would reach {possible:.0%}" if linear is not None else "")
        + f"{why}: the decoder hardly listens to its code, and a larger latent would not help",
        evidence,
        _advice(view),
        {"images": original, "reconstructions": view.model.reconstruct(original)},
    )


def _advice(view: RunView) -> list[Advice]:
    objective, found = view.recipe.objective, []
    beta = getattr(objective, "beta", None)
    if beta:
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
            found.append(
                Advice("a smaller β", "each nat of the code then costs a tenth", {"objective.beta": beta / 10})
            )
        now = {"warmup": getattr(objective, "warmup", 0.0), "free_bits": getattr(objective, "free_bits", 0.0)}
        gentle = {"warmup": max(0.4, now["warmup"]), "free_bits": max(0.05, now["free_bits"])}
        if gentle != now:
            why = "the decoder learns to use the code before the code must be cheap (Kingma et al. 2016)"
            changes = {f"objective.{key}": value for key, value in gentle.items()}
            found.append(Advice("a warm-up and free bits", why, changes))
    weights = getattr(objective, "weights", None)
    if weights:
        cheaper = {name: value / 10 for name, value in weights.items()}
        found.append(Advice("cheaper codes", "what they cost drowns what they are for", {"objective.weights": cheaper}))
    if not found:
        why = "a rate at which units die leaves a network that gives one image"
        slower = {"optimizer.lr": view.recipe.optimizer.lr / 5, "optimizer.clip": 1.0}
        found.append(Advice("a lower rate, and gradients cut", why, slower))
    return found
