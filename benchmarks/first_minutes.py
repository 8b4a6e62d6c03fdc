"""What the plain commands leave behind after ten CPU minutes, beside PCA, and beside an earlier version or a prototype.

    python benchmarks/first_minutes.py [--seconds 600] [--seeds 3] [--only ae,vae] [--folders emoji64,NAME=PATH]
        [--before DIR/bin/ectype] [--prototype FILE] [--peers vae,dcgan,diffusion,gmm]

Each row is one command, `ectype train PRESET FOLDER --minutes M`, with nothing else but the size of the images. All
threads together compute for that many seconds while they train. Variants of one drawing share the first word of their
file names and are kept in one split. `--before` is the command of another environment, which is measured in the same
way; `--prototype` is a script that is called with the folder, `--codes 256` and `--cpu-seconds`. `--peers` are
generators of other packages (`peers/pictures.py`), trained for as many CPU seconds and measured as our samples are.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common import DATA, KEPT, PYTHAE, Row, arguments, console, last_json, once, peer_python, process, tell
from ectype.config.recipe import load_recipe
from ectype.data.loader import Loader, evaluation_batches
from ectype.evaluation.features import ExtractorInputs, choose_extractors
from ectype.evaluation.generation import evaluate_samples
from ectype.runs.load import open_data

SIZE = 64
FD = re.compile(r"^fd[_-]", re.IGNORECASE)
OURS = [sys.executable, "-m", "ectype.cli"]
VAL, TEST = 1, 0
DIFFUSION = "2.3.4"
PEER_SAMPLES = 2000
SAMPLE_FIGURES = ("recall", "authenticity", "closer_to_training")


class Command(NamedTuple):
    """One row: a preset, its overrides, the data that it is for, and the goal of its first figure."""

    preset: str
    words: tuple[str, ...] = (f"size={SIZE}",)
    data: str = ""
    """A folder of the shared data; empty for each of the folders of images."""
    figure: str = "psnr_above_pca"
    goal: float | None = None


COMMANDS = {
    "ae": Command("ae", goal=1.8),
    "ae-64": Command("ae", (f"size={SIZE}", "latent_dim=64"), goal=1.0),
    "vae": Command("vae"),
    "flow": Command("flow", figure="fd"),
    "gan": Command("gan", figure="fd"),
    "cgan": Command("cgan", (), "mnist", "fd"),
    "unet-translate": Command("unet-translate", ("data.input=twitter", "data.target=google"), "styles64", "psnr", 16.0),
    "unet-segment": Command("unet-segment", (), "brain", "mean_dice", 0.91),
}


def one_side(source: Path, name: str) -> Path:
    """Return a folder of links to a folder's PNG files, with all files of one first word in one split."""
    place = KEPT / "first-minutes" / name
    if not place.is_dir():
        for file in sorted(source.rglob("*.png")):
            word = re.split(r"[-_]", file.stem)[0]
            split = {TEST: "test", VAL: "val"}.get(zlib.crc32(word.encode()) % 10, "train")
            link = place / split / file.relative_to(source).parent / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    return place


def figures(run: Path) -> dict[str, Any]:
    """Return a run's figures by key, with intervals and baselines, and what it did in its time.

    Runs of early versions have no keys, so that names stand for them.
    """
    found = json.loads((run / "evaluation.json").read_text())["evaluation"]["figures"]
    keys = ("value", "low", "high", "baselines")
    kept = {figure.get("key", figure["name"]): {key: figure.get(key) for key in keys} for figure in found}
    summary = json.loads((run / "summary.json").read_text())
    seconds = summary["seconds"] + summary.get("autoencoder", {}).get("seconds", 0.0)
    return {"figures": kept, "updates": summary["step"], "images": summary["seen"], "seconds": seconds}


def trained(ectype: Sequence[str], command: Command, folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Train by one command; return its figures. A run that was interrupted is continued."""
    key = zlib.crc32(repr((tuple(ectype), command, str(folder), seconds, seed)).encode())
    place = KEPT / "first-minutes" / "runs" / f"{command.preset}-{key:08x}"
    minutes = seconds / 60 / len(os.sched_getaffinity(0))
    limits = ["--minutes", f"{minutes:.3f}", f"train.seed={seed}", "--out", str(place)]
    process([*ectype, "train", command.preset, folder, *command.words, *limits], ECTYPE_CACHE=KEPT)
    return {**figures(place), "run": str(place)}


def prototype(script: Path, folder: Path, seconds: float) -> float:
    """Return the PSNR of a prototype's autoencoder, which gets the share of the time that ours gets."""
    share = (f"{0.65 * seconds:.0f}", f"{0.35 * seconds:.0f}")
    out = KEPT / "first-minutes" / "prototype"
    said, _ = process([sys.executable, script, folder, "--codes", 256, "--cpu-seconds", *share, "--out", out])
    found = re.search(r"autoencoder: ([\d.]+) dB", said)
    return float(found[1]) if found else float("nan")


class Stored(nn.Module):
    """Returns samples that another program has drawn, in their order."""

    def __init__(self, samples: np.ndarray) -> None:
        super().__init__()
        self.samples, self.next = torch.from_numpy(samples), 0

    def sample(self, n: int, *, label: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Return the next `n` samples."""
        self.next += n
        return self.samples[self.next - n : self.next].float() / 255


def peer(name: str, folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Train a peer on a folder's training images; return the figures of its samples, as those of our runs."""
    config = load_recipe("vae", {"data.size": SIZE}).data.model_copy(update={"source": str(folder)})
    prepared, store = open_data(config)
    train, test = (Loader(store.split(part), config, torch.device("cpu"), training=False) for part in ("train", "test"))
    place = KEPT / "first-minutes" / "peers"
    place.mkdir(parents=True, exist_ok=True)
    images, samples = place / f"{folder.name}.npy", place / f"{folder.name}-{name}-{seed}.npy"
    size, context = evaluation_batches(store.info, 0, train.device)
    pixels = torch.cat([batch.image for batch, _ in train.batches(size, context)])
    np.save(images, (pixels * 255).round().byte().numpy())
    packages = (f"pythae=={PYTHAE}", f"denoising-diffusion-pytorch=={DIFFUSION}", "scikit-learn")
    words = (name, images, f"{seconds:.0f}", PEER_SAMPLES, seed, samples)
    said, _ = process([peer_python("pictures", *packages), Path(__file__).parent / "peers" / "pictures.py", *words])
    chosen = choose_extractors("auto", ExtractorInputs(train, store.info, prepared.root), quick=False).extractors
    model = Stored(np.load(samples))
    found = evaluate_samples(model, train, test, chosen, store.info, seed=seed, max_samples=PEER_SAMPLES)
    keys = ("value", "low", "high", "baselines")
    kept = {figure.key: {key: getattr(figure, key) for key in keys} for figure in found.figures}
    return {"figures": kept, "samples": str(samples), **last_json(said)}


def first(found: dict[str, Any], figure: str) -> dict[str, Any]:
    """Return the figure of this key; `fd` stands for the first Fréchet distance."""
    figures = found["figures"]
    key = next((key for key in figures if FD.match(key)), "") if figure == "fd" else figure
    return figures[key]


def row(name: str, command: Command, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Row:
    """Return the row of one command over seeds."""
    ours = [first(found, command.figure)["value"] for found in after]
    theirs = [first(found, command.figure)["value"] for found in before]
    mean, peer = statistics.mean(ours), statistics.mean(theirs) if theirs else float("nan")
    updates = statistics.mean(found["updates"] for found in after)
    details = [f"{min(ours):.4g} to {max(ours):.4g}" if len(ours) > 1 else "one seed", f"{updates:,.0f} updates"]
    for key in SAMPLE_FIGURES:
        if key in after[0]["figures"]:
            details.append(f"{key} {statistics.mean(found['figures'][key]['value'] for found in after):.3g}")
    if any(map(FD.match, after[0]["figures"])):
        distance = first(after[0], "fd")
        real = (distance["baselines"] or {}).get("real_images", float("nan"))
        details.append(f"FD {distance['value']:.4g} (real {real:.4g})")
    goal = "" if command.goal is None else f"at least {command.goal:g}"
    met = None if command.goal is None else mean >= command.goal
    return Row(f"{name}: {command.figure}", peer, mean, mean / peer if theirs else None, goal, met, "; ".join(details))


def folders(text: str) -> Iterator[tuple[str, Path]]:
    """Yield the folders of images: shared ones by name, others as NAME=PATH."""
    for word in filter(None, text.split(",")):
        name, _, path = word.partition("=")
        yield name, one_side(Path(path) if path else DATA / name, name)


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__,
        seconds=(600.0, "CPU seconds of training for each command"),
        seeds=(3, "seeds of each command"),
        only=(",".join(COMMANDS), "rows, separated by commas"),
        folders=("emoji64", "folders of images, separated by commas"),
        before=("", "the command `ectype` of an earlier version's environment"),
        prototype=("", "a prototype's script"),
        peers=("", "peers, separated by commas: vae, dcgan, diffusion, gmm"),
    )
    seconds, seeds = (60.0, 1) if given.quick else (given.seconds, given.seeds)
    rows, raw = [], {}
    names = list(filter(None, given.only.split(",")))
    if unknown := [name for name in names if name not in COMMANDS]:
        sys.exit(f"--only: no row {', '.join(unknown)}; choose from {', '.join(COMMANDS)}.")
    for name in names:
        command = COMMANDS[name]
        places = [(command.data, DATA / command.data)] if command.data else list(folders(given.folders))
        for place, folder in places:
            both: list[list[dict[str, Any]]] = [[], []]
            for seed in range(seeds):
                for side, ectype in zip(both, ([given.before], OURS), strict=True):
                    if ectype[0]:
                        work = (ectype, command, folder, seconds, seed)
                        side.append(once("first_minutes", work, partial(trained, *work)))
            rows.append(row(f"{name} on {place}", command, *both))
            raw[f"{name} on {place}"] = dict(zip(("before", "ours"), both, strict=True))
            console.print(rows[-1].what, rows[-1].ours, rows[-1].detail)
            if given.prototype and name == "ae":
                raw[f"prototype on {place}, PSNR"] = prototype(Path(given.prototype), folder, seconds)
    for name, folder in folders(given.folders):
        for other in filter(None, given.peers.split(",")):
            work = (other, folder, seconds, 0)
            found = once("first_minutes", work, partial(peer, *work))
            distance, real = (
                first(found, "fd"),
                (first(found, "fd")["baselines"] or {}).get("real_images", float("nan")),
            )
            rest = "; ".join(f"{key} {found['figures'][key]['value']:.3g}" for key in SAMPLE_FIGURES)
            detail = f"{found['updates']:,} updates; {rest}; real {real:.4g}"
            rows.append(Row(f"{other} (peer) on {name}: fd", distance["value"], float("nan"), None, "", None, detail))
            raw[f"{other} (peer) on {name}"] = found
            console.print(rows[-1].what, distance["value"], detail)
    threads = len(os.sched_getaffinity(0))
    notes = [f"{seconds:g} CPU seconds of training for each command, over {threads} threads; {seeds} seed(s)."]
    tell("first_minutes", "The first ten minutes", rows, notes, runs=raw)


if __name__ == "__main__":
    main()
