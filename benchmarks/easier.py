"""Does an equivariance term make a latent map easier to generate?

    python benchmarks/easier.py [--seeds 5] [--minutes 1.5] [--processes 2]

Autoencoders of emoji at 32 px with maps of 4×8×8 as code, trained equally long with and without `equivariance.weight`,
then a flow on the codes of each, equally long. The measure is the distance of its samples from test images, compared
with that of the autoencoder's reconstructions, which the term may degrade.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from common import KEPT, Row, arguments, console, emoji, once, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from scipy import stats

from ectype.analysis.results import evaluate
from ectype.training.run import train

WEIGHTS = (0.0, 0.5)
FEATURES = ["monitor.features=pixels", "run.threads=1", "run.pictures=0", "monitor.patience=null"]


def trial(given: tuple[int, float, float]) -> dict[str, Any]:
    """Train an autoencoder and a flow on its codes."""
    seed, weight, minutes = given
    torch.set_num_threads(1)
    shared = [*FEATURES, f"train.minutes={minutes}", f"train.seed={seed}", "run.micro_batch=null"]
    words = [*shared, "model.net.latent=[4, 8, 8]", "width=16", "train.batch=64", f"equivariance.weight={weight}"]

    def find() -> dict[str, Any]:
        with TemporaryDirectory() as place:
            coder = train("ae", emoji(0, 3000, 32), [*words, "prior=none"], out=f"{place}/coder")
            flow = train("flow", coder.path, [*shared, "model.inner.net.width=32"], out=f"{place}/flow")
            seen = [run.summary()["seen"] for run in (coder, flow)]
            psnr, found = (evaluate(coder, device="cpu")["psnr"], evaluate(flow, device="cpu"))
            distance = found["fd_pixels"]
        return {
            "distance": distance.value,
            "floor": distance.baselines["real_images"],
            "seen": seen,
            "PSNR": psnr.value,
            "reconstructions": distance.baselines["reconstructions"],
        }

    return {"seed": seed, "weight": weight, **once("easier", words, find)}


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__, seeds=(5, "of each"), minutes=(1.5, "of training, for each of both"), processes=(2, "at a time")
    )
    seeds, minutes = (2, 0.3) if given.quick else (given.seeds, given.minutes)
    work = [(seed, weight, minutes) for seed in range(seeds) for weight in WEIGHTS]
    runs = []
    for run in side_by_side(trial, work, given.processes):
        runs.append(run)
        console.print(run)
    runs.sort(key=lambda run: (run["seed"], run["weight"]))
    rows = []
    for key, better in (("distance", "lower"), ("reconstructions", "lower"), ("PSNR", "higher")):
        plain, with_term = (np.array([run[key] for run in runs if run["weight"] == weight]) for weight in WEIGHTS)
        apart = with_term - plain
        mean, half = (float(apart.mean()), float(stats.t.ppf(0.975, seeds - 1) * apart.std(ddof=1) / seeds**0.5))
        detail = f"difference of pairs {mean:+.4g}, 95% {mean - half:+.4g} to {mean + half:+.4g}"
        goal = "lower, interval below 0" if key == "distance" else ""
        met = bool(mean + half < 0) if key == "distance" else None
        what = {"distance": "distance of a flow's samples", "reconstructions": "distance of reconstructions"}.get(
            key, "PSNR of reconstructions"
        )
        ratio = float(with_term.mean() / plain.mean())
        rows.append(Row(f"{what} ({better} is better)", plain.mean(), with_term.mean(), ratio, goal, met, detail))
    notes = [
        f"FD-pixels; real against real {np.mean([run['floor'] for run in runs]):.3g}; {seeds} seeds, Student's "
        "intervals.",
        f"Peer: no term; ours: equivariance.weight={WEIGHTS[1]:g}; {minutes:g} minutes for the autoencoder and for the "
        "flow, one thread each.",
    ]
    tell("easier", "A latent that is easier to generate", rows, notes, runs=runs)


if __name__ == "__main__":
    main()
