"""Noise of standard deviation 0.2 on photographs: `unet-denoise` and non-local means, total variation and BM3D.

    python benchmarks/denoise.py [--minutes 30] [--threads 2]

Trained on crops of training photographs, evaluated on crops of held-out ones. The peers are given the noise level and
use the settings that are best on training crops. BM3D is measured if `pip install bm3d` was done.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

from common import KEPT, RESULTS, Clock, Row, arguments, console, fastest, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch import Tensor

import ectype
from ectype.models.translator import Restorer
from ectype.training.run import train
from photos import SIDE, Judge, between, bytes_of, crops, in_parts, sheet, stacked, training_crops

SIGMA, GOAL = 0.2, 1.5
TUNED = 12
"""Number of training crops that the peers' settings are chosen on."""
CROP, STRIDE = 128, 96
"""Side of a training crop, and distance between two crops, in pixels."""
WORDS = [
    f"size={CROP}",
    f"degrade={{noise: {SIGMA}}}",
    "width=32",
    "levels=3",
    "fold=2",
    "batch=16",
    "optimizer.lr=0.003",
    "channels_last=true",
    "objective.loss={psnr: 0.01}",
    "augment={flip: true, turn: true}",
    "split.val=0.03",
    "split.test=0",
    "monitor.images=64",
    "monitor.patience=null",
    "train.ema_images=1000",
    "run.pictures=0",
]
"""Overrides of `unet-denoise`. They were chosen by training on four fifths of the training photographs for three
minutes and evaluating on the rest, where group normalization was 2 dB lower, none 9 dB, and four levels of width 16 at
full size 1.6 dB.
"""


def noisy(images: Tensor, seed: int) -> Tensor:
    """Add noise; values are not clipped."""
    return images + SIGMA * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def each(function: Callable[[np.ndarray], np.ndarray], images: Tensor) -> Tensor:
    """Apply a function of one image [h, w, 3] to all images."""
    made = [function(image.permute(1, 2, 0).numpy()) for image in images]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float().clamp(0, 1)


def peers() -> dict[str, list[Callable[[np.ndarray], np.ndarray]]]:
    """Each peer with the settings that are tried."""
    means = [
        lambda x, h=h, d=d: denoise_nl_means(x, 5, d, h * SIGMA, True, SIGMA, channel_axis=2)
        for h in (0.4, 0.6, 0.8, 1.0)
        for d in (6, 11)
    ]
    variation = [lambda x, w=w: denoise_tv_chambolle(x, w, channel_axis=2) for w in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)]
    found: dict[str, list[Callable[[np.ndarray], np.ndarray]]] = {
        "non-local means": means,
        "total variation": variation,
    }
    if importlib.util.find_spec("bm3d") is not None:
        import bm3d  # pyright: ignore[reportMissingImports]

        found["BM3D"] = [lambda x: bm3d.bm3d_rgb(x, SIGMA)]
    return found


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, minutes=(30, "of training"), threads=(2, "of torch"), seed=(0, "of the run"))
    torch.set_num_threads(given.threads)
    budget = 1 if given.quick else given.minutes
    words = [*WORDS, *fastest(), f"train.minutes={budget}", f"train.seed={given.seed}", f"run.threads={given.threads}"]
    source, clock = training_crops(CROP, STRIDE), Clock()
    run = train("unet-denoise", source, words, out=KEPT / "denoise" / f"{budget}-{given.seed}", console=console)
    took = clock.read()
    model = ectype.load(run.path, device="cpu")
    assert isinstance(model, Restorer)
    found = crops("test", SIDE)
    names, real = [crop.photograph for crop in found], stacked(found)
    spoiled = noisy(real, 1)
    known = np.load(training_crops(), mmap_mode="r")
    some = torch.from_numpy(known[:: len(known) // TUNED][:TUNED].copy()).permute(0, 3, 1, 2).float() / 255
    judge, chosen = Judge(), {}
    for name, settings in peers().items():
        scores = [judge(each(function, noisy(some, 2)), some)["PSNR"].mean() for function in settings]
        chosen[name] = settings[int(np.argmax(scores))]
        console.print(f"{name}: {max(scores):.2f} dB on training crops")
    made = {"noisy": spoiled.clamp(0, 1), **{name: each(function, spoiled) for name, function in chosen.items()}}
    made["U-Net"] = in_parts(model.translate, spoiled)
    values = {name: judge(images, real) for name, images in made.items()}
    best = max(("non-local means", "total variation"), key=lambda name: float(values[name]["PSNR"].mean()))
    rows = []
    for measure in values["U-Net"]:
        for name in made:
            if name == "U-Net":
                continue
            apart = values["U-Net"][measure] - values[name][measure]
            low, high = between(apart, names)
            goal, met = "", None
            if measure == "PSNR" and name in (best, "BM3D"):
                goal = f"≥ {GOAL} dB above" if name == best else "above: the aim"
                met = bool(apart.mean() >= (GOAL if name == best else 0))
            detail = f"difference {apart.mean():+.4g}, 95% {low:+.4g} to {high:+.4g}"
            ours, peer = (float(values["U-Net"][measure].mean()), float(values[name][measure].mean()))
            rows.append(Row(f"{measure}, peer {name}", peer, ours, None, goal, met, detail))
    picked = list(range(4, len(real), max(1, len(real) // 6)))[:6]
    sheet(
        {"original": list(bytes_of(real[picked])), **{n: list(bytes_of(x[picked])) for n, x in made.items()}},
        RESULTS / "denoise.jpg",
    )
    notes = [
        f"{run.summary()['seen']:,} crops in {took.wall / 60:.1f} minutes, {took.cpu / 60:.1f} CPU minutes.",
        f"{len(real)} crops of {len(set(names))} held-out photographs; peers are given σ and tuned on training crops.",
    ]
    tell("denoise", f"Noise of standard deviation {SIGMA} on photographs", rows, notes)


if __name__ == "__main__":
    main()
