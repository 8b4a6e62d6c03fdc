"""Inference at 512 px: the network of the preset `ae` in eager PyTorch, channels last, and compiled, alternately.

    python benchmarks/inference.py [--size 512] [--batch 1] [--threads 2]

The reference is the speed of this machine in one large 3×3 convolution, 64 channels to 64 at half the image's size,
which consists of multiply-adds with a favorable memory layout. The gap of a network to it is what better software could
gain; everything beyond needs a smaller network.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from common import Clock, Row, arguments, console, tell
from ectype.analysis.cost import cost
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.models.flop import count_flops

GOAL = 30.0
"""GFLOP for one image of 512 px."""
WIDTH = 64


def ceiling(size: int, batch: int) -> tuple[Callable[[], Tensor], float]:
    """Build a large convolution; return it with its GFLOP."""
    half = size // 2
    layer = nn.Conv2d(WIDTH, WIDTH, 3, padding=1).eval().to(memory_format=torch.channels_last)  # pyright: ignore
    given = torch.rand(batch, WIDTH, half, half).to(memory_format=torch.channels_last)
    return lambda: layer(given), 2 * batch * (9 * WIDTH * WIDTH) * half * half / 1e9


def timed(use: Callable[[], Tensor], seconds: float) -> float:
    """Return the seconds of one call, over as many calls as fill the given time."""
    calls, clock = 0, Clock()
    while (spent := clock.read().wall) < seconds or not calls:
        use()
        calls += 1
    return spent / calls


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__, size=(512, "pixels of a side"), batch=(1, "images at a time"), threads=(2, "of torch, for all")
    )
    torch.set_num_threads(given.threads)
    turns, seconds = (3, 0.5) if given.quick else (15, 2.0)
    recipe = load_recipe("ae", {"net": "conv", "size": given.size, "channels": 3})
    torch.manual_seed(0)
    model = recipe.model.build(DataInfo(3, (given.size, given.size))).eval()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    image = torch.rand(given.batch, 3, given.size, given.size)
    beside = image.to(memory_format=torch.channels_last)
    compiled = torch.compile(last.reconstruct, options={"freezing": True})
    convolve, most = ceiling(given.size, given.batch)
    counted = count_flops(model)
    assert counted is not None
    assert counted[1] == cost(recipe).flop, "the cost that `ectype presets ae` states must be that of this model"
    each = counted[1] / 1e9
    uses: dict[str, tuple[Callable[[], Tensor], float]] = {
        "eager": (lambda: model.reconstruct(image), each * given.batch),
        "channels last": (lambda: last.reconstruct(beside), each * given.batch),
        "channels last, compiled": (lambda: compiled(beside), each * given.batch),
        "one 3×3 convolution": (convolve, most),
    }
    with torch.inference_mode():
        console.print("compiling …")
        start = time.perf_counter()
        difference = float((compiled(beside) - model.reconstruct(image)).abs().max())
        compiling = time.perf_counter() - start
        assert difference < 1e-3, f"compiled and eager differ by {difference:g}"
        found: dict[str, list[float]] = {name: [] for name in uses}
        console.print(f"{turns} turns of {seconds:g} s each …")
        for turn in range(turns + 1):
            names = list(uses) if turn % 2 else list(uses)[::-1]
            for name in names:
                spent = timed(uses[name][0], seconds)
                if turn:  # the first one warms up
                    found[name].append(spent)
    speeds = {name: uses[name][1] / median(spent) for name, spent in found.items()}
    top, eager = speeds["one 3×3 convolution"], median(found["eager"])
    parameters = sum(p.numel() for p in model.parameters())
    said = "" if given.size == 512 else " at 512 px"
    rows = [Row("GFLOP per image", float("nan"), each, None, f"≤ {GOAL:g}{said}", each <= GOAL if not said else None)]
    for name in list(uses)[:3]:
        low, _, high = quantiles([1000 * spent / given.batch for spent in found[name]], n=4)
        took = median(found[name])
        detail = f"quartiles {low:.0f}–{high:.0f}; {speeds[name]:.0f} GFLOP/s, {speeds[name] / top:.0%} of the ceiling"
        rows.append(
            Row(
                f"{name}, ms per image",
                1000 * eager / given.batch,
                1000 * took / given.batch,
                took / eager,
                "",
                None,
                detail,
            )
        )
    rows.append(Row("one 3×3 convolution, GFLOP/s", float("nan"), top, None, "", None, "the ceiling"))
    notes = [
        f"The default network of `ae` at {given.size} px: {parameters:,} parameters, code of {model.code_shape}; "
        f"reconstruct, float32, {given.batch} image(s) at a time, {given.threads} torch thread(s); 2 FLOP per "
        "multiply-add, of convolutions and matrices.",
        f"Peer: eager, channels first. Medians of {turns} turns of {seconds:g} s each, all in one process; the order "
        "changes with each turn.",
        f"Compiled with its weights frozen, in {compiling:.0f} s; it differs from eager by at most {difference:.1e}.",
        f"Ceiling: {WIDTH} → {WIDTH} channels, 3×3, {given.size // 2} px, channels last, in the same turns.",
    ]
    tell(
        "inference",
        "Inference: eager PyTorch (peer), channels last and compiled (ours)",
        rows,
        notes,
        quick=given.quick,
        compiling=compiling,
        gflop_per_image=each,
        seconds=found,
    )


if __name__ == "__main__":
    main()
