"""Autoencoder or U-Net for restoring? `dae` and `unet-denoise` on the same noise, images and minutes.

    python benchmarks/restoring.py [--minutes 3] [--processes 2]

Emoji at 64 px with noise of deviation 0.2; trained on 250, 1,000 and 3,000 images. The autoencoder with a vector and
with a map as code, the U-Net with its skips and without: what is between them is what skips carry.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from common import KEPT, Clock, Row, arguments, console, emoji, fastest, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import ectype
from ectype.measure.cost import flop
from ectype.measure.reconstruction import closeness, interval
from ectype.models.autoencoder import Autoencoder
from ectype.models.base import evaluating
from ectype.models.translator import Restorer

SIDE, SIGMA = 64, 0.2
COUNTS = (250, 1000, 3000)
SHARED = [
    f"size={SIDE}",
    "channels_last=true",
    "train.batch=32",
    "monitor.patience=null",
    "run.threads=1",
    "run.pictures=0",
    "split.test=0",
]
NOISE = f"{{kind: gaussian, sigma: {SIGMA}}}"
ARMS: dict[str, tuple[str, list[str]]] = {
    "dae, a vector of 64": ("dae", [f"corruption={NOISE}", "latent_dim=64"]),
    "dae, a map of 16×16×16": ("dae", [f"corruption={NOISE}", "latent=[16, 16, 16]"]),
    "unet without skips": ("unet-denoise", [f"degrade={{noise: {SIGMA}}}", "width=16", "skip=none", "residual=false"]),
    "unet": ("unet-denoise", [f"degrade={{noise: {SIGMA}}}", "width=16"]),
}


def trial(given: tuple[str, int, int]) -> dict[str, Any]:
    """One run, judged on images that no run has seen."""
    name, count, minutes = given
    torch.set_num_threads(1)
    preset, words = ARMS[name]
    clock = Clock()
    with TemporaryDirectory() as place:
        run = ectype.train(
            preset, emoji(0, count, SIDE), [*SHARED, *fastest(), *words, f"train.minutes={minutes}"], out=f"{place}/run"
        )
        model, seen = ectype.load(run.path, device="cpu"), run.summary()["seen"]
    real = torch.from_numpy(np.load(emoji(3000, 700, SIDE))).permute(0, 3, 1, 2).float() / 255
    spoiled = real + SIGMA * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    assert isinstance(model, Autoencoder | Restorer)
    restore = model.translate if isinstance(model, Restorer) else model.reconstruct
    with evaluating(model):
        made = torch.cat([restore(part) for part in spoiled.split(50)]).clamp(0, 1)
    near, before = closeness(made, real), closeness(spoiled.clamp(0, 1), real)
    low, high = interval(near.psnr)
    cost = flop(model)
    return {
        "arm": name,
        "images": count,
        "seen": seen,
        "psnr": float(near.psnr.mean()),
        "low": low,
        "high": high,
        "ssim": float(near.ssim.mean()),
        "before": float(before.psnr.mean()),
        "gflop": None if cost is None else cost[1] / 1e9,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": clock.read().wall,
    }


def main() -> None:
    """Measure and tell."""
    given = arguments(__doc__, minutes=(3, "of training for each run"), processes=(2, "at a time"))
    minutes = 1 if given.quick else given.minutes
    work = [(name, count, minutes) for count in COUNTS for name in ARMS]
    runs = []
    for run in side_by_side(trial, work, given.processes):
        runs.append(run)
        console.print(run)
    rows = []
    for run in sorted(runs, key=lambda run: (run["images"], list(ARMS).index(run["arm"]))):
        cost = f"{run['gflop']:.2f} GFLOP, " if run["gflop"] is not None else ""
        detail = (
            f"95% {run['low']:.2f} to {run['high']:.2f}; SSIM {run['ssim']:.3f}; {cost}{run['parameters']:,} "
            f"parameters, {run['seen']:,} images shown"
        )
        what = f"{run['images']:,} images, {run['arm']}: PSNR"
        rows.append(Row(what, run["before"], run["psnr"], None, detail=detail))
    notes = [
        f"{minutes} minutes each on one thread, noise {SIGMA}, emoji at {SIDE} px; peer: the spoiled image, clipped.",
        "700 held-out emoji; runs of one seed. A U-Net cannot be sampled and has no code to look at: only restoring is "
        "compared.",
    ]
    tell("restoring", "Autoencoder or U-Net, for restoring", rows, notes, runs=runs)


if __name__ == "__main__":
    main()
