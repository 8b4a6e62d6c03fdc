"""SSIM and MS-SSIM as losses, forward and backward: pytorch-msssim and ours, alternately in one process.

    python benchmarks/ssim.py [--quick] [--side 512] [--batch 4] [--threads 2]

Color images; the gradient is computed for the output, as in training, not for the target. Values are compared too: both
follow the papers, without padding.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.metadata import version

import pytorch_msssim
import torch
from torch import Tensor

from common import Clock, Row, arguments, in_turns, tell
from ectype.losses.ssim import ms_ssim, ssim

AT_MOST, EQUAL = 1.0, 1e-5


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__,
        side=(512, "pixels of a side"),
        batch=(4, "images at once"),
        threads=(2, "of torch"),
        pairs=(21, "turns"),
    )
    torch.set_num_threads(given.threads)
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(given.batch, 3, given.side, given.side, generator=generator)
    output = (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1).requires_grad_()

    def measured(loss: Callable[[], Tensor]) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            output.grad = None
            clock = Clock()
            loss().backward()
            return {"ms": 1000 * clock.read().wall}

        return measure

    contests: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "SSIM": (
            lambda: 1 - pytorch_msssim.ssim(output, target, data_range=1.0),
            lambda: 1 - ssim(output, target).mean(),
        ),
        "MS-SSIM": (
            lambda: 1 - pytorch_msssim.ms_ssim(output, target, data_range=1.0),
            lambda: 1 - ms_ssim(output, target).mean(),
        ),
    }
    pairs = 5 if given.quick else given.pairs
    rows, raw = [], {}
    for name, (peer, ours) in contests.items():
        sides = measured(peer), measured(ours)
        in_turns(*sides, pairs=2)  # warm
        times = in_turns(*sides, pairs=pairs)["ms"]
        raw[name] = times._asdict()
        low, high = times.quartiles
        rows.append(
            Row(
                f"ms, {name}",
                statistics.median(times.peer),
                statistics.median(times.ours),
                times.of_medians,
                f"≤ {AT_MOST:g} ×",
                times.of_medians <= AT_MOST,
                f"quartiles of pairs {low:.2f} to {high:.2f}",
            )
        )
        with torch.no_grad():
            values = float(1 - peer()), float(1 - ours())
        off = abs(values[0] - values[1])
        rows.append(Row(f"value, {name}", *values, None, f"equal to {EQUAL:g}", off <= EQUAL, f"{off:.1e} off"))
    notes = [
        f"{given.batch}×3×{given.side}×{given.side} float32, forward and backward to the output; medians of {pairs} "
        f"turns, the order changed with each; {given.threads} threads.",
        f"Peer: pytorch-msssim {version('pytorch-msssim')}.",
    ]
    title = "SSIM and MS-SSIM with gradient: pytorch-msssim and ours"
    tell("ssim", title, rows, notes, quick=given.quick, milliseconds=raw)


if __name__ == "__main__":
    main()
