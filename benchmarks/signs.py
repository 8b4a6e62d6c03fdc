"""Which indicator detects which fault: a mixture of fifty Gaussians in 64 dimensions, 2,000 samples of each kind.

No single indicator detects all faults. The faults are constructed, so that the truth is known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common import Row, arguments, tell
from ectype.evaluation.metrics.diversity import fit_bins, ndb, vendi_ratio
from ectype.evaluation.metrics.frechet_kernel import frechet, moments
from ectype.evaluation.metrics.memorization import Authenticity, duplicates
from ectype.evaluation.metrics.precision_recall import prdc

MODES, NUMBERS, N = 50, 64, 2000
EXPECTED = {
    "fresh": {
        "recall": (0.8, 1),
        "coverage": (0.9, 1),
        "authenticity": (0.5, 0.8),
        "repeated": (0, 0.02),
        "NDB/K": (0, 0.1),
        "Vendi ratio": (0.95, 1.05),
    },
    "a tenth of the modes dropped": {
        "recall": (0.6, 0.83),
        "coverage": (0.8, 0.93),
        "authenticity": (0.5, 0.8),
        "NDB/K": (0.1, 0.35),
    },
    "half of the modes dropped": {
        "recall": (0.2, 0.5),
        "coverage": (0.35, 0.55),
        "NDB/K": (0.5, 1),
        "Vendi ratio": (0.6, 0.9),
    },
    "every mode shrunk to .3": {
        "recall": (0, 0.1),
        "coverage": (0.9, 1),
        "authenticity": (0, 0.1),
        "Vendi ratio": (0.6, 0.95),
    },
    "memorised": {"authenticity": (0, 0.05), "coverage": (0.9, 1), "recall": (0.8, 1), "repeated": (0, 0.02)},
    "support of 200": {"repeated": (0.9, 1), "recall": (0, 0.3), "coverage": (0.2, 0.6), "authenticity": (0.5, 0.8)},
}
"""Range of each indicator in the design's reference table, with room for chance."""


def mixture(n: int, modes: Tensor, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """Draw from a mixture with these means."""
    chosen = torch.randint(len(modes), (n,), generator=generator)
    return modes[chosen] + scale * torch.randn(n, NUMBERS, generator=generator)


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, seed=(0, "of all draws"))
    generator = torch.Generator().manual_seed(given.seed)
    modes = 3 * torch.randn(MODES, NUMBERS, generator=generator)
    real, train = (mixture(N, modes, generator) for _ in range(2))
    support = mixture(200, modes, generator)
    kinds = {
        "fresh": mixture(N, modes, generator),
        "a tenth of the modes dropped": mixture(N, modes[MODES // 10 :], generator),
        "half of the modes dropped": mixture(N, modes[MODES // 2 :], generator),
        "every mode shrunk to .3": mixture(N, modes, generator, 0.3),
        "memorised": train[torch.randperm(N, generator=generator)],
        "support of 200": support[torch.randint(200, (N,), generator=generator)],
    }
    bins, authentic = fit_bins(train, N, seed=given.seed), Authenticity(train)
    rows, raw = [], {}
    for name, fake in kinds.items():
        shares = prdc(real, fake)
        raw[name] = found = {
            "Fréchet distance": frechet(moments(real), moments(fake)),
            "recall": shares.recall,
            "coverage": shares.coverage,
            "authenticity": authentic(fake),
            "repeated": duplicates(real, fake).rate,
            "NDB/K": ndb(bins, real, fake).different,
            "Vendi ratio": vendi_ratio(real, fake),
        }
        wrong = [key for key, (low, high) in EXPECTED[name].items() if not low <= found[key] <= high]
        said = ", ".join(f"{key} {value:.2f}" for key, value in found.items())
        goal = "as in the table" if not wrong else f"not: {', '.join(wrong)}"
        rows.append(Row(name, float("nan"), found["Fréchet distance"], None, goal, not wrong, said))
    tell(
        "signs",
        "Indicators of known faults",
        rows,
        [f"{MODES} modes, {NUMBERS} dimensions, {N:,} points."],
        signs=raw,
    )


if __name__ == "__main__":
    main()
