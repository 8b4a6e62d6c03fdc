"""Pictures and figures of every preset for the site, each trained for a minute or a few on the shared images.

    python docs/systems.py [--minutes 1] [--processes 1] [NAME …]

What this gives is no measure of a system; it shows what kind of pictures each makes. Digits are fewer than
MNIST has: judging 10,000 takes longer than the training. Runs are kept in the cache, so that the command goes on where
it was cut off.
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

import ectype
from ectype.data.preview import contact_sheet
from ectype.errors import EctypeError, EctypeWarning
from ectype.models.base import Reconstructs, Samples, Translates, evaluating
from ectype.paths import cache_root
from ectype.recipe import Recipe, load_recipe, preset_names
from ectype.results import evaluate, view
from ectype.training.rundir import RunDir
from ectype.training.watch import to_uint8

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("ECTYPE_SHARED", HERE.parent.parent / "shared")) / "data"
PLACE = HERE / "site" / "systems"
COLUMNS, ROWS = 8, 2
DIGITS = {"train": 10_000, "t10k": 1_000}
"""Of MNIST, the first of either part."""
CODER = "vae"
"""Preset whose codes are learned by those that are set upon a run."""
SIDE = 512
"""Pixels that a picture is about as wide as: small images are enlarged by a whole number."""
FIRST = ("mean Dice", "PSNR", "FD-", "log-likelihood", "−ELBO", "coverage", "SSIM")
"""Figures that are shown, by the beginnings of their names, one of each."""


def images(recipe: Recipe) -> tuple[Path, list[str]]:
    """Shared images that suit a preset, and words that bring them to a size for two cores."""
    data = recipe.data
    if data.pairs == "masks":
        return SHARED / "brain", ["size=64", "data.resize=squash"]
    if data.pairs == "images":
        return SHARED / "pairs128", ["size=64", "data.input=outline", "data.target=colour"]
    if recipe.about.family == "U-Net" or large(recipe):
        return SHARED / "emoji64", ["size=64"]
    return digits(), []


def large(recipe: Recipe) -> bool:
    """Whether a preset is made for images that are larger than digits."""
    return recipe.data.sides is not None and min(recipe.data.sides) >= 64


def longer(recipe: Recipe) -> float:
    """How many times as long as the others a preset must train for its pictures to show something."""
    if recipe.about.family == "GAN":
        return 6
    return 4 if recipe.about.family == "U-Net" or large(recipe) else 1


def digits() -> Path:
    """A file of some of MNIST's digits and their labels, training and test apart."""
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


def upon(name: str) -> bool:
    """Whether a preset is set upon the codes of another run."""
    return load_recipe(name).model.kind == "on_codes"


def trained(name: str, minutes: float, console: Console) -> tuple[RunDir, str]:
    """The run of a preset, and the command that makes it."""
    recipe = load_recipe(name)
    source, words = images(recipe)
    words, taken = [*words, "run.threads=1"], minutes * longer(recipe)
    place = cache_root() / "systems" / f"{name}-{taken:g}"
    given, told = source, source.name + ("" if source.is_file() else "/")
    if upon(name):
        given, told, words = trained(CODER, minutes, console)[0].path, f"runs/{CODER}", words[-1:]
    run = ectype.train(name, given, [*words, f"train.minutes={taken:g}"], out=place, console=console)
    return run, shlex.join(["ectype", "train", name, told, *words, "--minutes", f"{taken:g}"])


def shown(run: RunDir) -> Image.Image:
    """What a model makes: samples where it samples, else images above what it made of them."""
    seen = view(run, device="cpu")
    model = seen.model
    with evaluating(model):
        if isinstance(model, Samples):
            made = model.sample(COLUMNS * ROWS, generator=torch.Generator().manual_seed(0))
        else:
            places = torch.tensor(seen.chosen(COLUMNS, "systems"))
            batch = seen.test(places, seen.moment)
            if isinstance(model, Translates):
                given, wanted = model.pair(batch, seen.moment)
                rows = [given.expand(-1, 3, -1, -1), model.picture(model.translate(given)), model.picture(wanted)]
            else:
                assert isinstance(model, Reconstructs)
                rows = [batch.image, model.reconstruct(batch.image)]
            made = torch.cat(rows)
    width = COLUMNS * (made.shape[3] + 2)
    return contact_sheet(to_uint8(made), columns=COLUMNS, scale=max(1, round(SIDE / width))).convert("RGB")


def figures(run: RunDir) -> list[str]:
    """The figures that say most, with their intervals."""
    found = evaluate(run).figures
    chosen = [next((figure for figure in found if figure.name.startswith(start)), None) for start in FIRST]
    return [f"{figure.name} {figure.text} ({figure.interval})" for figure in chosen if figure is not None]


def made(given: tuple[str, float]) -> tuple[str, dict[str, Any] | None]:
    """Train a preset if it was not, and write its picture; None where it cannot be trained like this."""
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
    """Train what was not, and write pictures and `systems.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="presets; all if none is named")
    told = "of training, of GANs, U-Nets and large networks several times as many (1)"
    parser.add_argument("--minutes", type=float, default=1.0, help=told)
    parser.add_argument("--processes", type=int, default=1, help="at a time (1)")
    given = parser.parse_args()
    PLACE.mkdir(exist_ok=True)
    digits()
    file = PLACE / "systems.json"
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    names = given.names or preset_names()
    # What is set upon a run comes after that run.
    for turn in (False, True):
        work = [(name, given.minutes) for name in names if upon(name) == turn]
        with get_context("spawn").Pool(given.processes, maxtasksperchild=1) as pool:
            for name, found in pool.imap_unordered(made, work):
                if found is not None:
                    said[name] = found
                    text = json.dumps(dict(sorted(said.items())), indent=1, ensure_ascii=False)
                    file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
