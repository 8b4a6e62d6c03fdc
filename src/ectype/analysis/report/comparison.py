"""What a page shows of runs that were trained to be compared, above the runs themselves."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ectype.analysis.report.charts import Chart
from ectype.analysis.report.components import image_title
from ectype.analysis.report.pictures import Picture, strip
from ectype.analysis.report.slides import HeatCell, HeatRow, figures_slide, pictures_slide
from ectype.analysis.report.tiles import Standing
from ectype.analysis.report.verdict import run_verdict
from ectype.analysis.run_view import RunView
from ectype.evaluation.comparison_stats import FigureComparison, comparison_table
from ectype.evaluation.figure_names import metric_of
from ectype.evaluation.figures import format_number
from ectype.evaluation.ranking import best_models_sentence
from ectype.models.base import LatentSampler, Reconstructs, Samples, Translates, evaluating, is_conditional
from ectype.models.translator import Restorer

__all__ = ["ComparisonView", "Download", "ModelColumn", "comparison_view"]

NUM_OUTPUTS, NUM_SAMPLES = 8, 16
MAX_FIGURES = 5
"""Rows of the heat table."""
NO_DIFFERENCE = 0.4
"""Color of all cells of a figure in which no model clearly differs from another."""
METRICS = (
    *("mean_dice", "psnr_restored", "psnr", "fd", "coverage", "log_likelihood_iw", "ssim", "precision", "recall"),
    *("effective_rank", "linear_probe_accuracy", "l1"),
)
"""Metrics that the heat table can show, the most important first."""


@dataclass(frozen=True)
class ModelColumn:
    """One model of a comparison.

    Attributes:
        name: Of the arm.
        used: What its training really used.
        verdict: On its samples, or how its training ended.
        standing: What the verdict means.
        outputs: Outputs for the inputs that all models share; empty if it has none.
        samples: Samples; empty if it draws none.
    """

    name: str
    used: str
    verdict: str
    standing: Standing
    outputs: list[Picture]
    samples: list[Picture]


@dataclass(frozen=True)
class Download:
    """A file that the page contains: the name it is saved by, the text of its button, and its content as a data URI."""

    file: str
    label: str
    uri: str


@dataclass(frozen=True)
class ComparisonView:
    """What the template shows of a comparison.

    Attributes:
        sentence: What was found.
        conclusions: What was compared, then one ranking for each question.
        details: Which arms differ, one sentence for each figure.
        inputs: The images that all models were given; empty if no model has outputs for them.
        models: One column for each model.
        heat: Rows of the heat table.
        figures: All figures of all arms.
        arms: The arms that have figures.
        used: Arm → mean minutes of training and mean images seen of its runs.
        charts: Quality against time.
        downloads: Files in the page.
        command: The command that repeats the comparison.
    """

    sentence: str
    conclusions: Sequence[str]
    details: Sequence[str]
    inputs: list[Picture]
    models: list[ModelColumn]
    heat: list[HeatRow]
    figures: Sequence[FigureComparison]
    arms: list[str]
    used: Mapping[str, tuple[float, float]]
    charts: list[Chart]
    downloads: list[Download]
    command: str


def comparison_view(
    views: Mapping[str, RunView],
    figures: Sequence[FigureComparison],
    conclusions: Sequence[str],
    *,
    sentence: str = "",
    details: Sequence[str] = (),
    used: Mapping[str, tuple[float, float]],
    charts: list[Chart],
    command: str = "",
) -> ComparisonView:
    """Collect what a page shows of a comparison.

    Args:
        views: Arm → its first run. Only runs on the same images as the first get the first run's images.
        figures: Figures of all arms over all seeds.
        conclusions: See `ComparisonView`.
        sentence: What was found; by default, which model is best at what.
        details: See `ComparisonView`.
        used: See `ComparisonView`.
        charts: See `ComparisonView`.
        command: See `ComparisonView`.
    """
    first = next(iter(views.values()))
    places = first.chosen(NUM_OUTPUTS, "comparison")
    titles = [image_title(first, place) for place in places]
    same = {name for name, view in views.items() if _identity(view, places) == _identity(first, places)}
    outputs = {name: _outputs(view, places) if name in same else None for name, view in views.items()}
    samples = {name: _samples(view) for name, view in views.items()}
    given = first.images(places) if any(images is not None for images in outputs.values()) else None
    verdicts = {name: run_verdict(view) for name, view in views.items()}
    models = [
        ModelColumn(
            name,
            _used_text(used.get(name)),
            verdicts[name].name,
            verdicts[name].standing,
            _pictures(outputs[name], [f"output of {name}: {title}" for title in titles]),
            _pictures(samples[name], [f"sample {i + 1} of {name}" for i in range(NUM_SAMPLES)]),
        )
        for name in views
    ]
    heat = heat_rows(figures, list(views))
    sentence = sentence or best_models_sentence(figures) or conclusions[0]
    shown = {name: (_used_text(used.get(name)), outputs[name], samples[name]) for name in views}
    table = comparison_table(figures)
    downloads = [
        Download("comparison.csv", "CSV", _data("text/csv;charset=utf-8", table.to_csv().encode())),
        Download("comparison.tex", "LaTeX", _data("text/x-tex;charset=utf-8", table.to_latex().encode())),
        Download("comparison-pictures.png", "Slide of pictures", _data("image/png", pictures_slide(sentence, shown))),
    ]
    if heat:
        slide = figures_slide(sentence, list(views), heat)
        downloads.append(Download("comparison-figures.png", "Slide of figures", _data("image/png", slide)))
    return ComparisonView(
        sentence,
        conclusions,
        details,
        _pictures(given, titles),
        models,
        heat,
        figures,
        list(dict.fromkeys(arm for figure in figures for arm in figure.values)),
        used,
        charts,
        downloads,
        command,
    )


def heat_rows(figures: Sequence[FigureComparison], arms: Sequence[str]) -> list[HeatRow]:
    """Return at most five figures for the heat table, the most important first; a cell is None if it does not apply.

    Colors follow ranks, not values: models that do not differ beyond chance have the same color.
    """
    order = {metric: place for place, metric in reversed(list(enumerate(METRICS)))}
    chosen: dict[str, FigureComparison] = {}
    for figure in figures:
        metric = metric_of(figure.key)
        if metric in order:
            chosen.setdefault(metric, figure)
    rows = []
    for metric in sorted(chosen, key=lambda each: order[each])[:MAX_FIGURES]:
        figure = chosen[metric]
        ranks = figure.ranks if figure.comparable else [list(figure.values)]
        place = {arm: at for at, rank in enumerate(ranks) for arm in rank}
        cells: list[HeatCell | None] = []
        for arm in arms:
            value = figure.values.get(arm)
            if value is None:
                cells.append(None)
                continue
            share = 1 - place[arm] / (len(ranks) - 1) if len(ranks) > 1 else NO_DIFFERENCE
            text = f"{format_number(value.mean)} {figure.unit}".strip()
            cells.append(HeatCell(text, round(share, 3), figure.winner == arm))
        rows.append(HeatRow(figure.name, figure.better, cells))
    return rows


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _used_text(used: tuple[float, float] | None) -> str:
    if used is None:
        return ""
    minutes, images = used
    time = f"{60 * minutes:,.0f} seconds" if minutes < 10 else f"{minutes:,.0f} minutes"
    return f"{time} used, {images:,.0f} images seen"


def _pictures(images: Tensor | None, titles: Sequence[str]) -> list[Picture]:
    if images is None:
        return []
    return [strip(images[i : i + 1], title) for i, title in enumerate(titles[: len(images)])]


def _identity(view: RunView, places: list[int]) -> tuple[object, ...]:
    """Return a value that is equal for two views that show the same images at these places."""
    names = [view.name(place) for place in places if place < len(view.test)]
    return (names, view.info.shape, view.recipe.data.preparation)


def _outputs(view: RunView, places: list[int]) -> Tensor | None:
    """Return what a model makes of these test images, [n, c, h, w]; None if it has no outputs for images."""
    model = view.model
    with evaluating(model):
        if isinstance(model, Reconstructs):
            return model.reconstruct(view.images(places))
        if isinstance(model, Translates):
            batch = view.test(torch.tensor(places), view.context)
            output = model.translate(model.input_and_target(batch, view.context)[0])
            return output if isinstance(model, Restorer) else model.to_rgb(output)
    return None


def _samples(view: RunView) -> Tensor | None:
    """Return samples from one seed. Models whose latents have the same shape get the same latents."""
    model = view.model
    generator = torch.Generator().manual_seed(0)
    with evaluating(model):
        if isinstance(model, LatentSampler) and not is_conditional(model):
            return model.render(model.sample_latents(NUM_SAMPLES, generator=generator))
        if isinstance(model, Samples):
            return model.sample(NUM_SAMPLES, generator=generator)
    return None
