"""The sections of a page about training: logged values, and images as they were during training."""

from __future__ import annotations

import re

import torch

from ectype.analysis.report.charts import Chart, Line, line_chart
from ectype.analysis.report.components import Row, Section
from ectype.analysis.report.pictures import load_picture
from ectype.analysis.run_view import RunView
from ectype.evaluation.figure_names import display_name
from ectype.runs.model_files import CodeSampler
from ectype.runs.run_dir import NON_METRIC_KEYS

__all__ = ["training_curves", "training_progress"]

NUM_FRAMES = 8
NOT_DRAWN = {*NON_METRIC_KEYS, "total", "model/total", "images/s"}
"""Logged keys that have no chart of their own."""


def training_curves(view: RunView) -> Section | None:
    """Draw every logged value over the number of images seen."""
    run = view.run.selected_attempt
    metrics = run.metrics()
    train = [line for line in metrics if line["kind"] == "train"]
    # If samples are monitored, their checks have a section of their own; the losses say nothing about them.
    checks = [] if run.monitor_file.is_file() else [line for line in metrics if line["kind"] == "check"]
    charts: list[Chart] = []
    monitored = next((key for line in checks for key in line if key not in NOT_DRAWN), None)
    if monitored is not None:
        held_out = [line for line in checks if line.get(monitored) is not None]
        best = next((line for line in reversed(held_out) if line.get("best")), None)
        marks = [(best["seen"], best[monitored], "best")] if best is not None else []
        # With a critic, the loss is that of the model, and includes the critic's term.
        totals = [(line["seen"], line[key]) for line in train for key in ("total", "model/total") if key in line]
        curves = [
            Line("training", [seen for seen, _ in totals], [value for _, value in totals]),
            Line("held out", [x["seen"] for x in held_out], [x[monitored] for x in held_out], 1, markers=True),
        ]
        caption = (
            f"{display_name(monitored)} on held-out images, and the complete loss in training. The best check is "
            "marked; if a critic trains the model, it is the newest."
        )
        charts.append(line_chart("Loss.", caption, curves, x="images seen", marks=marks))
    keys = [key for key in dict.fromkeys(k for line in [*train, *checks] for k in line) if key not in NOT_DRAWN]
    for key in keys:
        curves = [
            Line(name, [x["seen"] for x in present], [x[key] for x in present], i, markers=i == 1)
            for i, (name, lines) in enumerate((("training", train), ("held out", checks)))
            if (present := [line for line in lines if key in line])
        ]
        if key != monitored:
            charts.append(line_chart(display_name(key), "", curves, x="images seen", height=240))
    if not charts:
        return None
    caption = "Logged values over the number of images seen, each term of the loss in its own chart."
    return Section("curves", "Training", caption, charts=charts)


def training_progress(view: RunView) -> Section | None:
    """Show samples and reconstructions as they were during training."""
    rows = []
    for kind in ("samples", "reconstructions"):
        files = {
            int(found[1]): file
            for file in view.run.selected_attempt.samples.glob(f"{kind}-*.png")
            if (found := re.fullmatch(rf"{kind}-(\d+)\.png", file.name))
        }
        steps = sorted(files)
        if len(steps) < 2:
            continue
        places = torch.linspace(0, len(steps) - 1, min(NUM_FRAMES, len(steps))).round().int().tolist()
        seen = {steps[i]: f"{steps[i] * view.recipe.train.batch:,} images" for i in places}
        rows.append(
            Row(
                kind.capitalize(),
                [load_picture(files[step], f"{kind} after {images}", images) for step, images in seen.items()],
            )
        )
    if not rows:
        return None
    model = view.model
    caption = "Images at checks during training, always from the same seed and the same held-out images."
    if isinstance(model, CodeSampler) and model.prior is None:
        caption += " Samples are decoded draws of N(0, I), because no density is fitted during training."
    return Section("progress", "During training", caption, rows)
