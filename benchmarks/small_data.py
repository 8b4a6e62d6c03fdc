"""A few hundred images: does a GAN copy them, does augmentation help, where does it stop?

500 and 1,000 emoji at 32 px, with the class frequencies of all emoji, a tenth held out for monitoring. Evaluated on
emoji that are in neither set, which a user with so few images would not have.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import Any

from common import KEPT, RESULTS, Clock, Row, arguments, console, emoji, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import ectype
from ectype.data.loader import Loader
from ectype.evaluation.features import PixelFeatures
from ectype.evaluation.sample_monitor import SampleMonitor
from ectype.evaluation.verdict import decide_verdict
from ectype.models.base import Samples, evaluating
from ectype.runs.load import open_data
from ectype.training.run import train
from photos import bytes_of, sheet

SIDE, SHOWN = 32, 16
WORDS = ["net.width=16", "critic.width=16", "run.threads=1", "run.pictures=0", "monitor.features=pixels"]
"""Overrides of `gan`: narrow, so that hundreds of epochs fit into minutes."""
ARMS = {
    "as they are": "{policy: []}",
    "changed as far as it takes": "{policy: [flip, translation, colour, cutout], probability: adaptive}",
    "always changed": "{policy: [flip, translation, colour, cutout], probability: 1.0}",
}
"""Augmentation of what the critic sees."""


def trial(given: tuple[int, str, int]) -> dict[str, Any]:
    """Train one run; return where it stopped, its verdicts, and figures of its samples on unseen images."""
    n, arm, minutes = given
    torch.set_num_threads(1)
    words = [*WORDS, f"train.minutes={minutes}", f"objective.adversary.augment={ARMS[arm]}"]
    clock = Clock()
    with TemporaryDirectory() as place:
        run = train("gan", emoji(0, n, SIDE), words, out=f"{place}/run")
        said, model = run.summary(), ectype.load(run.path, device="cpu")
        checks = [line for line in run.metrics() if line["kind"] == "check"]
        recipe = run.recipe
    fresh = open_data(
        recipe.override({"data.source": str(emoji(2000, 1500, SIDE)), "data.split.val": 0, "data.split.test": 0}).data
    )[1]
    cpu = torch.device("cpu")
    config, store = recipe.data, open_data(recipe.data)[1]
    training = Loader(store.split("train"), config, cpu, training=False)
    watch = SampleMonitor(
        store.info,
        training,
        Loader(fresh.split("train"), config, cpu, training=False),
        [PixelFeatures(training, store.info)],
        images=2000,
    )
    found = watch(model)
    verdict = decide_verdict(found, watch.reference)
    assert isinstance(model, Samples)
    with evaluating(model):
        drawn = model.sample(SHOWN, generator=torch.Generator().manual_seed(0))
    keys = ("fd_pixels", "recall", "coverage", "authenticity", "closer_to_training", "membership_z")
    return {
        "images": n,
        "arm": arm,
        "state": said["state"],
        "reason": said["reason"],
        "seen": said["seen"],
        "verdicts": [line["verdict"] for line in checks],
        "afresh": verdict.name,
        **{key: found[key] for key in keys},
        "floor": watch.floor,
        "seconds": clock.read().wall,
        "samples": bytes_of(drawn),
    }


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, minutes=(9, "of training at most"), processes=(2, "at a time"))
    minutes = 1 if given.quick else given.minutes
    work = [(n, arm, minutes) for n in (1000, 500) for arm in ARMS]
    runs = []
    for run in side_by_side(trial, work, given.processes):
        runs.append(run)
        console.print({key: value for key, value in run.items() if key != "samples"})
    runs.sort(key=lambda run: (run["images"], list(ARMS).index(run["arm"])))
    names = [f"{run['images']:,} emoji, {run['arm']}" for run in runs]
    sheet({name: list(run.pop("samples")) for name, run in zip(names, runs, strict=True)}, RESULTS / "small_data.png")
    rows = []
    for name, run in zip(names, runs, strict=True):
        detail = (
            f"{run['state']} at {run['seen']:,} images; last verdict {run['verdicts'][-1]}, afresh {run['afresh']}; "
            f"authenticity {run['authenticity']:.2f}, membership z {run['membership_z']:.1f}, "
            f"coverage {run['coverage']:.2f}"
        )
        rows.append(
            Row(f"{name}: FD-pixels", run["floor"], run["fd_pixels"], run["fd_pixels"] / run["floor"], detail=detail)
        )
    notes = [
        f"Peer: real emoji against other real emoji. Preset gan at {SIDE} px, {' '.join(WORDS[:2])}, one thread.",
        *(f"{arm}: {augment}" for arm, augment in ARMS.items()),
    ]
    tell("small_data", "A few hundred images", rows, notes, runs=runs)


if __name__ == "__main__":
    main()
