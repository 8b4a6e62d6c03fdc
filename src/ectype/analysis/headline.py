"""The most important figures of an evaluation, and one sentence that says what matters most about a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich import box
from rich.table import Table

from ectype.analysis.diagnose.finding import Finding
from ectype.evaluation.figure_names import display_name, metric_of
from ectype.evaluation.figures import Evaluation, Figure, plain_text

__all__ = ["headline_figures", "headline_sentence", "headline_table", "short_number"]

MAX_FIGURES = 8
"""Number of figures in the headline table."""
MAX_BASELINES = 2
"""Number of baselines shown for each figure."""
CLOSE_RATIO, FAR_RATIO = 3, 10
"""Distance of samples ÷ distance of other real images up to which samples are called close, and above which far."""

SAMPLES = ("fd", "precision", "recall", "coverage", "duplicates", "ndb", "membership_auc", "sliced_wasserstein")
RECONSTRUCTIONS = ("psnr", "ssim", "psnr_restored", "ssim_restored", "codebook_usage", "linear_probe_accuracy")
TRANSLATIONS = ("mean_dice", "mean_iou", "pixel_accuracy", "psnr", "ssim", "perceptual_distance", "l1")
"""Metrics of each kind of model, the most important first."""

BASELINES = (
    "pca",
    "real_images",
    "reconstructions",
    "input",
    "corrupted_input",
    "linear_filter",
    "one_class",
    "mean_image",
    "downscaled",
)
"""Baselines that say most about a figure, the most important first; others follow in their own order."""

DIRECTIONS = {"codebook_usage": "higher", "membership_auc": "lower"}
"""Direction that is good for figures that have none in an evaluation, because it is not good without limit."""


def headline_figures(evaluation: Evaluation) -> list[Figure]:
    """Return the figures that matter most for this kind of model.

    A generator is evaluated by its samples, an image translator by its outputs, and an autoencoder by its
    reconstructions first and its samples after that.

    Args:
        evaluation: All figures of a model.

    Returns:
        At most eight figures, the most important first. Each has a direction that is good, and one or two baselines,
        the most telling ones of the figure.
    """
    if "mean_dice" in evaluation or "pictures" in evaluation.groups():
        metrics = TRANSLATIONS
    elif evaluation.density == "implicit":
        metrics = (*SAMPLES, *RECONSTRUCTIONS)
    else:
        metrics = (*RECONSTRUCTIONS, *SAMPLES)
    found = (figure for metric in metrics if (figure := evaluation.first_of(metric)) is not None)
    return [shown for figure in found if (shown := _for_headline(figure)) is not None][:MAX_FIGURES]


def _for_headline(figure: Figure) -> Figure | None:
    """Return a figure with its direction and its most telling baselines; None if it lacks either."""
    better = figure.better or DIRECTIONS.get(metric_of(figure.key))
    rank = {name: place for place, name in enumerate(BASELINES)}
    order = sorted(figure.baselines, key=lambda key: rank.get(metric_of(key), len(rank)))
    # PCA with more dimensions than the code says what a larger code would give, not how good this one is.
    pca = [key for key in order if metric_of(key) == "pca"]
    chosen = [key for key in order if key not in pca[1:]][:MAX_BASELINES]
    if better is None or not chosen:
        return None
    return replace(figure, better=better, baselines={key: figure.baselines[key] for key in chosen})


def headline_table(evaluation: Evaluation) -> Table:
    """Return a table of `headline_figures` that fits a terminal of 80 columns."""
    table = Table(
        title=plain_text(f"{evaluation.test_images:,} {evaluation.test_set}", "table.title"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("figure", overflow="fold", max_width=16)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95% interval", no_wrap=True)
    table.add_column("baselines", overflow="fold")
    table.add_column("better", no_wrap=True)
    for figure in headline_figures(evaluation):
        interval = f"{short_number(figure.low)} to {short_number(figure.high)}" if figure.interval else ""
        baselines = "\n".join(f"{name} {short_number(value)}" for name, value in figure.named_baselines.items())
        value = f"{short_number(figure.value)} {figure.unit}".strip()
        table.add_row(*map(plain_text, (figure.name, value, interval, baselines, figure.better or "")))
    return table


def short_number(value: float | None) -> str:
    """Format a value with three significant digits.

    >>> short_number(0.5), short_number(19.123), short_number(1234.5), short_number(-0.00002)
    ('0.500', '19.1', '1,234', '−2.00e−05')
    """
    if value is None or not math.isfinite(value):
        return "not finite"
    text = f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def headline_sentence(evaluation: Evaluation, findings: Sequence[Finding]) -> str:
    """Return one sentence that says what matters most about a run.

    The first rule that applies decides:

    1. A decisive finding, that the run is undertrained, else the first serious finding, with its first advice. Blur
       does not count if rule 3 applies.
    2. Figures that are not finite.
    3. A linear code of the same size that reconstructs better, and what to do about it.
    4. The quality of what the model is for: masks, translated images, samples, restored images or reconstructions. It
       is compared with a baseline, and the first finding of severity "warning" is added to it. If no such figure could
       be computed, the sentence is the reason.

    Args:
        evaluation: All figures of the model.
        findings: Findings of the run and of its images, the most serious first.

    Returns:
        The sentence, with its full stop.

    Example:
        >>> psnr = Figure("psnr", 18.0, "reconstruction", "dB", 17.8, 18.2, 100, "higher", {"pca_16": 21.3})
        >>> gap = Figure("psnr_above_pca", -3.3, "reconstruction", "dB", -3.5, -3.1, 100, "higher")
        >>> evaluation = Evaluation("none", 10_000, 784, 16, 500, 100, 0, [psnr, gap], {}, {}, [])
        >>> headline_sentence(evaluation, [])
        'A linear code of the same size reconstructs better (21.3 against 18.0 dB): train longer.'
    """
    decisive = [each for each in findings if each.decisive]
    worse_than_pca = _worse_than_pca(evaluation, findings)
    # A model that PCA beats is blurred as well: that it needs more training says more.
    explained = {"blur"} if worse_than_pca is not None else set[str]()
    serious = [each for each in findings if each.severity == "serious" and each.name not in explained]
    for finding in [*decisive, *serious]:
        return _finding_sentence(finding)
    if (broken := next(_main_figures(evaluation), None)) is not None and not math.isfinite(broken.value):
        return f"The model's outputs are not finite ({broken.name}): train again with a lower learning rate."
    if worse_than_pca is not None:
        return worse_than_pca
    quality = _quality(evaluation)
    warning = next((each for each in findings if each.severity == "warning"), None)
    if warning is not None:
        return f"{quality}; warning: {_lower_first(_problem(warning))}." if quality else _finding_sentence(warning)
    reason = quality or next(iter(evaluation.remarks), "No figure says how good this model is")
    return f"{reason.rstrip('.')}."


def _problem(finding: Finding) -> str:
    text = finding.headline or finding.message
    return text[:1].upper() + text[1:]


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _finding_sentence(finding: Finding) -> str:
    if not finding.advice:
        return f"{_problem(finding)}."
    separator = ";" if ":" in _problem(finding) else ":"
    return f"{_problem(finding)}{separator} try {finding.advice[0].title}."


def _main_figures(evaluation: Evaluation) -> Iterator[Figure]:
    """Yield the figures that say how good a model of this kind is, the most important first."""
    metrics = ("fd",) if evaluation.density == "implicit" else ("mean_dice", "psnr_restored", "psnr", "fd")
    return (figure for metric in metrics if (figure := evaluation.first_of(metric)) is not None)


def _worse_than_pca(evaluation: Evaluation, findings: Sequence[Finding]) -> str | None:
    """Return a sentence if PCA with as many dimensions as the code reconstructs better."""
    psnr, gap = evaluation.get("psnr"), evaluation.get("psnr_above_pca")
    if psnr is None or gap is None or gap.high is None or not gap.high < 0 or evaluation.density == "implicit":
        return None
    comparison = f"({psnr.value - gap.value:.1f} against {psnr.value:.1f} dB)"
    overfitting = next((each for each in findings if each.name == "overfitting" and each.advice), None)
    advice = "train longer" if overfitting is None else f"the model overfits, so try {overfitting.advice[0].title}"
    return f"A linear code of the same size reconstructs better {comparison}: {advice}."


def _quality(evaluation: Evaluation) -> str:
    """Describe the quality of the most important figure next to a baseline, without a full stop; may be empty."""
    figure = next(_main_figures(evaluation), None)
    if figure is None:
        return ""
    if figure.key == "mean_dice":
        return _mask_quality(figure)
    if metric_of(figure.key) == "fd":
        return _sample_quality(figure)
    if figure.key == "psnr_restored":
        return _improvement(figure, "corrupted_input", "Restored images", "the clean images")
    if figure.group == "pictures":
        return _improvement(figure, "input", "Outputs", "their targets")
    return _reconstruction_quality(figure, evaluation.get("psnr_above_pca"))


def _mask_quality(dice: Figure) -> str:
    trivial = dice.baselines.get("one_class")
    if trivial is None:
        return f"Masks have a mean Dice of {dice.value:.2f}"
    if dice.value <= trivial:
        return f"Masks are no better than one class for all pixels (mean Dice {dice.value:.2f} and {trivial:.2f})"
    return f"Masks have a mean Dice of {dice.value:.2f} (one class for all pixels: {trivial:.2f})"


def _sample_quality(distance: Figure) -> str:
    floor = distance.baselines.get("real_images")
    if floor is None:
        return f"Samples have a {distance.name} of {short_number(distance.value)}"
    comparison = f"({distance.name} {short_number(distance.value)}; real against real {short_number(floor)})"
    if distance.value <= CLOSE_RATIO * floor:
        return f"Samples are close to real images {comparison}"
    relation = "are far" if distance.value > FAR_RATIO * floor else "still differ"
    return f"Samples {relation} from real images {comparison}"


def _improvement(psnr: Figure, baseline: str, outputs: str, targets: str) -> str:
    before = psnr.baselines.get(baseline)
    if before is None:
        return f"{outputs} match {targets} at {psnr.value:.1f} dB PSNR"
    comparison = f"({psnr.value:.1f} against {before:.1f} dB)"
    direction = "closer to" if psnr.value > before else "further from"
    name = display_name(baseline)
    return f"{outputs} are {abs(psnr.value - before):.1f} dB {direction} {targets} than the {name} {comparison}"


def _reconstruction_quality(psnr: Figure, gap: Figure | None) -> str:
    if gap is not None and gap.low is not None:
        comparison = f"({psnr.value:.1f} against {psnr.value - gap.value:.1f} dB)"
        if gap.low > 0:
            return f"Reconstructions are {gap.value:.1f} dB better than PCA of the same size {comparison}"
        return f"Reconstructions are about as good as PCA of the same size {comparison}"
    mean = psnr.baselines.get("mean_image")
    reached = f"Reconstructions reach {psnr.value:.1f} dB PSNR"
    return reached if mean is None else f"{reached} (the mean image: {mean:.1f} dB)"
