"""Published likelihoods: variational and importance-weighted autoencoders on MNIST, by a bound with 5,000 draws.

    python benchmarks/likelihood.py [--minutes 90] [--threads 2] [--arms 12] [--processes 1] [--batch 100]

Published networks, pixels drawn black or white each time an image is shown, all 60,000 training images, 10,000 test
images. Each arm is one run. An interrupted command continues, and arms that are not requested keep their earlier row in
the table, so that it can be completed in several sessions. The peer is the published figure, which took hundreds or
thousands of epochs.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from common import KEPT, RESULTS, Row, arguments, console, fastest, mnist, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from ectype.analysis.results import evaluate
from ectype.runs.run_dir import RunDir
from ectype.training.run import train

DRAWS = 5000
ARMS: list[tuple[str, str, list[str], float]] = [
    ("VAE, one layer", "iwae", ["objective.samples=1"], 86.76),
    ("IWAE, one layer, k = 5", "iwae", ["objective.samples=5"], 85.54),
    ("VAE, two layers", "iwae-deep", ["objective.samples=1"], 85.33),
    ("IWAE, two layers, k = 50", "iwae-deep", ["objective.samples=50"], 82.90),
    ("MIWAE 8 × 8", "iwae", ["objective={kind: miwae, groups: 8, samples: 8}"], 84.97),
    ("PIWAE 8 × 8", "iwae", ["objective={kind: piwae, groups: 8, samples: 8}"], 84.46),
    ("CIWAE 64, β 0.5", "iwae", ["objective={kind: ciwae, samples: 64, mix: 0.5}"], 84.57),
]
"""Name, preset, overrides, and published nats: of Burda et al. 2016, table 1, and of Rainforth et al. 2018, table 1."""
MANY = 3
"""The first arm with so many draws that products are computed in bf16, if the processor has units for it."""
WORDS = ["split={val: 0.05, test: 0}", "optimizer.lr=0.001", "run.pictures=0", "monitor.images=2000"]
LATE = 0.2
"""Fraction of a run, at its end, over which its slope is computed."""


def images() -> dict[str, str]:
    """Return MNIST as arrays, training and test images separately."""
    found = {}
    for part in ("train", "t10k"):
        file = KEPT / f"mnist-{part}.npy"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, mnist(part)[:, 0])
        found[part] = str(file)
    return found


def slope(run: RunDir) -> float:
    """Return the nats by which the bound on validation images fell per tenth of the run, at its end."""
    _, checks = run.monitored_values()
    end = checks[-1][0]
    late = [(seen / end, value) for seen, value in checks if seen >= (1 - LATE) * end]
    x, y = np.array(late).T
    return float(np.polyfit(x, y, 1)[0] / 10) if len(late) > 2 else float("nan")


def before(quick: bool) -> dict[int, dict[str, Any]]:
    """Return the results of earlier sessions, by arm."""
    file = RESULTS / "likelihood.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"quick": True}
    return {} if quick or known["quick"] else {said["arm"]: said for said in known["arms"]}


def trial(given: tuple[int, float, int, int, int]) -> dict[str, Any]:
    """Train one arm, or continue it, and estimate its likelihood, on a GPU if there is one."""
    which, minutes, batch, threads, draws = given
    torch.set_num_threads(threads)
    name, preset, words, _ = ARMS[which]
    source = images()
    place = KEPT / "likelihood" / f"{name.replace(' ', '-')}-{batch}-{minutes:g}"
    limits = [f"batch={batch}", f"train.minutes={minutes:g}", f"run.threads={threads}"]
    precision = fastest() if which >= MANY else ["train.precision=fp32"]
    run = train(preset, source["train"], [*WORDS, *words, *precision, *limits], out=place, console=console)
    figure = evaluate(run, source["t10k"], likelihood=draws)["log_likelihood_iw"]
    assert figure.low is not None
    assert figure.high is not None
    said = run.summary()
    return {
        "arm": which,
        "nats": -figure.value,
        "low": -figure.high,
        "high": -figure.low,
        "slope": -slope(run),
        "epochs": said["seen"] / 57_000,
        "seconds": said["seconds"],
        "batch": batch,
        "threads": threads,
        "device": json.loads(run.environment_file.read_text())["device"],
    }


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__,
        minutes=(90.0, "of training for each"),
        threads=(2, "of torch"),
        arms=("12", f"of the {len(ARMS)}, by their indices"),
        processes=(1, "at a time"),
        batch=(100, "images in a batch"),
    )
    minutes, draws = (1.0, 100) if given.quick else (given.minutes, DRAWS)
    images()
    chosen = [which for which in range(len(ARMS)) if str(which + 1) in given.arms]
    work = [(which, minutes, given.batch, given.threads, draws) for which in chosen]
    found = before(given.quick) | {said["arm"]: said for said in side_by_side(trial, work, given.processes)}
    rows = []
    for which, said in sorted(found.items()):
        name, _, _, published = ARMS[which]
        detail = (
            f"95% {said['low']:.2f} to {said['high']:.2f}; {said['epochs']:.0f} epochs in {said['seconds'] / 60:.0f} "
            f"minutes of {said['threads']} thread(s) on {said['device']}, {said['batch']} images in a batch; at the "
            f"end it falls by {said['slope']:.3f} nats per tenth of the run"
        )
        rows.append(
            Row(f"{name}: nats", published, said["nats"], None, "≤ published", said["nats"] <= published, detail)
        )
    notes = [
        f"−log p of 10,000 test images, bound of {draws:,} draws, pixels drawn black or white once at evaluation.",
        "Trained on 57,000 images, 3,000 for validation; the selected weights are those with the best bound on these.",
        "Minutes are wall time on a busy machine; epochs say how far a run went.",
    ]
    arms = [said for _, said in sorted(found.items())]
    tell("likelihood", "Published likelihoods of MNIST", rows, notes, arms=arms, quick=given.quick)


if __name__ == "__main__":
    main()
