"""Does the advice against mode collapse work?

`gan-mlp` on MNIST at 16 px with Adam's defaults in PyTorch (learning rate 1e-3, β 0.9 and 0.999), which a fully
connected GAN cannot tolerate, and again with the first override that the program advises after a collapse, applied as
printed. A run has collapsed when its own verdict says so in two consecutive checks, which stops it. As an independent
measure, the coverage of test images is reported as well.
"""

from __future__ import annotations

import os
import shlex
from tempfile import TemporaryDirectory
from typing import Any

from common import DATA, KEPT, Clock, Row, arguments, console, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import ectype
from ectype.analysis.diagnose.advice import advice_for_verdict
from ectype.data.loader import Loader
from ectype.evaluation.features import ExtractorInputs, choose_extractors
from ectype.evaluation.metrics.intervals import wilson_interval
from ectype.evaluation.sample_monitor import SampleMonitor
from ectype.runs.load import open_data
from ectype.runs.run_dir import RunDir
from ectype.training.run import resolve, train

IMAGES = 400_000
SETTING = {
    "data.size": 16,
    "optimizer.lr": 1e-3,
    "optimizer.betas": [0.9, 0.999],
    "train.batch": 64,
    "train.images": IMAGES,
    "monitor.every": 40_000,
    "monitor.images": 1000,
    "run.pictures": 0,
}
"""Settings that collapse; everything else is the preset's."""


def printed() -> str:
    """Return the first advice as it is printed."""
    return advice_for_verdict(resolve("gan-mlp", DATA / "mnist", SETTING), "collapsed")[0].as_arguments()


def trial(given: tuple[str, int]) -> dict[str, Any]:
    """Train one run; return how it ended, and figures of its samples on test images."""
    words, seed = given
    torch.set_num_threads(1)
    clock = Clock()
    recipe = resolve("gan-mlp", DATA / "mnist", {**SETTING, "train.seed": seed})
    with TemporaryDirectory() as place:
        run = train(recipe, None, shlex.split(words), out=f"{place}/run")
        said, found = run.summary(), judged(run)
    names = ("fd_classifier", "coverage", "recall", "coverage_pixels", "recall_pixels")
    return {
        "advice": words,
        "seed": seed,
        "state": said["state"],
        "seen": said["seen"],
        **{name: found[name] for name in names},
        "seconds": clock.read().wall,
    }


def judged(run: RunDir) -> dict[str, float]:
    """Return indicators of the selected weights on test images, which no decision has used."""
    config = run.recipe.data
    prepared, store = open_data(config)
    train, test = (Loader(store.split(name), config, torch.device("cpu"), training=False) for name in ("train", "test"))
    extractors = choose_extractors("auto", ExtractorInputs(train, store.info, prepared.root), quick=True).extractors
    return SampleMonitor(store.info, train, test, extractors, images=2000, seed=77)(ectype.load(run.path, device="cpu"))


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, seeds=(10, "of each"), processes=(2, "at a time"))
    seeds = 2 if given.quick else given.seeds
    words = printed()
    console.print(f"advised: {words}")
    work = [(advice, seed) for seed in range(seeds) for advice in ("", words)]
    runs = []
    for run in side_by_side(trial, work, given.processes):
        runs.append(run)
        console.print({key: value for key, value in run.items() if key != "advice"}, "advised" if run["advice"] else "")
    rows, shares = [], []
    for name, advice in (("as it is", ""), ("as advised", words)):
        these = [run for run in runs if run["advice"] == advice]
        hits = sum(run["state"] == "collapsed" for run in these)
        low, high = wilson_interval(hits / len(these), len(these))
        shares.append((low, high))
        coverage = sorted(run["coverage"] for run in these)
        reach = f"coverage {coverage[0]:.2f} to {coverage[-1]:.2f}"
        detail = f"{hits} of {len(these)}, 95% interval {low:.0%} to {high:.0%}; {reach}"
        goal = "most collapse" if not advice else "intervals do not overlap"
        met = hits > len(these) / 2 if not advice else high < shares[0][0]
        rows.append(Row(f"gan-mlp {name}: collapsed", float("nan"), hits / len(these), None, goal, met, detail))
    notes = [
        f"Advice, applied as printed: {words}",
        f"MNIST at 16 px, {IMAGES:,} images at most, a check every 40,000 with 1,000 samples. Both: "
        "optimizer.lr=1e-3, optimizer.betas=[0.9, 0.999] unless advised otherwise, train.batch=64.",
    ]
    tell("cure", "Collapse, before and after the advice", rows, notes, runs=runs)


if __name__ == "__main__":
    main()
