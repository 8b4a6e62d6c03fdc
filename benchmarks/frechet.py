"""The Fréchet distance from given features: clean-fid, torchmetrics, torch-fidelity, and ours, alternately.

    python benchmarks/frechet.py [--quick] [--features 10000] [--dimensions 2048]

Each contestant computes the distance from mean and covariance in float64, which are computed once; computing the
features is the same work for all and not counted. Ours is measured with and without the stored matrix root of the
reference's covariance, which is available from the second distance to one set of real images on.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from cleanfid.fid import frechet_distance
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

from common import Clock, Row, arguments, tell
from ectype.evaluation.metrics.frechet_kernel import Moments, frechet, moments

FASTER, EQUAL = 5, 1e-4
THREADS = 2


def correlated(n: int, d: int, seed: int, spread: float) -> torch.Tensor:
    """Return Gaussians [n, d] float32 with power-law variances in random directions, as features of networks have."""
    basis = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0))).Q
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, d + 1).float() ** -0.5
    return torch.randn(n, d, generator=generator) * scales * spread @ basis + 0.1 * (spread - 1)


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, features=(10_000, "features of each set"), dimensions=(2048, "of a feature"))
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore", DeprecationWarning)  # clean-fid's call of sqrtm
    real, fake = (
        moments(correlated(given.features, given.dimensions, seed, spread)) for seed, spread in ((1, 1.0), (2, 1.1))
    )
    frechet(real, fake)  # the root is computed here
    arrays = [(each.mean.numpy(), each.covariance.numpy()) for each in (real, fake)]
    named = [dict(zip(("mu", "sigma"), each, strict=True)) for each in arrays]
    contestants: dict[str, Callable[[], float]] = {
        "clean-fid": lambda: float(frechet_distance(*arrays[0], *arrays[1])),
        "torchmetrics": lambda: float(_compute_fid(real.mean, real.covariance, fake.mean, fake.covariance)),
        "torch-fidelity": lambda: fid_statistics_to_metric(*named, verbose=False)["frechet_inception_distance"],
        "ours, root kept": lambda: frechet(real, fake),
        "ours, root computed": lambda: frechet(Moments(real.mean, real.covariance, real.n), fake),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    values: dict[str, float] = {}
    turns = 1 if given.quick else 3
    for turn in range(turns):
        order = list(contestants.items())
        for name, compute in order[turn % len(order) :] + order[: turn % len(order)]:
            clock = Clock()
            values[name] = compute()
            times[name].append(clock.read().wall)

    medians = {name: statistics.median(taken) for name, taken in times.items()}
    rows = []
    for peer in ("clean-fid", "torchmetrics", "torch-fidelity"):
        for ours in ("ours, root kept", "ours, root computed"):
            faster = medians[peer] / medians[ours]
            judged = peer == "clean-fid" and ours == "ours, root kept"
            goal, met = (f"≥ {FASTER} × faster", faster >= FASTER) if judged else ("", None)
            detail = f"{faster:.1f} × faster"
            rows.append(
                Row(
                    f"s, {peer} / {ours}",
                    medians[peer],
                    medians[ours],
                    medians[ours] / medians[peer],
                    goal,
                    met,
                    detail,
                )
            )
        off = abs(values["ours, root kept"] / values[peer] - 1)
        goal = f"equal to {EQUAL:g}"
        rows.append(
            Row(f"value, {peer}", values[peer], values["ours, root kept"], None, goal, off <= EQUAL, f"{off:.1e} off")
        )
    notes = [
        f"{given.features:,} + {given.features:,} features of {given.dimensions:,} dimensions; from moments to "
        "distance; "
        f"medians of {turns} turns, the order changed with each; {THREADS} threads.",
        "Peers: clean-fid (scipy's sqrtm of the product), torchmetrics and torch-fidelity (its eigenvalues).",
        "; ".join(f"{name} {version(name)}" for name in ("clean-fid", "scipy", "torchmetrics", "torch-fidelity"))
        + ". The speed of scipy's sqrtm changes with its version.",
    ]
    title = "Fréchet distance from moments: peers and ours"
    tell("frechet", title, rows, notes, quick=given.quick, seconds=times, values=values)


if __name__ == "__main__":
    main()
