"""The parts of a page about models from image to image: what they make, where they err, how far they reach."""

from __future__ import annotations

import torch

from ectype.data.masks import IGNORED
from ectype.measure.evaluation import number
from ectype.measure.translation import CONFUSION, said_of, sweep
from ectype.measure.view import RunView
from ectype.models.degradations import DEGRADATIONS
from ectype.models.translator import Restorer, Segmenter, Translator
from ectype.report.charts import Chart, Line, heat, lines
from ectype.report.parts import Row, Section
from ectype.report.parts import said_of as called
from ectype.report.pictures import Picture, column

__all__ = ["confused", "reach", "translations"]

SHOWN, SWEPT = 12, 48
"""Images drawn at random, and those a sweep is measured on."""
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Of the amount that was trained with."""


def translations(view: RunView) -> Section | None:
    """Input, output, target and error."""
    model = view.model
    if not isinstance(model, Translator):
        return None
    cases = view.evaluation.cases
    groups = {
        "Drawn at random": view.chosen(SHOWN, "translations"),
        "Smallest error": cases.get("best", []),
        "Middle error": cases.get("median", []),
        "Largest error": cases.get("worst", []),
    }
    rows = [
        Row(title, _columns(view, model, places), narrow=title != "Drawn at random")
        for title, places in groups.items()
        if places
    ]
    masks = isinstance(model, Segmenter)
    caption = (
        "Held-out images from top to bottom: the input, what the model makes of it, the partner it should have found, "
        + (
            "and the pixels that are wrong in white. "
            if masks
            else "and how far off each pixel is (white is 0.5 or more). "
        )
        + "The first row was drawn without looking; the others are the extremes and the middle of "
        f"{view.evaluation.test_images:,} test images by {'Dice' if masks else 'squared error'}."
    )
    if isinstance(model, Restorer):
        caption += (
            f" Inputs are spoiled by {said_of(model.config.degrade)} and clipped to be shown, not to be restored."
        )
    return Section("translations", "What it makes of an image", caption, rows)


def _columns(view: RunView, model: Translator, places: list[int]) -> list[Picture]:
    batch = view.test(torch.as_tensor(places, dtype=torch.int64), view.moment)
    given, wanted = model.pair(batch, view.moment)
    made = model.translate(given)
    shown = [given.clamp(0, 1)]
    if isinstance(model, Segmenter):
        named = made.argmax(1)
        shown += [
            model.picture(named),
            model.picture(wanted),
            ((named != wanted) & (wanted != IGNORED))[:, None].float(),
        ]
    else:
        shown += [made, wanted, (2 * (made - wanted).abs()).mean(1, keepdim=True).clamp(0, 1)]
    shown = [image.expand(-1, 3, -1, -1).cpu() if image.shape[1] == 1 else image.cpu() for image in shown]
    return [
        column(torch.stack([images[i] for images in shown]), f"input, output, target, error: {called(view, place)}")
        for i, place in enumerate(places)
    ]


def confused(view: RunView) -> Section | None:
    """Which classes are taken for which."""
    model = view.model
    if not isinstance(model, Segmenter) or model.info.target is None:
        return None
    total = torch.tensor(view.evaluation.series[CONFUSION]).view(model.channels, model.channels)
    shares = (total / total.sum(1, keepdim=True).clamp(min=1)).tolist()
    names = model.info.target.classes
    chart = heat(
        "Pixels", "Of the pixels of each right class, the share that each class was found in.", shares, names, names
    )
    caption = "Rows are what pixels are, columns what they were taken for; each row sums to 1."
    return Section("confusion", "What is taken for what", caption, charts=[chart])


def reach(view: RunView) -> Section | None:
    """PSNR against the strength of what spoils the input, beyond what was trained with."""
    model = view.model
    if not isinstance(model, Restorer):
        return None
    images = view.images(view.chosen(SWEPT, "reach"))
    charts: list[Chart] = []
    for name, amount in model.config.degrade.items():
        known, top = DEGRADATIONS[name], amount[1] if isinstance(amount, tuple) else amount
        amounts = sorted({min(known.most, max(known.least, factor * top)) for factor in FACTORS})
        points = sweep(model, images, view.moment, name, amounts)
        curves = [
            Line("spoiled", amounts, [before for before, _ in points], 2, dots=True),
            Line("restored", amounts, [after for _, after in points], 1, dots=True),
        ]
        trained = f"{amount[0]:g} to {amount[1]:g}" if isinstance(amount, tuple) else f"{amount:g}"
        said = f"{known.unit}; trained with {trained}. {len(images)} held-out images, clipped nowhere."
        near = min(range(len(amounts)), key=lambda i: abs(amounts[i] - top))
        marks = [(amounts[near], points[near][1], f"trained: {number(points[near][1])} dB")]
        charts.append(lines(f"PSNR over {name}", said, curves, x=name, y="dB", marks=marks))
    caption = (
        "How the model does when its input is spoiled less or more than in training. Where restored lies below "
        "spoiled, the image is better left alone."
    )
    return Section("reach", "How far it reaches", caption, charts=charts)
