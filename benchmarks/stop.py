"""Is a GAN that stops by itself as good as one that continues?

One run, monitored as always, continues after the monitor would have stopped it, until three times as many images have
been shown. The distance of the weights that the stop would have selected is then compared with that of every checkpoint
of the whole run, on test images that no decision has used, with ten thousand samples or as many as there are test
images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import DATA, KEPT, Clock, Row, arguments, console, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from ectype.config.recipe import Recipe
from ectype.config.schema import MonitorConfig
from ectype.core.errors import Interrupted
from ectype.data.loader import Loader
from ectype.evaluation.features import ExtractorInputs, choose_extractors
from ectype.evaluation.metrics.frechet_kernel import frechet, moments
from ectype.evaluation.metrics.intervals import jackknife
from ectype.evaluation.monitor import Monitor
from ectype.evaluation.sample_monitor import SampleMonitor
from ectype.runs import checkpoint
from ectype.runs.load import open_data
from ectype.runs.run_dir import RunDir
from ectype.training.loop import Callback, Check
from ectype.training.run import resolve, train
from ectype.training.trainer import Trainer

BUDGET = 36_000_000
"""Images at which a run ends that has not reached three times its stop."""
FIXED = 12_000_000
"""Images that a user might choose to be safe; the saving of a stop is relative to it."""
JUDGED = 40
"""Number of checkpoints of a run that are evaluated afresh."""
NARROW = {"model.net.hidden": [64, 64], "objective.adversary.critic.hidden": [64, 64]}
"""Narrow, so that a run converges within minutes; wider ones keep improving for hours."""
CASES: dict[str, tuple[Path, dict[str, Any]]] = {
    "MNIST": (DATA / "mnist", {"train.ema_images": 500_000, **NARROW}),
    "emoji64 at 32 px": (DATA / "emoji64", {"data.size": 32, "monitor.features": "pixels", **NARROW}),
}


class GoesOn(Callback):
    """Records where a monitor with patience would have stopped, and stops at three times as many images."""

    def __init__(self, config: MonitorConfig, most: int) -> None:
        self.config, self.most = config, most
        self.stopped: Monitor | None = None

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        self.real = monitor
        self.shadow = dataclasses.replace(monitor, patience=self.config.patience, stretch=self.config.stretch)
        self.shadow.history, self.shadow.values = [], []

    def checked(self, trainer: Trainer, check: Check) -> None:
        if self.stopped is None:
            self.shadow.record(check.seen, check.values)
            if self.shadow.done:
                self.stopped = self.shadow
        elif check.seen >= min(self.most, 3 * self.stopped.history[-1][0]):
            raise Interrupted("as planned")


def recipe(preset: str, data: Path, changes: dict[str, Any], seed: int, every: int) -> Recipe:
    """Overrides of the whole run: every checkpoint is kept, and nothing stops it."""
    fixed = {
        "train.images": BUDGET,
        "train.seed": seed,
        "run.threads": 1,
        "run.pictures": 0,
        "run.keep_every": every,
        "monitor.every": every,
        "monitor.patience": None,
        "monitor.on_collapse": "warn",
    }
    if preset == "gan-mlp":
        fixed |= {
            "objective.adversary.loss": "relativistic",
            "objective.adversary.penalty": {"r1": 1.0, "r2": 1.0, "gradient": 0.0, "clip": None, "every": 4},
            "optimizer.lr": 2e-3,
            "train.ema_images": 100_000,
            "optimizer.betas": [0.0, 0.99],
            "train.batch": 64,
        }
    return resolve(preset, data, {**fixed, **changes})


def trial(given: tuple[str, str, int, int]) -> dict[str, Any]:
    """Train one run to its end and evaluate its checkpoints afresh; stored, so that the command continues."""
    preset, case, seed, every = given
    torch.set_num_threads(1)
    data, changes = CASES[case]
    found = recipe(preset, data, changes, seed, every)
    config = resolve(preset, data).monitor
    key = hashlib.sha256(repr((found.yaml(), config, JUDGED)).encode()).hexdigest()[:12]
    kept = KEPT / "stop" / f"{key}.json"
    if kept.is_file():  # a run takes half an hour
        return json.loads(kept.read_text())
    follow, clock = GoesOn(config, BUDGET), Clock()
    with TemporaryDirectory() as place:
        try:
            run = train(found, out=f"{place}/run", callbacks=[follow])
        except Interrupted:
            run = RunDir(f"{place}/run")
        took = clock.read().wall
        stopped = follow.stopped
        judged = judge_some(found, run, None if stopped is None else stopped.best_seen)
    if stopped is None:
        return {"case": case, "seed": seed, "stopped": None, "seconds": took, "judged": judged}
    shipped = next(entry for entry in judged if entry["seen"] == stopped.best_seen)
    best = min(judged, key=lambda entry: entry["distance"])
    result = {
        "case": case,
        "seed": seed,
        "stopped": stopped.history[-1][0],
        "reason": stopped.reason(),
        "shipped": shipped,
        "best": best,
        "ratio": shipped["distance"] / best["distance"],
        "until": judged[-1]["seen"],
        "seconds": took,
        "judged": judged,
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result))
    return result


def judge_some(found: Recipe, run: RunDir, shipped: int | None) -> list[dict[str, Any]]:
    """Return the distance on all test images of the selected checkpoint and of others, spread over the run.

    The selected and the best checkpoint get an interval, which takes forty distances.
    """
    prepared, store = open_data(found.data)
    cpu = torch.device("cpu")
    train, test = (Loader(store.split(part), found.data, cpu, training=False) for part in ("train", "test"))
    chosen = choose_extractors(
        found.monitor.features, ExtractorInputs(train, store.info, prepared.root), quick=True
    ).extractors
    watch = SampleMonitor(store.info, train, test, chosen[:1], images=10_000, seed=found.train.seed + 77)
    model = found.model.build(store.info)
    places = {checkpoint.load_state(place)["seen"]: place for place in checkpoint.checkpoint_dirs(run.checkpoints)}
    seen = [count for count in sorted(places) if count]
    some = {seen[i * len(seen) // JUDGED] for i in range(JUDGED)} | {seen[-1]} | ({shipped} - {None})
    judged: list[dict[str, Any]] = []
    made: dict[int, Tensor] = {}
    for count in sorted(some):
        model.load_state_dict(checkpoint.load_tensors(places[count] / "average.safetensors"))
        made[count] = watch.spaces[0].for_distance(watch.features(watch.draw(model))[0][: watch.num_samples])
        judged.append({"seen": count, "distance": frechet(watch.spaces[0].moments, moments(made[count]))})
    best = min(judged, key=lambda entry: entry["distance"])
    for entry in judged:
        if entry is best or entry["seen"] == shipped:
            sets = [watch.spaces[0].for_distance(watch.spaces[0].held_out), made[entry["seen"]]]
            entry["low"], entry["high"] = jackknife(lambda x, y: frechet(moments(x), moments(y)), sets)
    return judged


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__,
        seeds=(2, "of each"),
        first=(1, "seed"),
        processes=(2, "at a time"),
        every=(100_000, "images between checks"),
    )
    seeds = 1 if given.quick else given.seeds
    work = [("gan-mlp", case, seed, given.every) for case in CASES for seed in range(given.first, given.first + seeds)]
    runs = []
    for run in side_by_side(trial, work, given.processes):
        runs.append(run)
        console.print({key: value for key, value in run.items() if key != "judged"})
    rows = []
    for run in sorted(runs, key=lambda run: (run["case"], run["seed"])):
        what = f"{run['case']}, seed {run['seed']}: distance at the stop ÷ best of three times as long"
        if run["stopped"] is None:
            rows.append(Row(what, float("nan"), float("nan"), None, "≤ 1.05", False, "did not stop"))
            continue
        shipped, best = run["shipped"], run["best"]
        detail = (
            f"stopped at {run['stopped']:,} with the weights of {shipped['seen']:,}: {shipped['low']:.3g} to "
            f"{shipped['high']:.3g}; best at {best['seen']:,} of {run['until']:,}; "
            f"{1 - run['stopped'] / FIXED:.0%} of {FIXED:,} images saved"
        )
        ratio = run["ratio"]
        rows.append(Row(what, best["distance"], shipped["distance"], ratio, "≤ 1.05", ratio <= 1.05, detail))
    notes = [
        "gan-mlp with relativistic pairs, R1 and R2 (the program's advice), 64 units, learning rate 2e-3, one thread.",
        "Half-life of the average of the weights: 500,000 images on MNIST, 100,000 on emoji; the longer one was chosen "
        "by the distance to validation images.",
        "The best is the lowest of many noisy figures, which makes it look better than it is.",
    ]
    tell("stop", "Where the monitor stops, and what continuing would gain", rows, notes, runs=runs)


if __name__ == "__main__":
    main()
