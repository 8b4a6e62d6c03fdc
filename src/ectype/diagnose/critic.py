"""A critic that is too strong, so that its gradient dies, or too weak, so that it has none to give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ectype.diagnose.advice import advised, game
from ectype.diagnose.finding import Advice, Evidence, Finding
from ectype.measure.view import RunView
from ectype.models.base import Samples, has_own_codes

__all__ = ["of_run"]

STRONG, WEAK = 0.98, 0.52
"""Share of pairs that a critic tells apart from which it has won, and below which it sees nothing."""
UNEVEN = 8
"""Times that the one's rate is the other's from which that alone explains who wins."""
LATE = 0.3
"""Share of the run, at its end, over which this is averaged."""


def of_run(view: RunView) -> Finding | None:
    """Whether a generator's critic tells everything apart, or nothing, while samples are not yet good."""
    rules = getattr(game(view.recipe)[0], "adversary", None)
    if rules is None or not isinstance(view.model, Samples) or has_own_codes(view.model):
        return None
    lines = [line for line in view.run.shipped.metrics() if line["kind"] == "train" and "critic/told apart" in line]
    late = lines[-max(1, int(LATE * len(lines))) :]
    if len(lines) < 5:
        return None
    told = _mean(late, "critic/told apart")
    pull, before = _mean(late, "generator/gradient norm"), _mean(lines[: len(late)], "generator/gradient norm")
    strong, weak = told > STRONG, told < WEAK
    if not (strong or weak) or _good(view) is not False:
        return None
    evidence = [
        Evidence("pairs told apart", told, "½ is a coin, 1 is all"),
        Evidence("the generator's gradient", pull, f"{before:.3g} at first"),
        Evidence("D(real) − D(made)", _mean(late, "critic/D(real)") - _mean(late, "critic/D(made)")),
    ]
    how = "tells real from made in {:.1%} of pairs: the generator learns nothing from being wrong everywhere"
    sees = "tells real from made in {:.1%} of pairs, no better than a coin, though samples are not yet good"
    return Finding(
        "critic too strong" if strong else "critic too weak",
        "warning",
        "the critic " + (how if strong else sees).format(told),
        evidence,
        _weaker(view, rules) if strong else _stronger(view),
        {"samples": view.model.sample(16, generator=view.generator("critic"))},
    )


def _good(view: RunView) -> bool | None:
    """Whether samples are about as far from real images as those are from each other: then nothing is the matter.

    None where there are too few images to know.
    """
    for figure in view.evaluation.figures:
        if figure.name.startswith(("FD-", "FID")):
            floor = figure.beside.get("real images")
            return None if floor is None else figure.value < 3 * floor
    return None


def _mean(lines: Sequence[dict[str, Any]], key: str) -> float:
    values = [line[key] for line in lines if key in line]
    return sum(values) / max(1, len(values))


def _weaker(view: RunView, rules: Any) -> list[Advice]:
    (objective, key), penalty, found = game(view.recipe), rules.penalty, _even(view, faster=True)
    if penalty.r1 or penalty.r2:
        more = {**penalty.model_dump(), "r1": 10 * penalty.r1, "r2": 10 * penalty.r2}
        why = "γ should grow with the size of images and fall with their number"
        found.append(Advice("a larger penalty", why, {f"{key}.adversary.penalty": more}))
    # What helps against a collapse keeps a critic from winning: a bound on its slope, images that it never sees twice.
    found += [
        each
        for each in advised(view.recipe, "collapsed", view.info.channels)
        if f"{key}.adversary.pack" not in each.overrides
    ]
    if getattr(objective, "critic_steps", 1) > 1 and not penalty.gradient:
        found.append(Advice("as many moves for both", "it has more moves than it needs", {f"{key}.critic_steps": 1}))
    why = "two rates settle where one does not (Heusel et al. 2017)"
    found.append(Advice("a slower critic", why, _rate(view, view.recipe.optimizer.of("critic").lr / 4)))
    return found


def _even(view: RunView, *, faster: bool) -> list[Advice]:
    """The generator's rate for the critic too, where its own is what makes it so strong, or so weak."""
    rate, its = view.recipe.optimizer.of("generator").lr, view.recipe.optimizer.of("critic").lr
    times = its / rate if faster else rate / its
    if times < UNEVEN:
        return []
    why = f"the critic's is {times:.3g} times as {'large' if faster else 'small'} as the generator's"
    return [Advice("one rate for both", why, _rate(view, rate))]


def _rate(view: RunView, rate: float) -> dict[str, Any]:
    """The critic's own rate changed, everything else that players have kept."""
    config = view.recipe.optimizer
    players = {name: own.model_dump(exclude_none=True) for name, own in config.players.items()}
    players["critic"] = {**players.get("critic", {}), "lr": rate}
    return {"optimizer.players": players}


def _stronger(view: RunView) -> list[Advice]:
    objective, key = game(view.recipe)
    steps = getattr(objective, "critic_steps", 1)
    rate = 4 * view.recipe.optimizer.of("critic").lr
    return [
        *_even(view, faster=False),
        Advice("a faster critic", "two rates settle where one does not (Heusel et al. 2017)", _rate(view, rate)),
        Advice("more moves for it", "it is behind what it should judge", {f"{key}.critic_steps": steps + 2}),
    ]
