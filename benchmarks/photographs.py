"""Photographs at 256 px through one autoencoder whose code has 48 times fewer values, of 8 bits each.

    python benchmarks/photographs.py [--minutes 40] [--threads 2]

`ae`, without any normal distribution or critic: 3×256×256 to 16×16×16, with the best linear code of squares of 16
pixels as shortcut; codes are rounded to 256 steps within the range of training images. Evaluated on crops of held-out
photographs, compared with bicubic down- and upsampling with equally many values, the best linear code of squares of 32
pixels, and the best JPEG of equally many bytes; on photographs from other packages; and on 512 px with the model that
was trained at 256.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from common import KEPT, RESULTS, Clock, Row, arguments, console, fastest, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

import ectype
from ectype.evaluation.monitor import Monitor
from ectype.models.autoencoder import Autoencoder
from ectype.runs import checkpoint
from ectype.runs.run_dir import RunDir
from ectype.training.loop import Callback, Check
from ectype.training.run import train
from ectype.training.trainer import Trainer
from photos import (
    SIDE,
    Judge,
    PatchPCA,
    between,
    bicubic,
    bytes_of,
    crops,
    in_parts,
    jpeg,
    sheet,
    stacked,
    training_crops,
)

LATENT = (16, 16, 16)
BITS = 8
NUMBERS = LATENT[0] * LATENT[1] * LATENT[2]
PEERS = ("bicubic", "PCA of squares", "JPEG")
GOAL = 2.5
"""dB above bicubic."""
WORDS = [
    f"size={SIDE}",
    "net=conv",
    f"latent=[{', '.join(map(str, LATENT))}]",
    "patch=4",
    "width=64",
    "max_width=128",
    "up=shuffle",
    "shortcut=pca",
    "norm=none",
    "likelihood.output=linear",
    "objective.loss={psnr: 0.01}",
    "augment={flip: true, turn: true}",
    "batch=8",
    "optimizer={lr: 0.0004, clip: 10, betas: [0.9, 0.999], weight_decay: 0}",
    "channels_last=true",
    "split.val=0.03",
    "split.test=0",
    "monitor.images=64",
    "monitor.patience=null",
    "run.pictures=0",
    "prior=none",
]
"""Overrides of `ae`, chosen by training on 19 of the training photographs and evaluating on the other 5."""


class Rounded:
    """A model whose codes are rounded to 8 bits, each channel between the 0.05% extremes of training images."""

    def __init__(self, model: Autoencoder, known: Tensor) -> None:
        self.model = model.eval()
        codes = in_parts(model.encode, known).movedim(1, 0).flatten(1).double().numpy()
        edges = torch.from_numpy(np.percentile(codes, [0.05, 99.95], axis=1)).float()
        self.low, self.high = (edge[None, :, None, None] for edge in edges)

    def __call__(self, images: Tensor) -> Tensor:
        """Round codes to 8 bits and decode them."""
        top = 2**BITS - 1
        level = ((self.model.encode(images) - self.low) / (self.high - self.low)).clamp(0, 1) * top
        code = level.round().to(torch.uint8)
        return self.model.decode_unclamped(code.float() / top * (self.high - self.low) + self.low).clamp(0, 1)


class When(Callback):
    """Records the minutes of training at each check."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        self.began = time.perf_counter()

    def checked(self, trainer: Trainer, check: Check) -> None:
        self.at[check.seen] = (time.perf_counter() - self.began) / 60


def compare(model: Rounded, linear: PatchPCA, part: str, side: int, judge: Judge) -> dict[str, Any]:
    """Evaluate ours, bicubic and JPEG on crops of a part, with intervals of means and of differences."""
    found = crops(part, side)
    names = [crop.photograph for crop in found]
    real = stacked(found)
    numbers = NUMBERS * side * side // SIDE**2
    made = {
        "ours": in_parts(model, real),
        "bicubic": bicubic(real, numbers),
        "PCA of squares": in_parts(linear, real),
        "JPEG": torch.from_numpy(np.stack([jpeg(crop.image, numbers) for crop in found])).permute(0, 3, 1, 2) / 255,
    }
    values = {who: judge(images, real) for who, images in made.items()}
    said: dict[str, Any] = {"crops": len(found), "photographs": len(set(names))}
    for measure in values["ours"]:
        said[measure] = {who: float(value[measure].mean()) for who, value in values.items()}
        for other in PEERS:
            apart = values["ours"][measure] - values[other][measure]
            said[measure][f"ours − {other}"] = [float(apart.mean()), *between(apart, names)]
    gain, of = values["ours"]["PSNR"] - values["bicubic"]["PSNR"], np.asarray(names)
    said["PSNR of each photograph, ours − bicubic"] = {name: float(gain[of == name].mean()) for name in set(names)}
    said["images"] = {"original": real, **made}
    return said


def curve(run: RunDir, when: When, known: Tensor) -> list[dict[str, float]]:
    """Evaluate every stored checkpoint on test crops, with averaged weights, over minutes of training."""
    real = stacked(crops("test", SIDE))
    judge, points = Judge([]), []
    model = run.recipe.model.build(ectype.load(run.path, device="cpu").info)
    assert isinstance(model, Autoencoder)
    for place in checkpoint.checkpoint_dirs(run.checkpoints):
        seen = checkpoint.load_state(place)["seen"]
        if seen in when.at:
            model.load_state_dict(checkpoint.load_tensors(place / "average.safetensors"))
            values = judge(in_parts(Rounded(model, known), real), real)
            points.append({"images": seen, "minutes": when.at[seen], **{k: float(v.mean()) for k, v in values.items()}})
    return points


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__, minutes=(40, "of training"), threads=(2, "of torch"), seed=(0, "of the run"), every=(2000, "images")
    )
    torch.set_num_threads(given.threads)
    source = training_crops()
    budget = 1 if given.quick else given.minutes
    words = [
        *WORDS,
        *fastest(),
        f"train.minutes={budget}",
        f"train.seed={given.seed}",
        f"run.threads={given.threads}",
        f"run.keep_every={given.every}",
        f"monitor.every={given.every}",
    ]
    when, clock = When(), Clock()
    place = KEPT / "photographs" / f"{budget}-{given.seed}"
    run = train("ae", source, words, out=Path(place), callbacks=[when], console=console)
    took = clock.read()
    known = torch.from_numpy(np.load(source, mmap_mode="r")[::8].copy()).permute(0, 3, 1, 2).float() / 255
    loaded = ectype.load(run.path, device="cpu")
    assert isinstance(loaded, Autoencoder)
    model, linear, judge = (Rounded(loaded, known), PatchPCA(known, 32, 3 * 32**2 * NUMBERS // (3 * SIDE**2)), Judge())
    found = {
        (part, side): compare(model, linear, part, side, judge)
        for part, side in (("test", SIDE), ("test", 2 * SIDE), ("others", SIDE))
    }
    pictures = [said.pop("images") for said in found.values()]
    shown = pictures[0]
    rows = []
    for (part, side), said in found.items():
        where = f"{'held-out' if part == 'test' else 'other'} photographs, {side} px"
        for measure, values in said.items():
            if not isinstance(values, dict) or "ours" not in values:
                continue
            for other in PEERS:
                apart, low, high = values[f"ours − {other}"]
                goal, met = "", None
                if (part, side, other) == ("test", SIDE, "bicubic") and measure in ("PSNR", "SSIM"):
                    goal = f"≥ {GOAL} dB above" if measure == "PSNR" else "above"
                    met = apart >= (GOAL if measure == "PSNR" else 0)
                detail = f"difference {apart:+.4g}, 95% {low:+.4g} to {high:+.4g}"
                what = f"{where}: {measure}, peer {other}"
                rows.append(Row(what, values[other], values["ours"], None, goal, met, detail))
    chosen = list(range(4, len(shown["ours"]), max(1, len(shown["ours"]) // 6)))[:6]
    sheet({name: list(bytes_of(images[chosen])) for name, images in shown.items()}, RESULTS / "photographs.jpg")
    seen = run.summary()["seen"]
    notes = [
        f"{seen:,} crops of 24 photographs in {took.wall / 60:.1f} minutes, {took.cpu / 60:.1f} CPU minutes.",
        f"{NUMBERS:,} values of {BITS} bits for {3 * SIDE * SIDE:,}: {3 * SIDE * SIDE / NUMBERS:g} times fewer; as "
        "many bytes for a JPEG, headers included (best quality and color sampling that fit, progressive, optimised).",
        "PCA of squares: the best linear code of squares of 32 pixels, fitted on training crops, not rounded.",
        "Means over crops that do not overlap; intervals by drawing photographs, then crops of each.",
        "The model was trained for pixels only, with neither network.",
    ]
    raw = {f"{part} {side}": said for (part, side), said in found.items()}
    tell("photographs", "Photographs with 48 times fewer values", rows, notes, curve=curve(run, when, known), **raw)


if __name__ == "__main__":
    main()
