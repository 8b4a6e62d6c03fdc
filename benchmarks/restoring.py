"""Autoencoder or U-Net for restoration? `dae` and `unet-denoise` with the same noise, images and minutes.

    python benchmarks/restoring.py [--minutes 3] [--processes 2]

Emoji at 64 px with noise of standard deviation 0.2; trained on 250, 1,000 and 3,000 images equally long, and on 1,000
for a third of that. The autoencoder has a vector or a map as code, the U-Net has skip connections or none: the
difference is what skip connections contribute. Finished runs are kept; a picture and a chart show the results.
"""

from __future__ import annotations

import json
import os
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from common import KEPT, RESULTS, Clock, Row, arguments, console, emoji, fastest, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import ectype
from drawing import Panel, charts
from ectype.evaluation.metrics.image_errors import image_errors
from ectype.evaluation.metrics.intervals import mean_interval
from ectype.models.autoencoder import Autoencoder
from ectype.models.base import evaluating
from ectype.models.flop import count_flops
from ectype.models.translator import Restorer
from ectype.training.run import train
from photos import bytes_of, sheet

SIDE, SIGMA = 64, 0.2
COUNTS, MIDDLE, SHOWN = (250, 1000, 3000), 1000, 8
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


def trial(given: tuple[str, int, float]) -> dict[str, Any]:
    """Evaluate one run on images that no run was trained on; trained now or before."""
    name, count, minutes = given
    kept = KEPT / "restoring" / f"{name.replace(' ', '-')}-{count}-{minutes:g}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    preset, words = ARMS[name]
    clock = Clock()
    with TemporaryDirectory() as place:
        run = train(
            preset, emoji(0, count, SIDE), [*SHARED, *fastest(), *words, f"train.minutes={minutes}"], out=f"{place}/run"
        )
        model, seen = ectype.load(run.path, device="cpu"), run.summary()["seen"]
    real = torch.from_numpy(np.load(emoji(3000, 700, SIDE))).permute(0, 3, 1, 2).float() / 255
    spoiled = real + SIGMA * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    assert isinstance(model, Autoencoder | Restorer)
    restore = model.translate if isinstance(model, Restorer) else model.reconstruct
    with evaluating(model):
        made = torch.cat([restore(part) for part in spoiled.split(50)]).clamp(0, 1)
    near, before = image_errors(made, real), image_errors(spoiled.clamp(0, 1), real)
    low, high = mean_interval(near.psnr)
    cost = count_flops(model)
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept.with_suffix(".npy"), bytes_of(made[:: len(made) // SHOWN][:SHOWN]))
    said = {
        "arm": name,
        "images": count,
        "minutes": minutes,
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
    kept.write_text(json.dumps(said), encoding="utf-8")
    return said


def pictures(minutes: float) -> None:
    """Draw held-out emoji with noise, and the result of each arm that was trained on equally many images."""
    real = torch.from_numpy(np.load(emoji(3000, 700, SIDE))).permute(0, 3, 1, 2).float() / 255
    spoiled = real + SIGMA * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    some = slice(None, None, len(real) // SHOWN)
    columns = {"emoji": list(bytes_of(real[some][:SHOWN])), "spoiled": list(bytes_of(spoiled[some][:SHOWN]))}
    for name in ARMS:
        file = KEPT / "restoring" / f"{name.replace(' ', '-')}-{MIDDLE}-{minutes:g}.npy"
        if file.is_file():
            columns[name] = list(np.load(file))
    sheet(columns, RESULTS / "restoring.png")


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, minutes=(3, "of training for each run"), processes=(2, "at a time"))
    minutes = 1 if given.quick else given.minutes
    work = [(name, count, float(minutes)) for count in COUNTS for name in ARMS]
    work += [(name, MIDDLE, round(minutes / 3, 2)) for name in ARMS]
    runs = []
    for run in side_by_side(trial, work, given.processes):
        runs.append(run)
        console.print(run)
    rows = []
    for run in sorted(runs, key=lambda run: (run["minutes"], run["images"], list(ARMS).index(run["arm"]))):
        cost = f"{run['gflop']:.2f} GFLOP, " if run["gflop"] is not None else ""
        detail = (
            f"95% {run['low']:.2f} to {run['high']:.2f}; SSIM {run['ssim']:.3f}; {cost}{run['parameters']:,} "
            f"parameters, {run['seen']:,} images shown"
        )
        what = f"{run['images']:,} images, {run['minutes']:g} minutes, {run['arm']}: PSNR"
        rows.append(Row(what, run["before"], run["psnr"], None, detail=detail))
    charts([by_images(runs, minutes), by_compute(runs)], RESULTS / "restoring.svg")
    pictures(round(minutes / 3, 2))
    notes = [
        f"On one thread, noise {SIGMA}, emoji at {SIDE} px; peer: the noisy image, clipped.",
        "700 held-out emoji; runs of one seed: intervals are over images. A U-Net cannot be sampled and has no code: "
        "only restoration is compared.",
        *sentences(runs, minutes),
    ]
    tell("restoring", "Autoencoder or U-Net for restoration", rows, notes, runs=runs)


def by_images(runs: list[dict[str, Any]], minutes: float) -> Panel:
    """Chart of PSNR over the number of training images, trained equally long."""
    curves = {
        name: sorted(_point(run, run["images"]) for run in runs if run["arm"] == name and run["minutes"] == minutes)
        for name in ARMS
    }
    return Panel(f"{minutes:g} minutes each", "training images", "PSNR of restored held-out emoji, dB", curves)


def by_compute(runs: list[dict[str, Any]]) -> Panel:
    """Chart of PSNR over arithmetic in training, three passes per image."""
    curves = {
        name: sorted(
            _point(run, round(3 * run["gflop"] * run["seen"] / 1e3))
            for run in runs
            if run["arm"] == name and run["images"] == MIDDLE
        )
        for name in ARMS
    }
    return Panel(f"{MIDDLE:,} images", "TFLOP in training", "", curves)


def _point(run: dict[str, Any], x: float) -> tuple[float, float, float, float]:
    return x, run["psnr"], run["low"], run["high"]


def sentences(runs: list[dict[str, Any]], minutes: float) -> list[str]:
    """Return what the figures support: a difference only where intervals do not overlap."""
    said = []
    for count in COUNTS:
        here = {run["arm"]: run for run in runs if run["images"] == count and run["minutes"] == minutes}
        best = max(here.values(), key=lambda run: run["psnr"])
        level = [n for n, run in here.items() if run is not best and run["high"] >= best["low"]]
        tied = f"; not different from {', '.join(level)}" if level else ", different from all others"
        skips = here["unet"]["psnr"] - here["unet without skips"]["psnr"]
        maps = here["unet"]["psnr"] - here["dae, a map of 16×16×16"]["psnr"]
        said.append(
            f"{count:,} images: {best['arm']} is best{tied}. Skips are worth {skips:+.1f} dB; against an autoencoder "
            f"with a map as code the U-Net is {maps:+.1f} dB."
        )
    return said


if __name__ == "__main__":
    main()
