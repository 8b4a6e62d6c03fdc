"""Too small a latent: the code is full, used up, and still loses much of the images."""

from __future__ import annotations

from typing import Any

from ectype.diagnose.finding import Advice, Evidence, Finding
from ectype.measure import codes as coding
from ectype.measure.baselines import LARGER, named
from ectype.measure.evaluation import Evaluation, number
from ectype.measure.view import RunView
from ectype.models.base import reconstructs_itself

__all__ = ["of_run"]

LOST, GRAVE = 0.1, 0.3
"""Share of the variance of images that reconstructions miss, from which a latent is too small, and far too small."""
WANTED = 0.05
"""Share that the advised size should lose, if the network gains from room as a linear code does."""
USED = 0.7
"""Least effective rank as a share of the code's numbers: one that leaves room would leave more if it were larger."""
PAID = 0.5
"""Nats that even the least number of a code with a posterior must hold: those that hold nothing are room that is
left."""
BEATEN = 1.1
"""Times the error of the linear code of as many numbers beyond which it is the network that loses, not the code."""
GAIN = 0.9
"""A linear code of twice the numbers must lose less than this share, or more room is no help."""


def of_run(view: RunView) -> Finding | None:
    """Whether reconstructions lose what a larger code would keep."""
    found = view.evaluation
    error, size = found.get("MSE"), found.code_numbers
    # How much a code of entries holds is not in its numbers.
    if error is None or size is None or not reconstructs_itself(view.model) or isinstance(view.model, coding.Quantizes):
        return None
    total, linear = error.beside.get("mean image", 0.0), error.beside.get(named(size))
    larger = {times: value for times in LARGER if (value := error.beside.get(named(times * size))) is not None}
    if linear is None or not _full(found, size) or LARGER[0] not in larger or total <= 0:
        return None
    lost = error.value / total
    if not (lost > LOST and error.value <= BEATEN * linear and larger[LARGER[0]] <= GAIN * linear):
        return None
    times = next((t for t, value in larger.items() if lost * value / linear <= WANTED), max(larger))
    # Where even the largest measured is too small, as much again.
    times = 2 * times if lost * larger[times] / linear > 2 * WANTED else times
    original = view.images(view.chosen(8, "small latent"))
    return Finding(
        "latent too small",
        "serious" if lost > GRAVE else "warning",
        f"reconstructions lose {lost:.0%} of what tells images apart, the code's {size:,} numbers are used up, and a "
        "linear code of twice as many would lose clearly less: there is not enough room",
        [
            Evidence("MSE", error.value, f"mean image {number(total)}"),
            Evidence(f"MSE of PCA of {size:,}", linear),
            *(Evidence(f"MSE of PCA of {t * size:,}", value) for t, value in larger.items()),
        ],
        _advice(view, times),
        {"images": original, "reconstructions": view.model.reconstruct(original)},
    )


def _full(found: Evaluation, size: int) -> bool:
    """Whether all numbers of the code are in use."""
    if (costs := found.series.get(coding.KL_SERIES)) is not None:
        return len(costs) == size and costs[-1] >= PAID
    rank = found.get("effective rank")
    return rank is not None and rank.value >= USED * min(size, (rank.n or size + 1) - 1)


def _advice(view: RunView, times: int) -> list[Advice]:
    """The configured size, so many times as large; of a map, its channels."""
    model = view.recipe.model
    net = getattr(model, "net", None)
    changes: dict[str, Any] = {}
    if (several := getattr(model, "latents", None)) is not None:
        changes = {"model.latents": [times * several[0], *several[1:]]}
    elif (latent := getattr(net, "latent", None)) is not None:
        changes = {"model.net.latent": [times * latent[0], *latent[1:]]}
    else:
        for key in ("latent_dim", "latent_channels"):
            if (numbers := getattr(net, key, None)) is not None:
                changes = {f"model.net.{key}": times * numbers}
                break
    return [Advice("a larger latent", "the share lost should fall as that of a linear code does", changes)]
