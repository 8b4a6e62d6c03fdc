"""The parts of a page about samples: are they done, are they varied, are they copies?"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import torch

from ectype.data.feed import evenly
from ectype.measure.evaluation import number
from ectype.measure.features import PixelFeatures, extract
from ectype.measure.neighbours import nearest
from ectype.measure.view import RunView
from ectype.models.base import Samples, conditional
from ectype.report.charts import Chart, Line, lines
from ectype.report.parts import Row, Section
from ectype.report.pictures import Picture, column, saved, strip

__all__ = ["classes", "copies", "evidence", "followed"]

OF_A_CLASS, CLASSES = 10, 20
"""Samples of a class, and most classes that are shown."""
JUDGED, TRAIN = 12, 20_000
"""Samples beside their nearest training image, and most of those that are searched."""
SIGNS = {
    "Likeness and variety": ("precision", "recall", "coverage", "least coverage of a kind", "Vendi ratio"),
    "What is missing or repeated": ("lost", "NDB/K", "repeated"),
    "Copies": ("authenticity", "closer to training images", "told from held-out"),
}
"""Charts of what a verdict is made of; the rest gets a chart each."""


def classes(view: RunView) -> Section | None:
    """Samples of each class, the same latents in every row."""
    model = view.model
    if not (conditional(model) and isinstance(model, Samples)):
        return None
    rows = []
    for place, name in enumerate(view.info.classes[:CLASSES]):
        label = torch.full((OF_A_CLASS,), place)
        images = model.sample(OF_A_CLASS, label=label, generator=view.generator("classes"))
        rows.append(strip(images, f"{OF_A_CLASS} samples of {name}", name))
    caption = (
        "What it makes when it is asked for a class. A column has the same z in every row: what stays the same down a "
        "column is style that the generator keeps apart from the class."
    )
    return Section("classes", "Samples by class", caption, [Row("", rows)])


def copies(view: RunView) -> Section | None:
    """Samples above the training images that are nearest to them."""
    model = view.model
    if not isinstance(model, Samples) or view.recipe.about.density != "implicit":
        return None
    features = PixelFeatures(view.train, view.info)
    made = model.sample(JUDGED, generator=view.generator("copies"))
    size, moment = view.looking
    n = min(TRAIN, len(view.train))
    known = extract(features, (batch.image for batch, _ in view.train.sequence(size, moment, most=n)))
    found = nearest(extract(features, [made]), known)
    index = evenly(len(view.train), n)[found.place[:, 0]]
    near = view.train(index, moment(0, len(index))).image
    pictures = [
        column(torch.stack([made[i], near[i]]), f"sample {i + 1} above the training image nearest to it")
        for i in range(len(made))
    ]
    caption = (
        f"Samples, none picked, above the nearest of {n:,} training images by {features.dimensions} principal "
        "components of the pixels. Pairs that are the same picture are copies; near ones are what a good generator has "
        "too, so the figures compare with how near held-out images come."
    )
    return Section("copies", "Nearest training images", caption, [Row("", pictures)])


def followed(view: RunView) -> Section | None:
    """The distance of samples over training, where it stopped and why, and what the verdict rests on."""
    checks = [line for line in view.run.shipped.metrics() if line["kind"] == "check" and "verdict" in line]
    try:
        real: dict[str, Any] = json.loads(view.run.shipped.watch_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not checks:
        return None
    name, said = real["name"], view.run.shipped.summary()
    seen = [line["seen"] for line in checks]
    ends = [seen[0], seen[-1]]
    curves = [
        Line("samples", seen, [line[name] for line in checks], 1, dots=True),
        Line("real images", ends, [real["floor"]] * 2, 2),
    ]
    batch = view.recipe.train.batch
    best = next((line for line in checks if line["step"] == said.get("shipped_step")), None)
    marks = [(best["seen"], best[name], "shipped")] if best is not None else []
    if said.get("state") not in (None, "finished", "interrupted"):
        marks.append((checks[-1]["seen"], checks[-1][name], "stopped"))
    of = (
        f"{real['samples']:,} samples against {real['real']:,} held-out images, the same draws at every check. As many "
        f"real images are {number(real['floor'])} ± {number(real['spread'])} away."
    )
    charts = [lines(name, of, curves, x="images seen", marks=marks, log=True), *_signs(checks, real)]
    facts = [("Ended", f"{said['state']}: {said['reason']}")] if "reason" in said else []
    if "check_share" in said:
        facts.append(("Cost of looking", f"{said['check_share']:.1%} of the training time"))
    turns: list[dict[str, Any]] = [line for i, line in enumerate(checks) if i == 0 or _changed(checks, i)]
    for line in turns[-6:]:
        facts.append((f"From {line['seen']:,} images", f"{line['verdict']}: {line['evidence']}"))
    caption = (
        "The losses of a generator and a critic say nothing of how good the samples are, since each judges the other. "
        f"So samples of the averaged generator were compared with held-out images at {len(checks)} checks, "
        f"{(seen[1] - seen[0]) if len(seen) > 1 else batch:,} images apart. The figures above are of other samples and "
        "other images, which no decision has seen."
    )
    return Section("followed", "Is it done? Has it collapsed?", caption, charts=charts, facts=facts)


def _changed(checks: list[dict[str, Any]], i: int) -> bool:
    return checks[i]["verdict"] != checks[i - 1]["verdict"]


def _signs(checks: list[dict[str, Any]], real: dict[str, Any]) -> list[Chart]:
    charts = []
    for title, kinds in SIGNS.items():
        curves, beside = [], []
        for key in real["reference"]:
            kind = re.sub(r" \(.*\)$", "", key)
            if kind in kinds:
                have = [line for line in checks if key in line]
                curves.append(Line(key, [x["seen"] for x in have], [x[key] for x in have], len(curves)))
                beside.append(f"{key} {number(real['reference'][key][0])}")
        charts.append(lines(title, f"Real images: {', '.join(beside)}.", curves, x="images seen"))
    return charts


def evidence(view: RunView) -> Section | None:
    """Pictures behind the last verdict that was not a good one."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for file in view.run.shipped.samples.glob("evidence-*.png"):
        if parts := re.fullmatch(r"evidence-(\d+)-(\w+)\.png", file.name):
            found.setdefault(parts[2], []).append((int(parts[1]), file))
    about = {
        "lost": ("Left out", "Held-out images of the clusters that hardly any sample falls into."),
        "repeated": ("Alike", "The pairs of samples that are closest to each other, side by side."),
        "copied": ("Copied", "Pairs of a sample and the training image that it comes closest to."),
    }
    rows = []
    for kind, (title, words) in about.items():
        if kind in found:
            step, file = max(found[kind])
            rows.append(Row(title, [_of(file, step, view, title)], words, narrow=True))
    if not rows:
        return None
    caption = "What the last verdict that was not a good one rests on, in pictures."
    return Section("evidence", "Evidence", caption, rows)


def _of(file: Any, step: int, view: RunView, title: str) -> Picture:
    seen = step * view.recipe.train.batch
    picture = saved(file, f"{title}, after {seen:,} images", f"after {seen:,} images")
    return dataclasses.replace(picture, across=4)
