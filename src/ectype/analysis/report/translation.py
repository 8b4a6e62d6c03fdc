"""The sections of a page about image-to-image models: outputs, confusion of classes, and strength of degradation."""

from __future__ import annotations

import torch

from ectype.analysis.report.charts import Chart, Line, heatmap, line_chart
from ectype.analysis.report.components import Row, Section, image_title
from ectype.analysis.report.pictures import Picture, column
from ectype.analysis.run_view import RunView
from ectype.data.masks import IGNORE_INDEX
from ectype.evaluation.figures import format_number
from ectype.evaluation.translation import degradation_sweep, describe_degradations
from ectype.models.degradations import DEGRADATIONS
from ectype.models.translator import Restorer, Segmenter, Translator

__all__ = ["confusion_matrix", "degradation_strength", "translations"]

NUM_SHOWN_IMAGES = 12
NUM_SWEPT_IMAGES = 48
"""Images that a sweep of the degradation is measured on."""
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Multiples of the largest degradation in training."""


def translations(view: RunView) -> Section | None:
    """Show inputs, outputs, targets and errors."""
    model = view.model
    if not isinstance(model, Translator):
        return None
    cases = view.evaluation.cases
    groups = {
        "Random images": view.chosen(NUM_SHOWN_IMAGES, "translations"),
        "Smallest error": cases.get("best", []),
        "Median error": cases.get("median", []),
        "Largest error": cases.get("worst", []),
    }
    rows = [
        Row(title, _columns(view, model, places), narrow=title != "Random images")
        for title, places in groups.items()
        if places
    ]
    masks = isinstance(model, Segmenter)
    error = "wrong pixels in white" if masks else "the error of each pixel (white is 0.5 or more)"
    caption = (
        f"Held-out images, from top to bottom: the input, the model's output, the target, and {error}. The first row "
        f"is a random choice. The others are the best, the median and the worst of {view.evaluation.test_images:,} "
        f"test images by {'Dice' if masks else 'squared error'}."
    )
    if isinstance(model, Restorer):
        degradations = describe_degradations(model.config.degrade)
        caption += f" Inputs are degraded by {degradations}; they are clipped here, but not for the model."
    return Section("translations", "Inputs, outputs and targets", caption, rows)


def _columns(view: RunView, model: Translator, places: list[int]) -> list[Picture]:
    batch = view.test(torch.as_tensor(places, dtype=torch.int64), view.context)
    inputs, target = model.input_and_target(batch, view.context)
    output = model.translate(inputs)
    shown = [inputs.clamp(0, 1)]
    if isinstance(model, Segmenter):
        classes = output.argmax(1)
        wrong = (classes != target) & (target != IGNORE_INDEX)
        shown += [model.to_rgb(classes), model.to_rgb(target), wrong[:, None].float()]
    else:
        shown += [output, target, (2 * (output - target).abs()).mean(1, keepdim=True).clamp(0, 1)]
    shown = [image.expand(-1, 3, -1, -1).cpu() if image.shape[1] == 1 else image.cpu() for image in shown]
    return [
        column(
            torch.stack([images[i] for images in shown]), f"input, output, target, error: {image_title(view, place)}"
        )
        for i, place in enumerate(places)
    ]


def confusion_matrix(view: RunView) -> Section | None:
    """Show which classes are mistaken for which."""
    model = view.model
    if not isinstance(model, Segmenter) or model.info.target is None:
        return None
    counts = torch.tensor(view.evaluation.series["confusion"]).view(model.channels, model.channels)
    fractions = (counts / counts.sum(1, keepdim=True).clamp(min=1)).tolist()
    names = model.info.target.classes
    chart = heatmap("Pixels.", "Fraction of each true class's pixels by predicted class.", fractions, names, names)
    caption = "Rows are true classes and columns predicted classes. Each row sums to 1."
    return Section("confusion", "Confusion matrix", caption, charts=[chart])


def degradation_strength(view: RunView) -> Section | None:
    """Draw PSNR against the strength of the degradation, below and above that in training."""
    model = view.model
    if not isinstance(model, Restorer):
        return None
    images = view.images(view.chosen(NUM_SWEPT_IMAGES, "reach"))
    charts: list[Chart] = []
    for name, amount in model.config.degrade.items():
        degradation, top = DEGRADATIONS[name], amount[1] if isinstance(amount, tuple) else amount
        amounts = sorted({min(degradation.maximum, max(degradation.minimum, factor * top)) for factor in STRENGTHS})
        points = degradation_sweep(model, images, view.context, name, amounts)
        curves = [
            Line("degraded", amounts, [before for before, _ in points], 2, markers=True),
            Line("restored", amounts, [after for _, after in points], 1, markers=True),
        ]
        trained = f"{amount[0]:g} to {amount[1]:g}" if isinstance(amount, tuple) else f"{amount:g}"
        text = f"{degradation.unit}; trained with {trained}. {len(images)} held-out images, not clipped."
        near = min(range(len(amounts)), key=lambda i: abs(amounts[i] - top))
        marks = [(amounts[near], points[near][1], f"trained: {format_number(points[near][1])} dB")]
        charts.append(line_chart(f"PSNR against {name}.", text, curves, x=name, y="dB", marks=marks))
    caption = (
        "Quality if inputs are degraded less or more than in training. Where the restored curve is below the degraded "
        "one, the model makes images worse."
    )
    return Section("strength", "Strength of the degradation", caption, charts=charts)
