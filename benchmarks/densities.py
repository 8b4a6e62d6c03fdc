"""Samples from four densities of the codes of one autoencoder, and from a GAN that was trained for as long.

    python benchmarks/densities.py [--minutes 3] [--only -1]

MNIST at 28 px and emoji at 32 px. The autoencoder trains for that many minutes on one thread, twice as many on emoji,
and the flow on its codes for equally many; the GAN gets the sum. The goal: compared with a Gaussian mixture, a flow at
least halves the excess of its distance from test images over that of real images.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common import DATA, KEPT, Row, arguments, console, emoji, fastest, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

import ectype
from ectype.core.images import to_uint8
from ectype.data.loader import Loader
from ectype.data.preview import save_grid
from ectype.evaluation.features import ExtractorInputs, choose_extractors
from ectype.evaluation.metrics.frechet_kernel import frechet, moments
from ectype.evaluation.metrics.intervals import jackknife
from ectype.evaluation.sample_monitor import SampleMonitor
from ectype.models.autoencoder import Autoencoder
from ectype.models.base import evaluating
from ectype.runs.load import density_of, open_data
from ectype.runs.run_dir import RunDir
from ectype.training.run import train

QUIET = ["run.threads=1", "run.pictures=0", "monitor.patience=null", "monitor.on_collapse=warn", "run.micro_batch=null"]
COLOURED = ["augment={flip: true}", "channels_last=true", *fastest()]
SETS: dict[str, tuple[Any, float, list[str], list[str], list[str]]] = {
    "MNIST": (lambda: DATA / "mnist", 1, ["latent_dim=16", "width=16"], [], ["width=16"]),
    "emoji": (
        lambda: emoji(0, 4000, 32),
        2,
        ["latent_dim=64", "width=32", "loss={l1: 1, perceptual: 0.1}", "network=MobileNetV2", *COLOURED],
        COLOURED,
        ["width=16", *COLOURED],
    ),
}
"""Images, factor of the training time, and overrides for the autoencoder, the flow and the GAN."""
DENSITIES = ("normal", "gaussian", "gmm")
IMAGES = 5000


def run_of(preset: str, source: Any, words: list[str], minutes: float, name: str) -> RunDir:
    """Return a run, trained now or before."""
    limits = [*QUIET, *words, f"train.minutes={minutes}"]
    return train(preset, source, limits, out=Path(KEPT / "densities" / f"{name}-{minutes:g}"), console=console)


def compared(name: str, minutes: float) -> list[Row]:
    """Return the distances of all densities for one set of images."""
    source, times, coder_words, flow_words, gan_words = SETS[name]
    minutes *= times
    coder = run_of("ae", source(), [*coder_words, "prior=none"], minutes, f"{name}-ae")
    flow = run_of("flow", coder.path, flow_words, minutes, f"{name}-flow")
    gan = run_of("gan", source(), gan_words, 2 * minutes, f"{name}-gan")
    config = coder.recipe.data
    prepared, store = open_data(config)
    cpu = torch.device("cpu")
    train, test = (Loader(store.split(part), config, cpu, training=False) for part in ("train", "test"))
    source_of = ExtractorInputs(train, store.info, prepared.root)
    # The features that the monitor of a run would use, the same for all.
    watch = SampleMonitor(
        store.info, train, test, choose_extractors("auto", source_of, quick=True).extractors, images=IMAGES
    )
    space, made = watch.spaces[0], {}
    model = ectype.load(coder.path, device="cpu")
    assert isinstance(model, Autoencoder)
    for density in DENSITIES:
        density_of(coder, model, density)
        model.density = density
        made[density] = watch.draw(model)
    for other, run in (("flow", flow), ("gan, equally long", gan)):
        made[other] = watch.draw(ectype.load(run.path, device="cpu"))
    with evaluating(model):
        made["reconstructions"] = torch.cat(
            [model.reconstruct(part) for part in watch.train_batches(watch.num_samples)]
        )

    def distance(x: Tensor, y: Tensor) -> float:
        return frechet(moments(x), moments(y))

    found = {}
    for kind, images in made.items():
        fake = space.for_distance(watch.features(images[: watch.num_samples])[0][: watch.num_samples])
        real = space.for_distance(space.held_out)
        found[kind] = (distance(real, fake), *jackknife(distance, [real, fake]))
    for kind in ("gmm", "flow"):
        save_grid(to_uint8(made[kind][:64]), KEPT / "densities" / f"{name}-{kind}.png")
    excess = {kind: value - watch.floor for kind, (value, _, _) in found.items()}
    rows = []
    for kind, (value, low, high) in found.items():
        asked = kind == "flow"
        detail = f"95% {low:.4g} to {high:.4g}; real against real {watch.floor:.4g}"
        if asked:
            detail += f"; its excess is {excess['flow'] / excess['gmm']:.2f} of gmm's"
        met = 2 * excess["flow"] <= excess["gmm"] if asked else None
        what = f"{name}: {watch.name} of {kind}"
        rows.append(Row(what, found["gmm"][0], value, value / found["gmm"][0], "½ of the excess" * asked, met, detail))
    return rows


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__, minutes=(3.0, "of training the autoencoder, and the flow"), only=(-1, "index of a set; −1 for all")
    )
    torch.set_num_threads(1)
    minutes = 0.5 if given.quick else given.minutes
    names = list(SETS) if given.only < 0 else [list(SETS)[given.only]]
    rows = [row for name in names for row in compared(name, minutes)]
    notes = [
        f"Test images and as many samples as the monitor of a run draws, at most {IMAGES:,}; one run of each; peer: "
        "gmm.",
        f"One thread: the autoencoder {minutes:g} minutes, {2 * minutes:g} on emoji, the flow equally long, the GAN "
        "the sum.",
    ]
    tell("densities", "Samples from densities of codes", rows, notes)


if __name__ == "__main__":
    main()
