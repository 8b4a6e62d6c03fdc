"""Grey and white matter in brain slices with uneven brightness: `unet-segment` in a quarter of an hour.

    python benchmarks/brain.py [--minutes 15] [--threads 2]

The slices have a bias field, random contrast and noise. The baseline is a table from intensity to class, fitted on all
training slices. Test slices are a slab that is separate from the training slices; settings were chosen on a slab of the
training slices. The same masks in other encodings must be read as the same classes.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from common import DATA, KEPT, Clock, Row, arguments, console, fastest, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from PIL import Image

import ectype
from ectype.config.recipe import Recipe
from ectype.config.schema import DataConfig
from ectype.data.loader import Loader
from ectype.evaluation.metrics.segmentation import bootstrap_interval, confusion_matrices, dice
from ectype.models.base import evaluating
from ectype.models.translator import Segmenter
from ectype.runs.load import open_data
from ectype.training.run import train

GOAL = 0.91
WORDS = [
    "split={by: contiguous, val: 0.15}",
    "class_names=[background, grey matter, white matter]",
    "width=32",
    "levels=3",
    "fold=2",
    "batch=8",
    "optimizer.lr=0.003",
    "channels_last=true",
    "augment={flip: true, shift: 0.1, crop: 0.2, colour: 0.4}",
    "train.ema_images=400",
    "monitor.patience=null",
    "run.pictures=0",
]
"""Overrides of `unet-segment`."""


def split(recipe: Recipe, name: Literal["train", "val", "test"]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and masks of a split, not augmented."""
    _, store = open_data(recipe.data)
    images = store.split(name)
    pixels, target = images.separate_target(images.gather(torch.arange(len(images))))
    assert target is not None
    return pixels.float() / 255, target[:, 0].long()


def table(train: tuple[torch.Tensor, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """Return the most frequent class of each intensity."""
    counts = torch.zeros(256, 3)
    level = (train[0][:, 0] * 255).round().long()
    counts.view(-1).scatter_add_(0, (level * 3 + train[1]).flatten(), torch.ones(level.numel()))
    return counts.argmax(1)[(image[:, 0] * 255).round().long()]


def variants() -> list[tuple[str, bool]]:
    """Check whether masks written as a palette, as 0, 128, 255, and in colors are read as the same classes."""
    plain = DataConfig(source=str(DATA / "brain"), pairs="masks", size="own")
    feed = Loader(open_data(plain)[1].split("test"), plain, torch.device("cpu"), training=False)
    pixels = feed.images.gather(torch.arange(len(feed)))
    colours = np.array([[0, 0, 0], [80, 180, 230], [230, 160, 30]], np.uint8)  # in the order of the class indices
    found = []
    for name in ("palette", "0, 128 and 255", "colours"):
        with TemporaryDirectory() as place:
            for side in ("train", "test"):
                (Path(place) / side / "masks").mkdir(parents=True)
                (Path(place) / side / "images").symlink_to(DATA / "brain" / side / "images")
                for file in (DATA / "brain" / side / "masks").iterdir():
                    mask = np.asarray(Image.open(file))
                    if name == "palette":
                        written = Image.fromarray(mask)
                        written.putpalette(colours.flatten().tolist())
                    else:
                        written = Image.fromarray(
                            (np.array([0, 128, 255], np.uint8) if "128" in name else colours)[mask]
                        )
                    written.save(Path(place) / side / "masks" / file.name)
            config = plain.model_copy(update={"source": place})
            images = open_data(config)[1].split("test")
            found.append((name, torch.equal(images.gather(torch.arange(len(images))), pixels)))
    return found


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, minutes=(15, "of training"), threads=(2, "of torch"), seed=(0, "of the run"))
    torch.set_num_threads(given.threads)
    budget = 1 if given.quick else given.minutes
    words = [*WORDS, *fastest(), f"train.minutes={budget}", f"train.seed={given.seed}", f"run.threads={given.threads}"]
    clock = Clock()
    place = KEPT / "brain" / f"{budget}-{given.seed}"
    run = train("unet-segment", DATA / "brain", words, out=place, console=console)
    took = clock.read()
    model, recipe = ectype.load(run.path, device="cpu"), run.recipe
    assert isinstance(model, Segmenter)
    training, rows, raw = split(recipe, "train"), [], {}
    sides: tuple[Literal["val", "test"], ...] = ("val", "test")
    for name in sides:
        image, right = split(recipe, name)
        with evaluating(model):
            whole = [model.translate(part) for part in image.split(8)]
            mirrored = [model.translate(part.flip(3)).flip(3) for part in image.split(8)]
        chance, other = torch.cat(whole), torch.cat(mirrored)
        masks = {"": chance.argmax(1), ", mirror images averaged": (chance + other).argmax(1)}
        by_intensity = dice(confusion_matrices(table(training, image), right, 3).sum(0))
        for how, found in masks.items():
            counts = confusion_matrices(found, right, 3)
            each = dice(counts.sum(0))

            def matter(summed: torch.Tensor) -> float:
                return float(dice(summed)[1:].mean())

            low, high = bootstrap_interval(matter, counts)
            detail = f"grey {each[1]:.3f}, white {each[2]:.3f}; 95% {low:.3f} to {high:.3f}, {len(image)} slices"
            asked = name == "test" and not how
            goal, met = (f"≥ {GOAL}", matter(counts.sum(0)) >= GOAL) if asked else ("", None)
            what = f"{'test' if name == 'test' else 'validation'} slab: mean Dice of grey and white matter{how}"
            rows.append(Row(what, float(by_intensity[1:].mean()), matter(counts.sum(0)), None, goal, met, detail))
        raw[name] = {"intensity": by_intensity.tolist()}
    for name, same in variants():
        rows.append(Row(f"masks written as {name}: the same pixels", 1, float(same), None, "equal", same))
    notes = [
        f"{run.summary()['seen']:,} slices shown in {took.wall / 60:.1f} minutes, {took.cpu / 60:.1f} CPU minutes.",
        "Peer of Dice: a table from 256 intensities to classes, fitted on the training slices.",
        "Dice over all pixels of a slab; intervals by drawing slices, of which neighbors are similar.",
    ]
    tell("brain", "Grey and white matter", rows, notes, **raw)


if __name__ == "__main__":
    main()
