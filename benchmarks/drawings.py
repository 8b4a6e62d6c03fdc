"""Colored drawings from their outlines: `unet-translate`, with and without a critic.

    python benchmarks/drawings.py [--minutes 20] [--threads 2]

Most of a drawing is white, so that copying the outline scores well over the whole image. The error is therefore
computed inside filled regions, where the outline is white and the drawing is not. A picture shows held-out results.
"""

from __future__ import annotations

import os
from typing import Any

from common import DATA, KEPT, RESULTS, Row, arguments, console, fastest, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

import ectype
from ectype.models.translator import ImageTranslator
from ectype.runs.load import open_data
from ectype.training.run import train
from photos import Judge, bytes_of, in_parts, sheet

GOAL = 0.15
TRAINED_WITH, JUDGED_BY = "MobileNetV2", "EfficientNet-Lite0"
WORDS = [
    "source=outline",
    "target=colour",
    "net={kind: unet, width: 32, fold: 2}",
    "output=sigmoid",
    "start_at_mean=false",
    "loss={l1: 1}",
    "batch=16",
    "optimizer.lr=0.003",
    "channels_last=true",
    "augment={flip: true, shift: 0.05}",
    "train.ema_images=2000",
    "monitor.patience=null",
    "run.pictures=0",
]
ARMS = {
    "L1": [],
    "L1 and a critic": [
        "objective.adversary.weight=0.5",
        "objective.adversary.starts=8000",
        "objective.adversary.warmup=300",
        "objective.adversary.critic.width=32",
    ],
}


def inside(made: Tensor, outline: Tensor, wanted: Tensor) -> np.ndarray:
    """Return the mean absolute error of each image in its filled regions; NaN where it has none."""
    filled = (outline.amin(1) > 0.95) & (wanted.amin(1) < 0.95)
    error = (made - wanted).abs().mean(1)
    return np.array([float(e[f].mean()) for e, f in zip(error, filled, strict=True)])


def overall(made: Tensor, outline: Tensor, wanted: Tensor) -> float:
    """Return the same over all filled pixels of all images."""
    filled = (outline.amin(1) > 0.95) & (wanted.amin(1) < 0.95)
    return float((made - wanted).abs().mean(1)[filled].mean())


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, minutes=(20, "of training for each"), threads=(2, "of torch"), seed=(0, "of the runs"))
    torch.set_num_threads(given.threads)
    budget = 1 if given.quick else given.minutes
    made: dict[str, Tensor] = {}
    notes, judge = [], Judge([JUDGED_BY])
    outline = wanted = torch.empty(0)
    for name, more in ARMS.items():
        words = [
            *WORDS,
            *fastest(),
            *more,
            f"train.minutes={budget}",
            f"train.seed={given.seed}",
            f"run.threads={given.threads}",
        ]
        place = KEPT / "drawings" / f"{name.replace(' ', '-')}-{budget}-{given.seed}"
        run = train("unet-translate", DATA / "pairs128", words, out=place, console=console)
        model = ectype.load(run.path, device="cpu")
        assert isinstance(model, ImageTranslator)
        images = open_data(run.recipe.data)[1].split("test")
        pixels, target = images.separate_target(images.gather(torch.arange(len(images))))
        assert target is not None
        outline, wanted = pixels.float() / 255, target.float() / 255
        made[name] = in_parts(model.translate, outline)
        said = run.summary()
        notes.append(f"{name}: {said['seen']:,} pairs in {said['seconds'] / 60:.1f} minutes.")
    colour = wanted.movedim(1, -1)[(outline.amin(1) > 0.95) & (wanted.amin(1) < 0.95)].median(0).values
    simple = {
        "copying the outline": outline.expand_as(wanted),
        "the median color where the outline is white": outline.expand_as(wanted) * 0 + colour[:, None, None],
    }
    values: dict[str, dict[str, Any]] = {}
    for name, images in {**simple, **made}.items():
        values[name] = {"inside": overall(images, outline, wanted), **judge(images, wanted)}
    rows = []
    copied = values["copying the outline"]
    for name, found in values.items():
        each = inside({**simple, **made}[name], outline, wanted)
        each = each[~np.isnan(each)]
        drawn = np.random.default_rng(0).choice(each, (2000, len(each))).mean(1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        goal, met = (f"≤ {GOAL}", found["inside"] <= GOAL) if name == "L1" else ("", None)
        detail = f"a mean over images is {each.mean():.3f}, 95% {low:.3f} to {high:.3f}"
        rows.append(
            Row(f"{name}: error inside filled regions", copied["inside"], found["inside"], None, goal, met, detail)
        )
    plain = values["L1"][f"distance, {JUDGED_BY}"]
    for name, found in values.items():
        distance = found[f"distance, {JUDGED_BY}"]
        apart = distance - plain
        error = 1.96 * apart.std() / len(apart) ** 0.5
        goal, met = ("below L1's", bool(apart.mean() + error < 0)) if name == "L1 and a critic" else ("", None)
        detail = f"− L1's {apart.mean():+.4f}, 95% {apart.mean() - error:+.4f} to {apart.mean() + error:+.4f}"
        rows.append(
            Row(
                f"{name}: distance of {JUDGED_BY}", float(plain.mean()), float(distance.mean()), None, goal, met, detail
            )
        )
    picked = list(range(6, len(outline), len(outline) // 12))[:12]
    columns = {"outline": outline.expand_as(wanted), "drawing": wanted, **made}
    sheet({name: list(bytes_of(images[picked])) for name, images in columns.items()}, RESULTS / "drawings.jpg")
    tell("drawings", "Drawings from their outlines", rows, [*notes, f"{len(outline)} held-out drawings."])


if __name__ == "__main__":
    main()
