"""Training step of `unet-segment`: `Trainer` with prepared brain slices, and a bare PyTorch loop.

    python benchmarks/unet_step.py [--pairs 11] [--steps 6] [--threads 2]

The bare loop does the same work on the same network: one uint8 tensor in memory, random mirroring, cross-entropy and
Dice by PyTorch's own functions, fused AdamW, the running average of the weights in one call. The Trainer is also
measured channels last (`train.channels_last`), and in bf16 if the processor has units for it, both against the bare
loop in float32.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

from common import DATA, KEPT, Row, arguments, fastest, in_turns, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))

import torch
import torch.nn.functional as F

from ectype.config.recipe import Recipe, load_recipe
from ectype.models.translator import Segmenter
from ectype.runs.load import open_data
from step import our_trainer

GOAL = 0.97


def recipe(width: int) -> Recipe:
    """A constant learning rate, so that all steps are equal."""
    return load_recipe(
        "unet-segment",
        {
            "data.source": str(DATA / "brain"),
            "model.net.width": width,
            "train.batch": 8,
            "train.ema_images": 500,
            "optimizer.schedule": "constant",
            "optimizer.warmup": 0.0,
        },
    )


def bare_loop(found: Recipe) -> Callable[[], None]:
    """Build the step of a bare loop."""
    _, store = open_data(found.data)
    train = store.split("train")
    pixels, target = train.separate_target(train.gather(torch.arange(len(train))))
    assert target is not None
    torch.manual_seed(0)
    model = found.model.build(store.info)
    assert isinstance(model, Segmenter)
    settings = found.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    weights = [p.data for p in model.parameters()]
    average = [p.clone() for p in weights]
    batch, classes = found.train.batch, model.channels
    follow = 1 - 0.5 ** (batch / found.train.ema_images)

    def step() -> None:
        chosen = torch.randperm(len(pixels))[:batch]
        x, y = pixels[chosen].float().div_(255), target[chosen, 0].long()
        mirrored = torch.rand(batch) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        y = torch.where(mirrored[:, None, None], y.flip(2), y)
        scores = model.net(x)
        chance, right = scores.softmax(1), F.one_hot(y, classes).movedim(-1, 1)
        both, either = (chance * right).sum((2, 3)), (chance + right).sum((2, 3))
        loss = F.cross_entropy(scores, y) + (1 - (2 * both + 1) / (either + 1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(average, weights, follow)

    return step


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__, pairs=(11, "in turns"), steps=(6, "in a turn"), threads=(2, "of torch"), width=(16, "of the net")
    )
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    found = recipe(given.width)
    bare = bare_loop(found)
    ways = {"the Trainer": [], "the Trainer, channels last": ["train.channels_last=true"]}
    if fastest():
        ways |= {f"{name}, bf16": [*words, *fastest()] for name, words in ways.items()}
    trainers = {name: our_trainer(found.override(dict(word.split("=") for word in w))) for name, w in ways.items()}

    def timed(step: Callable[[], object]) -> dict[str, float]:
        began = time.perf_counter()
        for _ in range(given.steps):
            step()
        return {"images/s": given.steps * found.train.batch / (time.perf_counter() - began)}

    for step in (bare, *(trainer.step for trainer in trainers.values())):
        step()
    pairs = 3 if given.quick else given.pairs
    rows = []
    for name, trainer in trainers.items():
        speeds = in_turns(lambda: timed(bare), lambda step=trainer.step: timed(step), pairs)["images/s"]
        ratio = speeds.of_medians
        low, high = speeds.quartiles
        detail = f"by pairs {median(speeds.ratios):.3f}, quartiles {low:.3f} to {high:.3f}"
        goal, met = (f"≥ {GOAL}", ratio >= GOAL) if name == "the Trainer" else ("", None)
        rows.append(Row(f"{name}, images/s", median(speeds.peer), median(speeds.ours), ratio, goal, met, detail))
    notes = [
        f"unet-segment of width {given.width} on 197×233 slices, batch {found.train.batch}, {given.threads} threads; "
        f"{pairs} pairs in turns of {given.steps} steps. Denormals are flushed for all."
    ]
    tell("unet_step", "Training step of a U-Net", rows, notes)


if __name__ == "__main__":
    main()
