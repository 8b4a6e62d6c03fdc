"""Pictures and figures of every preset for the site, each trained for a few minutes on the shared images.

    python docs/systems.py [--minutes 1] [--processes 1] [NAME …]

The result does not measure how good a preset is; it shows what kind of images each produces. Only some of MNIST's
digits are used, because evaluating on 10,000 takes longer than the training. Runs are kept in the cache, so that an
interrupted command continues.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import warnings
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from ectype.analysis.open_view import open_view
from ectype.analysis.results import evaluate
from ectype.config.recipe import Recipe, load_recipe, preset_names
from ectype.core.errors import EctypeError, EctypeWarning
from ectype.core.files import cache_root
from ectype.core.images import to_uint8
from ectype.data.preview import contact_sheet
from ectype.models.base import Reconstructs, Samples, Translates, evaluating
from ectype.runs.run_dir import RunDir
from ectype.training.run import train

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("ECTYPE_SHARED", HERE.parent.parent / "shared")) / "data"
PLACE = HERE / "site" / "systems"
COLUMNS, ROWS = 8, 2
DIGITS = {"train": 10_000, "t10k": 1_000}
"""Number of digits used of each part of MNIST."""
SIDE = 512
"""Approximate width of a picture in pixels; small images are enlarged by an integer factor."""
FIRST = ("mean_dice", "psnr", "fd", "log_likelihood_iw", "negative_elbo", "coverage", "ssim")
"""Metrics of which one figure each is shown."""


def images(recipe: Recipe) -> tuple[Path, list[str]]:
    """Return shared images that suit a preset, and overrides that resize them for two cores."""
    data = recipe.data
    if data.pairs == "masks":
        return SHARED / "brain", ["size=64", "data.resize=squash"]
    if data.pairs == "images":
        return SHARED / "styles64", ["size=64", "data.input=twitter", "data.target=google"]
    if recipe.about.family == "U-Net" or large(recipe) or starts_as_pca(recipe) or learns_codes(recipe):
        return SHARED / "emoji64", ["size=64"]
    return digits(), []


def large(recipe: Recipe) -> bool:
    """Return whether a preset is designed for images that are larger than digits."""
    return recipe.data.fixed_size is not None and min(recipe.data.fixed_size) >= 64


def starts_as_pca(recipe: Recipe) -> bool:
    """Return whether a preset's networks start as PCA, which shows something in color after minutes."""
    return getattr(getattr(recipe.model, "net", None), "kind", "") == "pca_conv"


def longer(recipe: Recipe) -> float:
    """Return the factor by which a preset must train longer than others for recognizable pictures."""
    if recipe.about.family == "GAN":
        return 6
    is_longer = recipe.about.family == "U-Net" or large(recipe) or starts_as_pca(recipe) or learns_codes(recipe)
    return 4 if is_longer else 1


def digits() -> Path:
    """Return a file with some of MNIST's digits and their labels, training and test separately."""
    file = cache_root() / "systems" / f"mnist-{DIGITS['train']}.npz"
    if not file.is_file():
        arrays = {}
        for part, n in DIGITS.items():
            place = SHARED / "mnist"
            pixels = gzip.decompress((place / f"{part}-images-idx3-ubyte.gz").read_bytes())
            labels = gzip.decompress((place / f"{part}-labels-idx1-ubyte.gz").read_bytes())
            arrays[f"x_{part}"] = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28)[:n]
            arrays[f"y_{part}"] = np.frombuffer(labels, np.uint8, offset=8)[:n]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **arrays)
    return file


def learns_codes(recipe: Recipe) -> bool:
    """Return whether a preset learns the codes of large images, and trains an autoencoder first."""
    return getattr(recipe.model, "autoencoder", "none") != "none"


def trained(name: str, minutes: float, console: Console) -> tuple[RunDir, str]:
    """Return the run of a preset, and the command that trains it."""
    recipe = load_recipe(name)
    source, words = images(recipe)
    words, taken = [*words, "run.threads=1"], minutes * longer(recipe)
    place = cache_root() / "systems" / f"{name}-{taken:g}"
    shown_source = source.name + ("" if source.is_file() else "/")
    run = train(name, source, [*words, f"train.minutes={taken:g}"], out=place, console=console)
    return run, shlex.join(["ectype", "train", name, shown_source, *words, "--minutes", f"{taken:g}"])


def shown(run: RunDir) -> Image.Image:
    """Draw samples, or images above their reconstructions if the model cannot sample."""
    seen = open_view(run, device="cpu")
    model = seen.model
    with evaluating(model):
        if isinstance(model, Samples):
            made = model.sample(COLUMNS * ROWS, generator=torch.Generator().manual_seed(0))
        else:
            places = torch.tensor(seen.chosen(COLUMNS, "systems"))
            batch = seen.test(places, seen.context)
            if isinstance(model, Translates):
                given, wanted = model.input_and_target(batch, seen.context)
                rows = [given.expand(-1, 3, -1, -1), model.to_rgb(model.translate(given)), model.to_rgb(wanted)]
            else:
                assert isinstance(model, Reconstructs)
                rows = [batch.image, model.reconstruct(batch.image)]
            made = torch.cat(rows)
    width = COLUMNS * (made.shape[3] + 2)
    return contact_sheet(to_uint8(made), columns=COLUMNS, scale=max(1, round(SIDE / width))).convert("RGB")


def figures(run: RunDir) -> list[str]:
    """Return the most important figures with their intervals."""
    found = evaluate(run)
    chosen = [found.first_of(metric) for metric in FIRST]
    return [f"{figure.name} {figure.text} ({figure.interval})" for figure in chosen if figure is not None]


def made(given: tuple[str, float]) -> tuple[str, dict[str, Any] | None]:
    """Train a preset if necessary, and write its picture; None if it cannot be trained here."""
    name, minutes = given
    warnings.simplefilter("ignore", EctypeWarning)
    torch.set_num_threads(1)
    console = Console()
    try:
        run, command = trained(name, minutes, console)
    except EctypeError as error:
        console.print(f"{name}: {error}")
        return name, None
    shown(run).save(PLACE / f"{name}.jpg", quality=85)
    device = json.loads(run.environment_file.read_text(encoding="utf-8"))["device"]
    return name, {"command": command, "device": device, "seen": run.summary()["seen"], "figures": figures(run)}


def main() -> None:
    """Train all presets that have no run yet, and write pictures and `systems.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="presets; all if none is given")
    minutes_help = "of training; several times as many for GANs, U-Nets and large networks (1)"
    parser.add_argument("--minutes", type=float, default=1.0, help=minutes_help)
    parser.add_argument("--processes", type=int, default=1, help="at a time (1)")
    given = parser.parse_args()
    PLACE.mkdir(exist_ok=True)
    digits()
    file = PLACE / "systems.json"
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    names = given.names or preset_names()
    with get_context("spawn").Pool(given.processes, maxtasksperchild=1) as pool:
        for name, found in pool.imap_unordered(made, [(name, given.minutes) for name in names]):
            if found is not None:
                said[name] = found
                text = json.dumps(dict(sorted(said.items())), indent=1, ensure_ascii=False)
                file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
