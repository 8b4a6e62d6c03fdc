"""What makes the outputs of autoencoders, VAEs and GANs similar: a small latent, β, or how a loss is reduced?

    python benchmarks/alike.py [--minutes 4] [--processes 2] [--seeds 1]

`ae-conv-256`, `vae-conv-256` and `gan-conv-256` at 64 px on emoji, with latents of 128 and 512. Notes on such models
reported nearly identical reconstructions of a VAE at 128 and blamed the size. A binary cross-entropy that is averaged
over the elements of an image, with a KL that is summed over those of the latent, equals the summed loss with β = the
number of elements of an image. The reduction is therefore varied through β.

The measure: Σ Var over the outputs for test images, divided by Σ Var of the test images themselves. 1 is equal
variance, 0 is one and the same output.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from common import DATA, KEPT, Clock, Row, arguments, console, fastest, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from torch import Tensor

import ectype
from ectype.data.loader import Loader, evaluation_batches
from ectype.evaluation.metrics.codes import active_units
from ectype.evaluation.metrics.frechet_kernel import frechet, moments
from ectype.evaluation.metrics.image_errors import image_errors
from ectype.evaluation.metrics.intervals import jackknife
from ectype.evaluation.metrics.precision_recall import prdc
from ectype.models.autoencoder import Autoencoder, GaussianAutoencoder
from ectype.models.base import Samples, evaluating
from ectype.runs.load import open_data
from ectype.training.run import train

SIDE = 64
NUMBERS = 3 * SIDE * SIDE
LATENTS = (128, 512)
BETAS = {"summed, β 0.1": 0.1, "summed, β 1": 1.0, "averaged, β 1": float(NUMBERS)}


class Arm(NamedTuple):
    """A model, a latent size, and for a VAE the reduction of its loss."""

    preset: str
    latent: int
    reduction: str = ""

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.preset, f"latent {self.latent}", self.reduction)))


ARMS = [
    *(Arm("ae-conv-256", latent) for latent in LATENTS),
    *(Arm("vae-conv-256", latent, reduction) for reduction in BETAS for latent in LATENTS),
    *(Arm("gan-conv-256", latent) for latent in LATENTS),
]

ORDER = {arm.name: place for place, arm in enumerate(ARMS)}


def varied(outputs: Tensor, real: Tensor, draws: int = 1000) -> tuple[float, float, float]:
    """Return Σ Var of outputs ÷ Σ Var of real images, with a 95% interval over images of both."""
    generator = torch.Generator().manual_seed(0)

    def totals(images: Tensor) -> Tensor:
        # The first row is for the images themselves, the others for bootstrap draws, as counts of each image.
        x, n = images.flatten(1).double(), len(images)
        x = x - x.mean(0)
        drawn = torch.randint(n, (draws, n), generator=generator)
        counts = torch.ones(draws + 1, n, dtype=x.dtype)
        counts[1:] = torch.zeros(draws, n, dtype=x.dtype).scatter_add_(1, drawn, torch.ones_like(counts[1:]))
        return (counts @ x.square().sum(1) - (counts @ x).square().sum(1) / n) / (n - 1)

    shares = totals(outputs) / totals(real)
    low, high = np.percentile(shares[1:].numpy(), [2.5, 97.5])
    return float(shares[0]), float(low), float(high)


def places(images: Tensor) -> Tensor:
    """Return images as the mean colors of 8 × 8 squares, from which a distance of few images can be computed."""
    return F.adaptive_avg_pool2d(images, 8).flatten(1)


def apart(real: Tensor, other: Tensor) -> float:
    """Return the squared Fréchet distance of two sets."""
    return frechet(moments(real), moments(other))


def trial(given: tuple[Arm, int, int]) -> dict[str, Any]:
    """Train one run and measure the variance of its outputs."""
    arm, seed, minutes = given
    torch.set_num_threads(1)
    words = [
        *fastest(),
        f"size={SIDE}",
        f"latent_dim={arm.latent}",
        "train.batch=32",
        f"train.minutes={minutes}",
        f"train.seed={seed}",
        "monitor.patience=null",
        "monitor.on_collapse=warn",
        "run.threads=1",
        "run.pictures=0",
        "run.micro_batch=null",
    ]
    if arm.reduction:
        words.append(f"objective.beta={BETAS[arm.reduction]}")
    clock = Clock()
    with TemporaryDirectory() as place:
        run = train(arm.preset, DATA / "emoji64", words, out=f"{place}/run")
        said, model, config = (run.summary(), ectype.load(run.path, device="cpu"), run.recipe.data)
    _, store = open_data(config)

    def held(part: str, most: int | None = None) -> Tensor:
        feed = Loader(store.split(part), config, cpu, training=False)
        return torch.cat(
            [batch.image for batch, _ in feed.batches(*evaluation_batches(store.info, seed, cpu), max_images=most)]
        )

    cpu = torch.device("cpu")
    real = held("test")
    found: dict[str, Any] = {"arm": arm.name, "seed": seed, "seen": said["seen"], "images": len(real)}
    with evaluating(model):
        if isinstance(model, Autoencoder):
            back = torch.cat([model.reconstruct(part).clamp(0, 1) for part in real.split(64)])
            found["reconstructions"] = varied(back, real)
            quality = image_errors(back, real).psnr.double()
            error = 1.96 * float(quality.std()) / len(quality) ** 0.5
            found["PSNR"] = (float(quality.mean()), float(quality.mean()) - error, float(quality.mean()) + error)
        if isinstance(model, GaussianAutoencoder):
            posteriors = [model.posterior(part) for part in real.split(64)]
            found["active units"] = active_units(torch.cat([q.mean.flatten(1) for q in posteriors]))
        if isinstance(model, Samples):
            drawn = model.sample(len(real), generator=torch.Generator().manual_seed(1))
            found["samples"] = varied(drawn.clamp(0, 1), real)
    if isinstance(model, Samples):
        sets = places(real), places(drawn.clamp(0, 1))
        found["distance"] = (apart(*sets), *jackknife(apart, list(sets)))
        found["floor"] = apart(sets[0], places(held("train", len(real))))
        found["coverage"] = prdc(*sets, 5).coverage
    return found | {"seconds": clock.read().wall}


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__, minutes=(4, "of training for each run"), processes=(2, "at a time"), seeds=(1, "of each")
    )
    minutes, seeds = (1, 1) if given.quick else (given.minutes, given.seeds)
    work = [(arm, seed, minutes) for seed in range(seeds) for arm in ARMS]
    runs = []
    for run in side_by_side(trial, work, given.processes):
        runs.append(run)
        console.print(run)
    rows = []
    for run in sorted(runs, key=lambda run: (run["seed"], ORDER[run["arm"]])):
        where = run["arm"] if seeds == 1 else f"{run['arm']}, seed {run['seed']}"
        extra = (
            [f"PSNR {run['PSNR'][0]:.2f} dB ({run['PSNR'][1]:.2f} to {run['PSNR'][2]:.2f})"] if "PSNR" in run else []
        )
        extra += [f"{run['active units']} active units"] if "active units" in run else []
        extra += [f"{run['seen']:,} images"]
        for what in ("reconstructions", "samples"):
            if what in run:
                share, low, high = run[what]
                detail = [f"95% {low:.3g} to {high:.3g}"]
                if what == "samples" and "distance" in run:
                    value, low, high = run["distance"]
                    detail += [f"distance {value:.3g} ({low:.3g} to {high:.3g}; real and real {run['floor']:.2g})"]
                    detail += [f"coverage {run['coverage']:.2f}"]
                else:
                    detail += extra
                rows.append(Row(f"{where}: variance of {what}", 1.0, share, share, detail="; ".join(detail)))
    notes = [
        f"emoji at {SIDE} px, {minutes} minutes each on one thread; test images; variance over the test images' is 1.",
        "distance: squared Fréchet, between the mean colors of 8 × 8 squares.",
        f"'averaged': the cross-entropy's mean over {NUMBERS:,} elements with the KL's sum, that is β = {NUMBERS:,}.",
    ]
    tell("alike", "What makes outputs similar", rows, notes, runs=runs)


if __name__ == "__main__":
    main()
