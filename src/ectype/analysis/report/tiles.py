"""Three tiles that answer the first questions about a run: is it good, are its samples real, was it trained enough?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ectype.analysis.headline import CLOSE_RATIO, FAR_RATIO, headline_figures, short_number
from ectype.analysis.run_view import RunView
from ectype.evaluation.figure_names import metric_of
from ectype.evaluation.figures import Figure
from ectype.evaluation.training_progress import (
    FALLING_SHARE,
    FEW_UPDATES,
    LEVEL_SHARE,
    TrainingProgress,
    progress_of_run,
    shortfall,
)

__all__ = ["Standing", "Tick", "Tile", "tiles"]

Standing = Literal["good", "held", "bad"]
"""How a run stands in one respect: well, in between or not known, or badly."""
HEADROOM = 1.12
"""End of a bar's scale ÷ the largest value on it."""
OUTPUTS = ("psnr", "psnr_restored", "mean_dice", "mean_iou")
"""Metrics of outputs that a tile can show."""


@dataclass(frozen=True)
class Tick:
    """A baseline on a bar.

    Attributes:
        name: What it is, with its value.
        percent: Where it stands on the bar.
    """

    name: str
    percent: float


@dataclass(frozen=True)
class Tile:
    """One question about a run and its answer.

    Attributes:
        title: The question.
        name: What is measured; empty if the question does not apply.
        value: The value as text.
        percent: The length of the bar.
        ticks: Baselines on it.
        text: The answer in a sentence.
        standing: How the run stands.
        better: The direction that is good; empty if there is none.
    """

    title: str
    name: str
    value: str
    percent: float
    ticks: list[Tick]
    text: str
    standing: Standing
    better: str = ""


def tiles(view: RunView) -> list[Tile]:
    """Return the three tiles of a run, in the order of the page."""
    return [_quality(view), _samples(view), _training(view)]


def _on_bar(value: float, figures: dict[str, float]) -> tuple[float, list[Tick]]:
    """Return the length of a bar that starts at 0 and the ticks on it, in percent."""
    end = HEADROOM * max([value, *figures.values(), 1e-12])
    ticks = [Tick(f"{name} {short_number(each)}", _percent(each / end)) for name, each in figures.items()]
    return _percent(value / end), ticks


def _percent(share: float) -> float:
    return round(100 * min(1.0, max(0.0, share)), 1)


def _missing(title: str, text: str) -> Tile:
    return Tile(title, "", "", 0.0, [], text, "held")


def _quality(view: RunView) -> Tile:
    figures = headline_figures(view.evaluation)
    figure = next((each for each in figures if metric_of(each.key) in OUTPUTS), None)
    if figure is None:
        return _missing("Quality of outputs", "This model only draws samples: it has no outputs for given images.")
    baseline, reference = next(iter(figure.named_baselines.items()))
    linear = metric_of(next(iter(figure.baselines))) == "pca"
    named = baseline if baseline[:1].isupper() or baseline.startswith("one ") else f"the {baseline}"
    title = "Quality against the linear baseline" if linear else f"Quality against {named}"
    gap = view.evaluation.get("psnr_above_pca") if linear else None
    # The interval of the difference is narrower, because it compares the same images.
    standing = _against(figure, reference) if gap is None else _against(gap, 0.0)
    difference = short_number(abs(figure.value - reference))
    unit = f" {figure.unit}" if figure.unit else ""
    relation = "above" if figure.value > reference else "below"
    text = {
        "good": f"{difference}{unit} {relation} {named}.",
        "bad": f"{difference}{unit} {relation} {named}: something simpler is better here.",
        "held": f"Not clearly different from {named}.",
    }[standing]
    percent, ticks = _on_bar(figure.value, {baseline: reference})
    value = f"{short_number(figure.value)}{unit}"
    return Tile(title, figure.name, value, percent, ticks, text, standing, figure.better or "")


def _against(figure: Figure, reference: float) -> Standing:
    """Return how a figure of which more is better stands against a baseline, by its interval if it has one."""
    low = figure.low if figure.low is not None else figure.value
    high = figure.high if figure.high is not None else figure.value
    if low <= reference <= high:
        return "held"
    return "good" if figure.value > reference else "bad"


def _samples(view: RunView) -> Tile:
    title = "Samples against real images"
    figure = next((each for each in headline_figures(view.evaluation) if metric_of(each.key) == "fd"), None)
    floor = None if figure is None else figure.baselines.get("real_images")
    if figure is None or floor is None or not floor > 0:
        reason = "were not measured" if view.evaluation.density == "implicit" else "are not what this model is for"
        return _missing(title, f"Samples {reason}.")
    ratio = figure.value / floor
    standing: Standing = "good" if ratio <= CLOSE_RATIO else "bad" if ratio > FAR_RATIO else "held"
    meanings = {
        "good": "close to real images",
        "held": "still told apart from real images",
        "bad": "far from real images",
    }
    text = (
        f"{short_number(ratio)} times the distance between two sets of real images: {meanings[standing]} "
        f"(up to {CLOSE_RATIO} is close)."
    )
    percent, ticks = _on_bar(figure.value, {"real images": floor})
    return Tile(title, figure.name, short_number(figure.value), percent, ticks, text, standing, "lower")


def _training(view: RunView) -> Tile:
    title = "Trained enough?"
    progress = progress_of_run(view.run.selected_attempt)
    reason = progress.lacks_training(shortfall(view.evaluation.figures))
    standing: Standing = "bad" if reason else "good"
    text = f"No: {reason}." if reason else _enough(progress)
    if progress.late_gain is None:
        percent, ticks = _on_bar(progress.updates, {"often enough": FEW_UPDATES})
        if not reason and progress.updates < FEW_UPDATES:
            standing = "held"
        return Tile(title, "updates of the weights", f"{progress.updates:,}", percent, ticks, text, standing)
    gain = max(0.0, progress.late_gain)
    ticks = [Tick(f"still improving from {FALLING_SHARE:.0%}", _percent(FALLING_SHARE))]
    name = "of the improvement came in the second half"
    return Tile(title, name, f"{gain:.0%}", _percent(gain), ticks, text, standing)


def _enough(progress: TrainingProgress) -> str:
    gain = progress.late_gain
    if progress.has_risen:
        return "Yes: the held-out loss rises again, and the best check was kept."
    if gain is None:
        return f"There were too few checks to see whether {progress.updates:,} updates were enough."
    if gain < LEVEL_SHARE:
        return "Yes: it has levelled off."
    if gain <= FALLING_SHARE:
        return "Yes: more training would bring little."
    return "It is good enough to be judged, and still improves: longer training would help."
