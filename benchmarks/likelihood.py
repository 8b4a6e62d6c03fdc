"""A paper's table: variational and importance-weighted autoencoders on MNIST, by their bound of 5,000 draws.

    python benchmarks/likelihood.py [--minutes 90] [--threads 2] [--only 2]

Published networks, pixels drawn black or white at each showing, all 60,000 training images, 10,000 test images. Each
arm is one run; a command that is cut off goes on, so that a table can be made in several sittings. What stands beside
is the published figure, which took hundreds or thousands of epochs.
"""

from __future__ import annotations

import os

import numpy as np

from common import KEPT, Row, arguments, console, mnist, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import ectype
from ectype.results import evaluate
from ectype.training.rundir import RunDir

DRAWS = 5000
ARMS: list[tuple[str, str, list[str], float]] = [
    ("VAE, one layer", "iwae", ["objective.samples=1"], 86.76),
    ("IWAE, one layer, k = 5", "iwae", ["objective.samples=5"], 85.54),
    ("VAE, two layers", "iwae-deep", ["objective.samples=1"], 85.33),
    ("MIWAE 8 × 8", "iwae", ["objective={kind: miwae, groups: 8, samples: 8}"], 84.97),
    ("PIWAE 8 × 8", "iwae", ["objective={kind: piwae, groups: 8, samples: 8}"], 84.46),
    ("CIWAE 64, β 0.5", "iwae", ["objective={kind: ciwae, samples: 64, mix: 0.5}"], 84.57),
]
"""Name, preset, words, and published nats: of Burda et al. 2016, table 1, and of Rainforth et al. 2018, table 1."""
WORDS = ["split={val: 0.05, test: 0}", "optimizer.lr=0.001", "batch=100", "run.pictures=0", "monitor.images=2000"]
LATE = 0.2
"""Share of a run, at its end, over which its slope is taken."""


def images() -> dict[str, str]:
    """MNIST as arrays, training and test images apart."""
    found = {}
    for part in ("train", "t10k"):
        file = KEPT / f"mnist-{part}.npy"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, mnist(part)[:, 0])
        found[part] = str(file)
    return found


def slope(run: RunDir) -> float:
    """Nats that the bound on validation images fell by, per tenth of the run, at its end."""
    checks = [line for line in run.metrics() if line["kind"] == "check"]
    end = checks[-1]["seen"]
    key = next(name for name in checks[-1] if name.startswith("−log p"))
    late = [(line["seen"] / end, line[key]) for line in checks if line["seen"] >= (1 - LATE) * end]
    x, y = np.array(late).T
    return float(np.polyfit(x, y, 1)[0] / 10) if len(late) > 2 else float("nan")


def main() -> None:
    """Measure and tell."""
    given = arguments(
        __doc__, minutes=(90, "of training, each"), threads=(2, "of torch"), only=(2, "of the arms, from the first")
    )
    torch.set_num_threads(given.threads)
    budget = 1 if given.quick else given.minutes
    draws = 100 if given.quick else DRAWS
    source, rows = images(), []
    for name, preset, words, published in ARMS[: given.only]:
        place = KEPT / "likelihood" / f"{name.replace(' ', '-')}-{budget}"
        limits = [f"train.minutes={budget}", f"run.threads={given.threads}"]
        run = ectype.train(preset, source["train"], [*WORDS, *words, *limits], out=place, console=console)
        figure = evaluate(run, source["t10k"], device="cpu", likelihood=draws)[
            f"log-likelihood, importance-weighted, k = {draws}"
        ]
        said = run.summary()
        assert figure.low is not None
        assert figure.high is not None
        detail = (
            f"95% {-figure.high:.2f} to {-figure.low:.2f}; {said['seen'] / 57_000:.0f} epochs in "
            f"{said['seconds'] / 60:.0f} minutes; at the end it falls by {-slope(run):.3f} nats per tenth of the run"
        )
        met = -figure.value <= published
        rows.append(Row(f"{name}: nats", published, -figure.value, None, "≤ published", met, detail))
    notes = [
        f"−log p of 10,000 test images, bound of {draws:,} draws, pixels drawn black or white once at evaluation.",
        "Trained on 57,000 images, 3,000 follow; the weights shipped are those with the best bound on these.",
    ]
    tell("likelihood", "Published likelihoods of MNIST", rows, notes)


if __name__ == "__main__":
    main()
