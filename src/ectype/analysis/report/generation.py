"""The sections of a page about samples: their quality, their variety, and whether they are copies."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch

from ectype.analysis.report.charts import Chart, Line, line_chart
from ectype.analysis.report.components import Row, Section
from ectype.analysis.report.pictures import Picture, column, load_picture, strip
from ectype.analysis.run_view import RunView
from ectype.data.loader import evenly_spaced
from ectype.evaluation.features import PixelFeatures, extract_features
from ectype.evaluation.figure_names import display_name, metric_of
from ectype.evaluation.figures import format_number
from ectype.evaluation.metrics.precision_recall import nearest_neighbors
from ectype.models.base import Samples, is_conditional

__all__ = ["nearest_training_images", "sample_quality", "samples_by_class", "verdict_evidence"]

NUM_SAMPLES_PER_CLASS, MAX_CLASSES = 10, 20
NUM_SAMPLES_WITH_NEIGHBORS, MAX_TRAINING_IMAGES = 12, 20_000
"""Samples shown with their nearest training image, and training images that are searched."""
MAX_VERDICT_CHANGES = 6
METRICS = {
    "Quality and variety.": ("precision", "recall", "coverage", "min_group_coverage", "vendi_ratio"),
    "Missing or repeated images.": ("lost_clusters", "ndb", "duplicates"),
    "Copies.": ("authenticity", "closer_to_training", "membership_auc"),
}
"""Title of a chart → the metrics in it. A verdict rests on these and on the distance of samples."""


def samples_by_class(view: RunView) -> Section | None:
    """Show samples of each class, with the same latents in every row."""
    model = view.model
    if not (is_conditional(model) and isinstance(model, Samples)):
        return None
    rows = []
    for index, name in enumerate(view.info.classes[:MAX_CLASSES]):
        label = torch.full((NUM_SAMPLES_PER_CLASS,), index)
        images = model.sample(NUM_SAMPLES_PER_CLASS, label=label, generator=view.generator("classes"))
        rows.append(strip(images, f"{NUM_SAMPLES_PER_CLASS} samples of {name}", name))
    caption = (
        "Samples for a given class, one row for each class. All images in a column have the same latent z, so what "
        "stays the same down a column is style that does not depend on the class."
    )
    return Section("classes", "Samples by class", caption, [Row("", rows)])


def nearest_training_images(view: RunView) -> Section | None:
    """Show samples above the training images that are nearest to them."""
    model = view.model
    if not isinstance(model, Samples) or view.recipe.about.density != "implicit":
        return None
    features = PixelFeatures(view.train, view.info)
    samples = model.sample(NUM_SAMPLES_WITH_NEIGHBORS, generator=view.generator("copies"))
    size, context = view.batches
    n = min(MAX_TRAINING_IMAGES, len(view.train))
    known = extract_features(features, (batch.image for batch, _ in view.train.batches(size, context, max_images=n)))
    found = nearest_neighbors(extract_features(features, [samples]), known)
    index = evenly_spaced(len(view.train), n)[found.place[:, 0]]
    neighbors = view.train(index, context(0, len(index))).image
    pictures = [
        column(torch.stack([samples[i], neighbors[i]]), f"sample {i + 1} above the training image nearest to it")
        for i in range(len(samples))
    ]
    caption = (
        f"Random samples above the nearest of {n:,} training images, by {features.dimensions} principal components of "
        "the pixels. If both show the same picture, the sample is a copy. A good generator has near neighbors too, so "
        "the figures compare them with the neighbors of held-out images."
    )
    return Section("neighbors", "Nearest training images", caption, [Row("", pictures)])


def sample_quality(view: RunView) -> Section | None:
    """Draw the distance of samples over training, and describe the verdicts and the end of the run."""
    run = view.run.selected_attempt
    monitor, summary = run.monitor_values(), run.summary()
    if monitor is None:
        return None
    key = monitor["key"]
    checks = [line for line in run.metrics() if line["kind"] == "check" and "verdict" in line and key in line]
    if not checks:
        return None
    seen = [line["seen"] for line in checks]
    curves = [
        Line("samples", seen, [line[key] for line in checks], 1, markers=True),
        Line("real images", [seen[0], seen[-1]], [monitor["floor"]] * 2, 2),
    ]
    selected = next((line for line in checks if line["step"] == summary.get("shipped_step")), None)
    marks = [(selected["seen"], selected[key], "selected")] if selected is not None else []
    if summary.get("state") not in (None, "finished", "interrupted"):
        marks.append((checks[-1]["seen"], checks[-1][key], "stopped"))
    text = (
        f"{monitor['samples']:,} samples against {monitor['real']:,} held-out images, with the same latents at every "
        f"check. The same number of real images has {format_number(monitor['floor'])} ± "
        f"{format_number(monitor['spread'])}."
    )
    title = f"{display_name(key)}."
    charts = [line_chart(title, text, curves, x="images seen", marks=marks, log=True), *_metric_charts(checks, monitor)]
    interval = (seen[1] - seen[0]) if len(seen) > 1 else view.recipe.train.batch
    caption = (
        "The losses of a generator and its critic do not say how good samples are, because they are relative to each "
        f"other. So samples were compared with held-out images at {len(checks)} checks, every {interval:,} images. The "
        "figures at the top of this page use other samples and other images, which no decision in training has used."
    )
    facts = _monitoring_facts(checks, summary)
    return Section("monitoring", "Sample quality during training", caption, charts=charts, facts=facts)


def _monitoring_facts(checks: list[dict[str, Any]], summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Describe how the run ended, what its checks cost, and the last changes of the verdict."""
    facts = [("End of training", f"{summary['state']}: {summary['reason']}")] if "reason" in summary else []
    if "check_share" in summary:
        facts.append(("Cost of the checks", f"{summary['check_share']:.1%} of the training time"))
    changes = [line for i, line in enumerate(checks) if i == 0 or line["verdict"] != checks[i - 1]["verdict"]]
    for line in changes[-MAX_VERDICT_CHANGES:]:
        facts.append((f"From {line['seen']:,} images", f"{line['verdict']}: {line['evidence']}"))
    return facts


def _metric_charts(checks: list[dict[str, Any]], monitor: dict[str, Any]) -> list[Chart]:
    charts = []
    for title, metrics in METRICS.items():
        curves, real = [], []
        for key, (value, *_) in monitor["reference"].items():
            if metric_of(key) in metrics:
                present = [line for line in checks if key in line]
                seen, values = [line["seen"] for line in present], [line[key] for line in present]
                curves.append(Line(display_name(key), seen, values, len(curves)))
                real.append(f"{display_name(key)} {format_number(value)}")
        if curves:
            charts.append(line_chart(title, f"Real images: {', '.join(real)}.", curves, x="images seen"))
    return charts


def verdict_evidence(view: RunView) -> Section | None:
    """Show the pictures behind the last verdict other than healthy."""
    files: dict[str, list[tuple[int, Path]]] = {}
    for file in view.run.selected_attempt.samples.glob("evidence-*.png"):
        if parts := re.fullmatch(r"evidence-(\d+)-(\w+)\.png", file.name):
            files.setdefault(parts[2], []).append((int(parts[1]), file))
    kinds = {
        "lost": ("Missing", "Held-out images of clusters that contain almost no samples."),
        "repeated": ("Repeated", "The most similar pairs of samples, side by side."),
        "copied": ("Copied", "Pairs of a sample and the training image nearest to it."),
    }
    rows = []
    for kind, (title, caption) in kinds.items():
        if kind in files:
            step, file = max(files[kind])
            rows.append(Row(title, [_evidence_picture(file, step, view, title)], caption, narrow=True))
    if not rows:
        return None
    caption = "Pictures of the problem that the last verdict other than healthy rests on."
    return Section("evidence", "Evidence", caption, rows)


def _evidence_picture(file: Path, step: int, view: RunView, title: str) -> Picture:
    seen = step * view.recipe.train.batch
    picture = load_picture(file, f"{title}, after {seen:,} images", f"after {seen:,} images")
    return dataclasses.replace(picture, across=4)
