"""A few hundred images: does a GAN copy them, does augmentation help, where does it stop?

500 and 1,000 emoji at 32 px, the same number of images for each class as the whole has, a tenth held out to watch by.
Judged on emoji that are in neither, which no user of so few images would have.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import Any

from common import KEPT, Clock, Row, arguments, console, emoji, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import ectype
from ectype.data.feed import Feed
from ectype.measure.features import PixelFeatures
from ectype.measure.verdict import judge
from ectype.measure.watching import SampleWatch
from ectype.results import open_data

SIDE = 32
AUGMENT = "{policy: [flip, translation, colour, cutout], probability: 1.0}"


def trial(given: tuple[int, bool, int]) -> dict[str, Any]:
    """One run: where it stopped, what it said, and what is true of its samples."""
    n, augmented, minutes = given
    torch.set_num_threads(1)
    words = [f"train.minutes={minutes}", "run.threads=1", "run.pictures=0", "monitor.features=pixels"]
    words += [f"objective.adversary.augment={AUGMENT}"] if augmented else []
    clock = Clock()
    with TemporaryDirectory() as place:
        run = ectype.train("gan", emoji(0, n, SIDE), words, out=f"{place}/run")
        said, model = run.summary(), ectype.load(run.path, device="cpu")
        checks = [line for line in run.metrics() if line["kind"] == "check"]
        config = run.recipe.data
    fresh = open_data(
        run.recipe.override(
            {"data.source": str(emoji(2000, 1500, SIDE)), "data.split.val": 0, "data.split.test": 0}
        ).data
    )[1]
    cpu = torch.device("cpu")
    store = open_data(config)[1]
    train = Feed(store.split("train"), config, cpu, training=False)
    watch = SampleWatch(
        store.info,
        train,
        Feed(fresh.split("train"), config, cpu, training=False),
        [PixelFeatures(train, store.info)],
        images=2000,
    )
    found = watch(model)
    verdict = judge(found, watch.reference)
    keys = ("FD-pixels", "recall", "coverage", "authenticity", "closer to training images", "copied, z")
    return {
        "images": n,
        "augmented": augmented,
        "state": said["state"],
        "reason": said["reason"],
        "seen": said["seen"],
        "verdicts": [line["verdict"] for line in checks],
        "afresh": verdict.name,
        **{key: found[key] for key in keys},
        "floor": watch.floor,
        "seconds": clock.read().wall,
    }


def main() -> None:
    """Measure and tell."""
    given = arguments(__doc__, minutes=(12, "of training at most"), processes=(2, "at a time"))
    minutes = 1 if given.quick else given.minutes
    work = [(n, augmented, minutes) for n in (1000, 500) for augmented in (False, True)]
    runs = []
    for run in side_by_side(trial, work, given.processes):
        runs.append(run)
        console.print(run)
    rows = []
    for run in sorted(runs, key=lambda run: (run["images"], run["augmented"])):
        what = (
            f"{run['images']:,} emoji, {'critic sees them changed' if run['augmented'] else 'as they are'}: FD-pixels"
        )
        detail = (
            f"{run['state']} at {run['seen']:,} images; last verdict {run['verdicts'][-1]}, afresh {run['afresh']}; "
            f"authenticity {run['authenticity']:.2f}, copied z {run['copied, z']:.1f}, coverage {run['coverage']:.2f}"
        )
        rows.append(Row(what, run["floor"], run["FD-pixels"], run["FD-pixels"] / run["floor"], detail=detail))
    notes = [
        f"Peer: real emoji against other real emoji. Preset gan at {SIDE} px, one thread; augmentation: {AUGMENT}."
    ]
    tell("small_data", "A few hundred images", rows, notes, runs=runs)


if __name__ == "__main__":
    main()
