"""CPU seconds to a given quality: `vae-fast` and pythae's default fully connected VAE, on MNIST, one torch thread.

Quality is ½·SSE + KL on the 10,000 test images, which neither was trained on: half the squared error summed over
pixels, plus the KL divergence of the posterior from N(0, I) summed over the code, with one draw of the posterior per
image. Each trained model is loaded from disk and returns its posteriors and the images decoded from the same noise; one
function evaluates both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from common import DATA, PYTHAE, Row, Spent, arguments, console, last_json, mnist, process, pythae_python, tell
from ectype.config.recipe import load_recipe

EPOCHS = 14
LATENT = 16
GOAL = 1 / 3
SOURCE = DATA / "mnist"
ECTYPE = Path(sys.executable).parent / "ectype"
ENVIRONMENT = {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1}

# What a user of the library would write; its imports count for the whole process, not for the call.
OURS = """
import json, resource, sys
import ectype
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
began = cpu()
changes = {"train.seed": int(sys.argv[2]), "run.threads": 1, "device": "cpu"}
ectype.train("vae-fast", sys.argv[1], changes, out=sys.argv[3], progress=False)
print(json.dumps({"cpu": cpu() - began}))
"""


class Result(NamedTuple):
    """Result of one training."""

    seed: int
    call: float
    """CPU seconds of the call that trains."""
    process: Spent
    """Time of the whole process: start, imports, reading the images, training, saving."""
    score: float
    """½·SSE + KL."""
    squares: float
    """½·SSE alone."""


def judge(images: np.ndarray, found: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return ½·SSE + KL in nats per image, and ½·SSE alone, of a model's results for images.

    Args:
        images: [n, 1, 28, 28] uint8.
        found: `mean` and `log_variance` [n, d] of the posteriors, and `expected` [n, 1, 28, 28], each decoded from one
            draw of its posterior.
    """
    mu, log_variance = (found["mean"].astype(np.float64), found["log_variance"].astype(np.float64))
    squares = 0.5 * ((found["expected"].astype(np.float64) - images / 255) ** 2).sum((1, 2, 3))
    kl = 0.5 * (mu**2 + np.exp(log_variance) - log_variance - 1).sum(1)
    return float((squares + kl).mean()), float(squares.mean())


def draw_ours(run: Path, images: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
    """Return posteriors and decoded images of a run's saved model."""
    import torch

    import ectype
    from ectype.models.autoencoder import GaussianAutoencoder

    model = ectype.load(run, device="cpu")
    assert isinstance(model, GaussianAutoencoder)
    with torch.no_grad():
        posterior = model.posterior(torch.from_numpy(images).float() / 255)
        expected = model.decode_unclamped(posterior.sample(torch.from_numpy(noise)))
    found = {"mean": posterior.mean, "log_variance": posterior.log_variance, "expected": expected}
    return {name: value.numpy() for name, value in found.items()}


Environment = Mapping[str, str | int | Path]


def train_ours(seed: int, scratch: Path, images: np.ndarray, noise: np.ndarray, environment: Environment) -> Result:
    """Train `vae-fast` in a separate process and evaluate it."""
    run = scratch / f"ours-{seed}"
    said, spent = process([sys.executable, "-c", OURS, SOURCE, seed, run], **environment)
    return Result(seed, last_json(said)["cpu"], spent, *judge(images, draw_ours(run, images, noise)))


def train_theirs(seed: int, scratch: Path, images: np.ndarray, noise: np.ndarray, environment: Environment) -> Result:
    """Train pythae's VAE in a separate process, decode in another, and evaluate it."""
    peer = [pythae_python(), Path(__file__).parent / "peers" / "pythae_vae.py"]
    said, spent = process([*peer, "train", scratch / "train.npy", scratch / "theirs", EPOCHS, seed], **environment)
    took, out = last_json(said), scratch / "theirs.npz"
    process([*peer, "judge", scratch / "test.npy", took["model"], scratch / "noise.npy", out], **environment)
    return Result(seed, took["cpu"], spent, *judge(images, dict(np.load(out))))


def spread(values: Sequence[float]) -> str:
    """Format mean ± standard deviation over seeds."""
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def compare(
    what: str, theirs: Sequence[float], ours: Sequence[float], goal: str = "", most: float | None = None
) -> Row:
    """Return means over seeds, and their ratio."""
    ratio = mean(ours) / mean(theirs)
    met = None if most is None else ratio <= most
    return Row(what, mean(theirs), mean(ours), ratio, goal, met, f"{spread(theirs)} | {spread(ours)}")


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, seeds=(5, "of each contestant"))
    wanted = {train_theirs: 1, train_ours: 2} if given.quick else {train_theirs: given.seeds, train_ours: given.seeds}
    images = mnist("t10k")
    noise = np.random.default_rng(0).standard_normal((len(images), LATENT), np.float32)
    results: dict[Callable[..., Result], list[Result]] = {train: [] for train in wanted}
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name, array in {"train": mnist("train"), "test": images, "noise": noise}.items():
            np.save(scratch / f"{name}.npy", array)
        environment = {**ENVIRONMENT, "ECTYPE_CACHE": scratch / "cache"}
        command = [ECTYPE, "data", SOURCE, "size=28", "channels=1", "--out", scratch / "data.png"]
        _, prepared = process(command, **environment)
        for seed in range(max(wanted.values())):  # in turns
            for train, count in wanted.items():
                if seed < count:
                    results[train].append(found := train(seed, scratch, images, noise, environment))
                    said = f"seed {seed}: {found.call:.1f} CPU s, ½·SSE + KL {found.score:.3f}"
                    console.print(f"{'pythae' if train is train_theirs else 'vae-fast'}, {said}")
        command = [ECTYPE, "train", "vae-fast", SOURCE, "run.threads=1", "device=cpu", "--out", scratch / "command"]
        _, whole = process(command, **environment)
    theirs, ours = results[train_theirs], results[train_ours]

    def both(read: Callable[[Result], float]) -> tuple[list[float], list[float]]:
        return [read(result) for result in theirs], [read(result) for result in ours]

    rows = [
        compare("½·SSE + KL on test images", *both(lambda r: r.score), "≤ peer's", 1.0),
        compare("of which ½·SSE", *both(lambda r: r.squares)),
        compare("CPU s of the call that trains", *both(lambda r: r.call), "≤ 1/3, aim 1/5", GOAL),
        compare("CPU s of the whole process", *both(lambda r: r.process.cpu), "≤ 1/3, aim 1/5", GOAL),
        compare("wall s of the whole process", *both(lambda r: r.process.wall)),
    ]
    notes = [
        f"Peer: pythae {PYTHAE}, same torch: its default MLP VAE (784-512-16, ½·SSE) with its BaseTrainer, Adam 1e-3, "
        f"batch 128, {EPOCHS} epochs of all 60,000 training images; {len(theirs)} seed(s).",
        f"Ours: ectype.train('vae-fast'), {load_recipe('vae-fast').train.images:,} images shown of those that are not "
        f"held out for validation (10%), checks and checkpoints included; {len(ours)} seeds.",
        "One torch thread each. The last column gives mean ± standard deviation over seeds, peer | ours.",
        f"Not counted above: preparing MNIST once took {prepared.cpu:.1f} CPU s (`ectype data`, whole process); the "
        "command `ectype train vae-fast`, which also evaluates and writes a report, took "
        f"{whole.cpu:.1f} CPU s, {whole.wall:.1f} s.",
    ]
    raw = {"peer": [result._asdict() for result in theirs], "ours": [result._asdict() for result in ours]}
    tell(
        "quality",
        "CPU seconds to a given quality: pythae (peer), vae-fast (ours)",
        rows,
        notes,
        quick=given.quick,
        runs=raw,
    )


if __name__ == "__main__":
    main()
