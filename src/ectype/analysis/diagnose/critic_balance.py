"""An unbalanced critic: too strong, so that its gradient vanishes, or too weak, so that it has none to give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ectype.analysis.diagnose.advice import adversarial_objective, advice_for_verdict
from ectype.analysis.diagnose.finding import Advice, Evidence, Finding
from ectype.analysis.run_view import RunView
from ectype.evaluation.training_progress import FAR_RATIO, FEW_UPDATES, progress_of_run
from ectype.models.base import Samples, is_trained_to_encode

__all__ = ["find_in_run"]

MAX_ACCURACY, MIN_ACCURACY = 0.98, 0.52
"""Fraction of pairs in which the critic may recognize the real image: too strong above, too weak below."""
MIN_RATE_RATIO = 8
"""Ratio of the two learning rates from which it alone explains the imbalance."""
LATE_FRACTION = 0.3
"""Fraction of the run, at its end, that is averaged."""
MIN_LINES = 5
"""Logged lines without which nothing can be averaged."""


def find_in_run(view: RunView) -> Finding | None:
    """Report a critic that recognizes all fake images, or none, while samples are not yet good."""
    critic = getattr(adversarial_objective(view.recipe)[0], "adversary", None)
    if critic is None or not isinstance(view.model, Samples) or is_trained_to_encode(view.model):
        return None
    metrics = view.run.selected_attempt.metrics()
    lines = [line for line in metrics if line["kind"] == "train" and "critic/told apart" in line]
    if len(lines) < MIN_LINES:
        return None
    late = lines[-max(1, int(LATE_FRACTION * len(lines))) :]
    accuracy = _mean(late, "critic/told apart")
    too_strong, too_weak = accuracy > MAX_ACCURACY, accuracy < MIN_ACCURACY
    if not (too_strong or too_weak) or _has_good_samples(view) is not False:
        return None
    gradient, first = _mean(late, "generator/gradient norm"), _mean(lines[: len(late)], "generator/gradient norm")
    evidence = [
        Evidence("critic accuracy on pairs", accuracy, "0.5 is chance"),
        Evidence("gradient norm of the generator", gradient, f"{first:.3g} at the start"),
        Evidence("D(real) − D(fake)", _mean(late, "critic/D(real)") - _mean(late, "critic/D(made)")),
    ]
    consequence = (
        "the generator gets no useful gradient from a critic that is always right"
        if too_strong
        else "that is no better than chance, though samples are not yet good"
    )
    return Finding(
        "critic too strong" if too_strong else "critic too weak",
        "warning",
        f"the critic recognizes the real image in {accuracy:.1%} of pairs: {consequence}",
        evidence,
        _weaken(view, critic) if too_strong else _strengthen(view),
        {"samples": view.model.sample(16, generator=view.generator("critic"))},
        lasting=progress_of_run(view.run.selected_attempt).updates >= FEW_UPDATES,
        headline=f"The critic is too {'strong' if too_strong else 'weak'} for the generator to learn from it",
    )


def _has_good_samples(view: RunView) -> bool | None:
    """Return whether samples are about as far from real images as these are from each other; None if unknown."""
    figure = view.evaluation.first_of("fd")
    floor = None if figure is None else figure.baselines.get("real_images")
    return None if figure is None or floor is None else figure.value < FAR_RATIO * floor


def _mean(lines: Sequence[dict[str, Any]], key: str) -> float:
    values = [line[key] for line in lines if key in line]
    return sum(values) / max(1, len(values))


def _weaken(view: RunView, critic: Any) -> list[Advice]:
    objective, key = adversarial_objective(view.recipe)
    penalty, advice = critic.penalty, _equal_rates(view, critic_is_faster=True)
    if penalty.r1 or penalty.r2:
        larger = {**penalty.model_dump(), "r1": 10 * penalty.r1, "r2": 10 * penalty.r2}
        why = "γ should grow with the size of images and fall with their number"
        advice.append(Advice("a larger penalty", why, {f"{key}.adversary.penalty": larger}))
    # What helps against a collapse also restrains the critic: a penalty on its gradient, and augmented images.
    advice += [
        each
        for each in advice_for_verdict(view.recipe, "collapsed", view.info.channels)
        if f"{key}.adversary.pack" not in each.overrides
    ]
    if getattr(objective, "critic_steps", 1) > 1 and not penalty.gradient:
        why = "the critic is updated more often than it needs"
        advice.append(Advice("one critic update for each of the generator", why, {f"{key}.critic_steps": 1}))
    why = "training with two learning rates converges where one rate does not (Heusel et al. 2017)"
    advice.append(
        Advice("a lower learning rate of the critic", why, _with_critic_rate(view, _rate(view, "critic") / 4))
    )
    return advice


def _strengthen(view: RunView) -> list[Advice]:
    objective, key = adversarial_objective(view.recipe)
    steps = getattr(objective, "critic_steps", 1)
    why = "training with two learning rates converges where one rate does not (Heusel et al. 2017)"
    return [
        *_equal_rates(view, critic_is_faster=False),
        Advice("a higher learning rate of the critic", why, _with_critic_rate(view, 4 * _rate(view, "critic"))),
        Advice("more critic updates", "the critic lags behind the generator", {f"{key}.critic_steps": steps + 2}),
    ]


def _equal_rates(view: RunView, *, critic_is_faster: bool) -> list[Advice]:
    """Advise the generator's learning rate for the critic, if the critic's own rate explains the imbalance."""
    generator, critic = _rate(view, "generator"), _rate(view, "critic")
    ratio = critic / generator if critic_is_faster else generator / critic
    if ratio < MIN_RATE_RATIO:
        return []
    why = f"the critic's rate is {ratio:.3g} times as {'large' if critic_is_faster else 'small'}"
    return [Advice("the generator's learning rate for the critic", why, _with_critic_rate(view, generator))]


def _rate(view: RunView, player: str) -> float:
    return view.recipe.optimizer.for_player(player).lr


def _with_critic_rate(view: RunView, rate: float) -> dict[str, Any]:
    """Return overrides that set the critic's learning rate and keep all other settings of the players."""
    config = view.recipe.optimizer
    players = {name: own.model_dump(exclude_none=True) for name, own in config.players.items()}
    players["critic"] = {**players.get("critic", {}), "lr": rate}
    return {"optimizer.players": players}
