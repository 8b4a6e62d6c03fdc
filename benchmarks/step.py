"""Training step: `Trainer` with prepared MNIST, a bare PyTorch loop, and pythae's trainer.

The bare loop does the same work as an expert would write it: the same network, one uint8 tensor in memory, fused AdamW,
the running average of the weights in one call, the loss by fused kernels. It lacks what the Trainer adds: a check for
non-finite values, gradient norms, logged means, noise that depends on the position in the run, images in a
memory-mapped file. A second bare loop, "watched", has the first two of these, which separates their cost from that of
the Trainer itself.

    python benchmarks/step.py --gpu 1

runs both on a GPU instead, in bf16 and channels last, with the bare loop's images on the GPU, and without pythae.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from common import (
    DATA,
    KEPT,
    PYTHAE,
    Clock,
    Pairs,
    Row,
    arguments,
    console,
    in_turns,
    last_json,
    mnist,
    process,
    pythae_python,
    tell,
)

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))

import torch
import torch.nn.functional as F
from torch import Tensor

from ectype.config.recipe import Recipe, load_recipe
from ectype.data.loader import Loader
from ectype.runs.load import open_data
from ectype.training.build import build_trainer
from ectype.training.trainer import Trainer

GOAL = 0.97
COMMON = {
    "data.source": str(DATA / "mnist"),
    "data.size": 28,
    "data.channels": 1,
    "latent_dim": 16,
    "model.likelihood": "mse",
    "objective.warmup": 0.0,
    "optimizer.name": "adamw",
    "optimizer.schedule": "constant",
    "optimizer.warmup": 0.0,
    "train.batch": 128,
    "train.ema_images": 5000,
}
CASES = {
    "MLP 784-512-16": load_recipe("vae-mlp", {**COMMON, "hidden": [512], "activation": "relu"}),
    "conv 32/64-16": load_recipe("vae", {"net": "conv", **COMMON, "width": 32, "bottom": 8}),
}
LARGE = {
    "conv 128/512-16, 512 images": load_recipe(
        "vae", {"net": "conv", **COMMON, "width": 128, "bottom": 8, "train.batch": 512}
    )
}
"""Sizes that use a GPU fully."""
CPU = torch.device("cpu")


def our_trainer(recipe: Recipe, device: torch.device = CPU) -> Trainer:
    """Build it as `ectype.training.run` does."""
    _, store = open_data(recipe.data)
    feed = Loader(store.split("train"), recipe.data, device, training=True, seed=0)
    return build_trainer(recipe, store.info, feed, budget=recipe.train.images, device=device)


def bare_loop(recipe: Recipe, device: torch.device = CPU, *, watched: bool = False) -> Callable[[], None]:
    """Build the step of a bare loop over a uint8 tensor; watched, it stops before an update that is not finite."""
    _, store = open_data(recipe.data)
    train = store.split("train")
    images = train.gather(torch.arange(len(train))).to(device)
    model = recipe.model.build(store.info).to(device)
    gpu = device.type == "cuda"
    # Entering autocast takes time even if it is off; a hand-written loop would not have it.
    autocast = torch.autocast(device.type, torch.bfloat16) if gpu else nullcontext()
    if gpu:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # documented, not typed
    if recipe.train.compile:
        model.encoder.compile()
        model.decoder.compile()
    settings = recipe.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    weights = [p.data for p in model.parameters()]
    average = [p.clone() for p in weights]
    batch = recipe.train.batch
    follow = 1 - 0.5 ** (batch / recipe.train.ema_images)

    def batches() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(len(images), device=device).split(batch)[: len(images) // batch]

    order = batches()

    def step() -> None:
        x = images[next(order)].float().div_(255)
        with autocast:
            mean, log_variance = model.encoder(x).float().chunk(2, dim=1)
            sigma = torch.exp(0.5 * log_variance)
            code = torch.addcmul(mean, sigma, torch.randn_like(mean))
            squares = F.mse_loss(torch.sigmoid(model.decoder(code).float()), x, reduction="sum")
            kl = (mean.square() + sigma.square() - log_variance - 1).sum()
            loss = 0.5 * (squares + kl) / batch
        optimizer.zero_grad()
        loss.backward()
        if watched:
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            if not math.isfinite(float(norm + loss.detach())):
                raise ArithmeticError("the loss or a gradient is not finite")
        optimizer.step()
        torch._foreach_lerp_(average, weights, follow)

    return step


def segment(step: Callable[[], None], steps: int, batch: int, *, flush: bool) -> Callable[[], dict[str, float]]:
    """Measure images per wall and per CPU second over this many steps, with denormals flushed to zero or kept."""

    def measure() -> dict[str, float]:
        torch.set_flush_denormal(flush)
        clock = Clock()
        for _ in range(steps):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, cpu = clock.read()
        return {"wall": steps * batch / wall, "CPU": steps * batch / cpu}

    return measure


def against_bare(
    recipe: Recipe,
    pairs: int,
    seconds: float,
    device: torch.device = CPU,
    *,
    watched: bool = False,
    flush: bool = True,
    warm: int = 20,
) -> dict[str, Pairs]:
    """Measure both in one process, alternately, after this many steps each.

    Ours flushes denormals as a run does; the bare loop only on request, since PyTorch does not by default.
    """
    bare, ours = (bare_loop(recipe, device, watched=watched), our_trainer(recipe, device).step)
    batch = recipe.train.batch
    for step, flushed in ((ours, True), (bare, flush)):
        speed = segment(step, warm, batch, flush=flushed)()["wall"]
    steps = max(1, round(seconds * speed / batch))
    return in_turns(segment(bare, steps, batch, flush=flush), segment(ours, steps, batch, flush=True), pairs)


def alone(images: int) -> None:
    """Train the MLP in a process and report its time: our side of the comparison with pythae."""
    torch.set_flush_denormal(True)
    trainer = our_trainer(CASES["MLP 784-512-16"])
    clock = Clock()
    while trainer.seen < images:
        trainer.step()
    wall, cpu = clock.read()
    print(json.dumps({"wall": trainer.seen / wall, "CPU": trainer.seen / cpu}))


def against_pythae(pairs: int, epochs: int, threads: int) -> dict[str, Pairs]:
    """Measure each in a process of its own, alternately."""
    python, peer = pythae_python(), Path(__file__).parent / "peers" / "pythae_vae.py"
    images = mnist("train")
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "train.npy"
        np.save(file, images)

        def theirs() -> dict[str, float]:
            said, spent = process([python, peer, "train", file, scratch, epochs, 0], OMP_NUM_THREADS=threads)
            took = last_json(said)["epochs"]
            wall, cpu = (epochs * len(images) / sum(part) for part in zip(*took, strict=True))
            return {"wall": wall, "CPU": cpu, "process": spent.cpu}

        def ours() -> dict[str, float]:
            command = [sys.executable, __file__, "--alone", epochs * len(images)]
            said, spent = process(command, OMP_NUM_THREADS=threads)
            return {**last_json(said), "process": spent.cpu}

        return in_turns(theirs, ours, pairs)


def row(what: str, pairs: Pairs, goal: str = "", met: Callable[[float], bool] | None = None) -> Row:
    """Return medians, the ratio of medians, and the median ratio of pairs."""
    low, high = pairs.quartiles
    detail = f"by pairs {median(pairs.ratios):.3f}, quartiles {low:.3f}–{high:.3f}, n {len(pairs.ours)}"
    ratio = pairs.of_medians
    return Row(what, median(pairs.peer), median(pairs.ours), ratio, goal, met(ratio) if met else None, detail)


def on_a_gpu(pairs: int, seconds: float, *, compiling: bool, quick: bool) -> None:
    """Measure both on the GPU, eager and compiled."""
    device, rows, raw = torch.device("cuda"), [], {}
    for name, recipe in {**CASES, **LARGE}.items():
        for compiled in (False, True) if compiling else (False,):
            title = f"{name}{', both compiled' if compiled else ''}"
            for watched in (True,) if compiled else (False, True):
                chosen = recipe.override({"train.compile": compiled})
                found = against_bare(chosen, pairs, seconds, device, watched=watched)
                key = f"{title}{', watched' if watched else ''}"
                raw[key] = found
                rows.append(row(f"{key}, images/s", found["wall"]))
                console.print(rows[-1])
    notes = [
        f"On {torch.cuda.get_device_name()}: bf16 autocast, channels last, AdamW (fused); the bare loop keeps all "
        "images on the GPU, ours has them in a mapped file, and reads its losses at each step, as "
        "the watched loop does.",
        f"Segments of {seconds:g} s, in turns. By pairs: the median of the pairs' ratios.",
    ]
    tell(
        "step_gpu",
        "Training step on a GPU: a bare loop (peer), Ectype's Trainer (ours)",
        rows,
        notes,
        quick=quick,
        pairs=raw,
    )


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__,
        threads=(1, "of torch, for all contestants"),
        alone=(0, "train the MLP on this many images and stop"),
        gpu=(0, "1 for a GPU, 2 for compiled steps there too"),
    )
    if given.gpu:
        on_a_gpu(*((3, 0.3) if given.quick else (7, 0.5)), compiling=given.gpu > 1, quick=given.quick)
        return
    if given.alone:
        alone(given.alone)
        return
    torch.set_num_threads(given.threads)
    pairs, seconds = (5, 1.0) if given.quick else (15, 2.0)
    rows, raw = [], {}
    for name, recipe in CASES.items():
        console.print(f"{name}: {pairs} pairs of {seconds:g} s, for each kind of bare loop …")
        raw[name] = found = against_bare(recipe, pairs, seconds)
        rows.append(row(f"{name}, images/s", found["wall"], f"≥ {GOAL}", lambda ratio: ratio >= GOAL))
        rows.append(row(f"{name}, images/CPU s", found["CPU"]))
        raw[f"{name}, watched"] = found = against_bare(recipe, pairs, seconds, watched=True)
        rows.append(row(f"{name}, watched, images/s", found["wall"]))
    mlp = "MLP 784-512-16"
    epochs = 2 if given.quick else 6
    console.print(f"{mlp}: as PyTorch comes, after {epochs} epochs …")
    found = against_bare(CASES[mlp], pairs, seconds, flush=False, warm=epochs * 60_000 // 128)
    raw[f"{mlp}, denormals kept"] = found
    rows.append(row(f"{mlp}, denormals kept by the peer, images/s", found["wall"]))
    turns, passes = (2, 1) if given.quick else (3, 2)
    console.print(f"pythae: {turns} pairs of processes, {passes} × 60,000 images each …")
    raw["pythae"] = found = against_pythae(turns, passes, given.threads)
    rows.append(row("pythae's trainer, images/s", found["wall"]))
    rows.append(row("pythae's trainer, images/CPU s", found["CPU"]))
    rows.append(row("pythae's trainer, CPU s of the process", found["process"]))
    notes = [
        "Peer of the first rows: a bare PyTorch loop of the same work, in the same process, in turns; watched, it also "
        "reads the loss and the gradient's norm at each step. Denormals are flushed to zero for both, except in the "
        "row "
        f"that says otherwise: there the peer has PyTorch's defaults, {epochs} epochs into its training.",
        "Ours: Trainer.step with prepared MNIST, with its checks, logged means and running average.",
        f"Batch 128, ½·SSE + KL, AdamW (fused), float32, {given.threads} torch thread(s), segments of {seconds:g} s. "
        "By pairs: the median of the pairs' ratios.",
        f"pythae {PYTHAE}, same torch: its default MLP VAE with its BaseTrainer (Adam, no running average), each in a "
        f"process of its own; {passes} × 60,000 images, start-up counted in the last row only.",
    ]
    tell(
        "step",
        "Training step: a bare loop and pythae (peers), Ectype's Trainer (ours)",
        rows,
        notes,
        quick=given.quick,
        pairs=raw,
    )


if __name__ == "__main__":
    main()
