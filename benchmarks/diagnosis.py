"""Does the diagnosis find problems, without false alarms? And does its advice help when it is applied?

    python benchmarks/diagnosis.py [--each 10] [--processes 2] [--fixes 5] [--only -1] [--short 2]

For each finding, runs that are built to have it and healthy counterparts, on MNIST or emoji; a finding counts if
it is among those of a finished run, whatever else is found. Then `--fix` as a user would apply it: quality before and
after, over seeds, for a latent that is too small, posterior collapse, mode collapse and a critic that is too strong.

A third group are short runs: presets as they are, narrow, on colour folders, from 60 to 2,500 updates. Nothing is wrong
with them but that some are too short: a serious finding is a false alarm, "undertrained" is none.

What is not requested (0 runs, another finding) keeps its earlier row in the table.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from common import DATA, KEPT, RESULTS, Clock, Row, arguments, console, emoji, once, side_by_side, tell
from ectype.analysis.open_view import open_view

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from PIL import Image
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from detector import FEW, few
from ectype.analysis import results
from ectype.analysis.diagnose import check
from ectype.config.recipe import load_recipe
from ectype.evaluation.figure_names import display_name
from ectype.evaluation.metrics.intervals import wilson_interval
from ectype.training.run import train

FIRST = 100
"""Seed of the first run; thresholds were set with runs of lower seeds."""
FOLDERS = 200
"""Seed of the first folder; folders of lower seeds showed that images were compared without their colors."""
IMAGES = 6_000
"""MNIST images of a run; with all of them, evaluation takes longer than training."""
SHARED = {"run.threads": 1, "run.pictures": 0, "monitor.patience": None, "monitor.every": 40_000}
DENSE = {"data.size": 16, "train.batch": 64, "hidden": [256], "latent_dim": 32, "train.images": 120_000}
LARGE = {**DENSE, "hidden": [512, 512], "train.images": 320_000, "monitor.every": 8_000}
EMOJI = {"data.size": 32, "width": 16, "train.images": 20_000, "monitor.features": "pixels"}
GAN = {"data.size": 16, "train.batch": 64, "train.images": 400_000, "monitor.on_collapse": "warn"}
SETTLED = {
    "objective.adversary.loss": "relativistic",
    "objective.adversary.penalty": {"r1": 1.0, "r2": 1.0, "gradient": 0.0, "clip": None, "every": 1},
    "optimizer.betas": [0.0, 0.99],
    "optimizer.lr": 2e-4,
}
MAPS = "codes hard to generate: maps without a prior"


class Case(NamedTuple):
    """A finding, how to build runs that have it, and counterparts that do not."""

    finding: str
    preset: str
    sick: Callable[[np.random.Generator], dict[str, Any]]
    healthy: Callable[[np.random.Generator], dict[str, Any]]
    source: str = "mnist"
    figure: str = ""
    """Figure that `--fix` should improve; empty where this is not measured."""


CASES = [
    Case(
        "latent too small",
        "vae-mlp",
        lambda rng: {**DENSE, "latent_dim": int(rng.integers(2, 5))},
        lambda rng: {**DENSE, "latent_dim": int(rng.integers(32, 65))},
        figure="psnr",
    ),
    Case(
        "posterior collapse",
        "vae-mlp",
        lambda rng: {**DENSE, "objective.beta": float(rng.choice([50, 100, 256, 784]))},
        lambda rng: {**DENSE, "objective.beta": float(rng.uniform(0.5, 1))},
        figure="psnr",
    ),
    Case(
        "mode collapse",
        "gan-mlp",
        lambda rng: {**GAN, "optimizer.lr": 1e-3, "optimizer.betas": [0.9, 0.999]},
        lambda rng: {**GAN, **SETTLED},
        figure="fd_classifier",
    ),
    Case(
        "critic too strong",
        "gan-mlp",
        lambda rng: {
            **GAN,
            "objective.adversary.loss": "non_saturating",
            "optimizer.lr": 2e-5,
            "optimizer.players": {"critic": {"lr": float(rng.choice([5e-4, 1e-3]))}},
        },
        lambda rng: {**GAN, **SETTLED},
        figure="fd_classifier",
    ),
    Case(
        "critic too weak",
        "gan-mlp",
        lambda rng: {**GAN, **SETTLED, "optimizer.players": {"critic": {"lr": float(10 ** rng.uniform(-10, -8.5))}}},
        lambda rng: {**GAN, **SETTLED},
    ),
    Case(
        "memorisation",
        "gan-mlp",
        lambda rng: {**GAN, **SETTLED, "train.images": 720_000},
        lambda rng: {**GAN, **SETTLED},
        source="few",
    ),
    Case(
        "blur",
        "ae",
        lambda rng: {**EMOJI, "latent_dim": int(rng.integers(90, 160))},
        lambda rng: {
            **EMOJI,
            "latent": [int(rng.integers(20, 29)), 8, 8],
            "shortcut": "pca",
            "likelihood.output": "linear",
        },
        source="emoji",
    ),
    Case(
        "codes hard to generate",
        "vae-mlp",
        lambda rng: {**DENSE, "objective.beta": float(10 ** rng.uniform(-4, -2))},
        lambda rng: {**DENSE, "objective.beta": float(rng.uniform(0.5, 1))},
    ),
    Case(
        MAPS,
        "ae",
        lambda rng: {
            "data.size": 16,
            "width": 16,
            "train.images": 120_000,
            "latent": [int(rng.integers(14, 19)), 8, 8],
        },
        lambda rng: {
            "data.size": 16,
            "width": 16,
            "train.images": 120_000,
            "latent_dim": 16,
            "model.bottleneck": {"kind": "gaussian"},
            "likelihood": {"kind": "continuous_bernoulli"},
            "objective": {"kind": "elbo", "beta": 1.0},
        },
    ),
    Case("overfitting", "vae-mlp", lambda _: LARGE, lambda _: LARGE, source="few"),
]
NAMES = {
    MAPS: {"codes hard to generate"},
    "mode collapse": {"mode collapse", "modes lost"},
    "memorisation": {"memorisation", "copies, or shrunken modes"},
}
"""Findings that count as detected, where there is more than one name."""


SHORT_UPDATES = (60, 150, 400, 1000, 2500)
"""Updates of the short runs of each family."""
NARROW = {"run.threads": 1, "run.pictures": 0, "data.size": 16, "monitor.features": "pixels"}
NARROW_GAN = {
    f"{part}.{key}": value
    for part in ("model.net", "objective.adversary.critic")
    for key, value in (("width", 8), ("max_width", 32))
} | {"train.batch": 32}
SHORT: dict[str, dict[str, Any]] = {
    "ae": {"width": 8, "train.batch": 32, "train.prior": "none"},
    "vae": {"width": 8, "train.batch": 32, "train.prior": "none"},
    "vae-mlp": {"data.channels": 3, "hidden": [128], "latent_dim": 32, "train.batch": 32},
    "vqvae": {"data.size": 32, "width": 8, "train.batch": 32},
    "dae": {"width": 8, "train.batch": 32},
    "gan": NARROW_GAN,
    "cgan": NARROW_GAN,
    "wgan-gp": NARROW_GAN,
    "gan-mlp": {"data.channels": 3, "train.batch": 32},
    "flow": {"train.batch": 32},
    "unet-denoise": {"width": 8},
    "unet-translate": {"width": 8, "data.input": "twitter", "data.target": "google"},
}
"""Preset → settings that make it cheap; everything else is the preset's. Thresholds were set with the folder
`styles64/train/google`, MNIST and other seeds."""


def short_source(preset: str, seed: int) -> str:
    """Return a folder or file of color images: pairs, classes, or a few hundred images that depend on the seed."""
    if preset == "unet-translate":
        return str(DATA / "styles64")
    if preset == "cgan":
        return str(DATA / "emoji64")
    return str(DATA / "emoji64" / "flags") if seed % 2 else str(emoji(500 * (seed % 6), 500, 32))


def short_trial(given: tuple[str, int, int]) -> dict[str, Any]:
    """Train one short run; return its findings and the verdicts of its last check and of its evaluation."""
    preset, updates, seed = given
    torch.set_num_threads(1)
    words = {**NARROW, **SHORT[preset], "train.seed": seed}
    words["train.images"] = updates * words.get("train.batch", load_recipe(preset).train.batch)
    source = short_source(preset, seed)

    def find() -> dict[str, Any]:
        clock = Clock()
        with TemporaryDirectory() as place:
            run = train(preset, source, words, out=f"{place}/run")
            view = open_view(run, device="cpu")
            found = {finding.name: finding.severity for finding in check.check_run(view)}
            verdicts = [line["verdict"] for line in run.metrics() if "verdict" in line]
        last = verdicts[-1] if verdicts else ""
        return {"found": found, "last": last, "afresh": view.evaluation.verdict, "seconds": clock.read().wall}

    kept = once("short", [preset, Path(source).name, words], find)
    return {"family": preset, "updates": updates, "seed": seed, **kept}


def short_row(family: str, runs: list[dict[str, Any]]) -> Row:
    """Count the short runs of a family with a serious finding, and those judged undertrained by their length."""
    some = [run for run in runs if run["family"] == family]
    wrong = [run for run in some if "serious" in run["found"].values()]
    names = sorted({name for run in wrong for name, severity in run["found"].items() if severity == "serious"})
    by_length = []
    for updates in sorted({run["updates"] for run in some}):
        these = [run for run in some if run["updates"] == updates]
        by_length.append(f"{sum('undertrained' in run['found'] for run in these)} of {len(these)} at {updates:,}")
    judged = [run for run in some if run["last"] and run["afresh"]]
    differ = sum((run["last"] == "collapsed") != (run["afresh"] == "collapsed") for run in judged)
    detail = f"undertrained: {', '.join(by_length)} updates"
    detail += f"; serious: {', '.join(names)}" if names else ""
    detail += f"; last check and evaluation differ on a collapse in {differ} of {len(judged)}" if judged else ""
    what = f"short runs of {family}: with a serious finding"
    return Row(what, len(some), len(wrong), len(wrong) / len(some), "none", not wrong, detail)


def source_of(case: Case, seed: int, *, sick: bool) -> str:
    """Return the training images, other digits for each seed; few of them for a memorizing run."""
    if case.source == "emoji":
        return str(emoji(0, 3000, 32))
    return str(few(200 + seed, FEW if case.source == "few" and sick else IMAGES))


def trial(given: tuple[int, int, bool]) -> dict[str, Any]:
    """Train one run and return its findings."""
    which, seed, sick = given
    torch.set_num_threads(1)
    case = CASES[which]
    words = {**SHARED, **(case.sick if sick else case.healthy)(np.random.default_rng(seed)), "train.seed": seed}
    source = source_of(case, seed, sick=sick)

    def find() -> dict[str, Any]:
        clock = Clock()
        with TemporaryDirectory() as place:
            run = train(case.preset, source, words, out=f"{place}/run")
            found = {finding.name: finding.severity for finding in check.check_run(open_view(run, device="cpu"))}
        return {"found": found, "seconds": clock.read().wall}

    kept = once("diagnosis", [case.preset, Path(source).name, words], find)
    return {"case": case.finding, "seed": seed, "sick": sick, **kept}


def mended(given: tuple[int, int]) -> dict[str, Any]:
    """Measure quality before and after `--fix`."""
    which, seed = given
    torch.set_num_threads(1)
    case = CASES[which]
    words = {**SHARED, **case.sick(np.random.default_rng(seed)), "train.seed": seed}
    source = source_of(case, seed, sick=True)

    def find() -> dict[str, Any]:
        clock = Clock()
        with TemporaryDirectory() as place:
            run = train(case.preset, source, words, out=f"{place}/run")
            before = open_view(run, device="cpu").evaluation[case.figure].value
            run = train(case.preset, source, words, out=f"{place}/run", fix=True)
            after = open_view(run, device="cpu").evaluation[case.figure].value
            tried = [entry["changed"] for entry in run.summary().get("attempts", [])]
        return {"before": before, "after": after, "tried": tried, "seconds": clock.read().wall}

    kept = once("mended", [case.preset, Path(source).name, words], find)
    return {"case": case.finding, "seed": seed, **kept}


def images(place: Path, seed: int, *, sick: bool) -> Path:
    """Write a folder of emoji, without a problem or with one.

    Some emoji differ only in skin tone; those that are least similar to any other are used.
    """
    place.mkdir(parents=True)
    every = np.load(emoji(0, 3000, 32))
    flat = every.reshape(len(every), -1).astype(np.float32)
    apart = NearestNeighbors(n_neighbors=2).fit(flat).kneighbors(flat)[0][:, 1]
    alone = every[np.argsort(-apart)[:1000]]
    kept = alone[np.random.default_rng(seed).permutation(1000)[:700]]
    fault = ("broken", "copies", "kin", "small", "oblong")[seed % 5] if sick else ""
    for i, pixels in enumerate(kept):
        image = Image.fromarray(pixels)
        if fault == "small":
            image = image.resize((12, 12))
        if fault == "oblong":
            image = image.resize((32, 12))
        image.save(place / f"{i:04d}.png")
        if fault == "kin" and i % 4 == 0:
            image.save(place / f"again-{i:04d}.jpg", quality=90)
        if fault == "copies" and i % 20 == 0:
            shutil.copy(place / f"{i:04d}.png", place / f"copy-{i:04d}.png")
        if fault == "broken" and i % 20 == 0:
            (place / f"broken-{i:04d}.png").write_bytes(b"nothing")
    return place


def looked(given: tuple[int, bool]) -> dict[str, Any]:
    """Return the findings of a folder."""
    seed, sick = given
    with TemporaryDirectory() as place:
        found = results.diagnose(str(images(Path(place) / "images", seed, sick=sick)), ["size=32"])
        shutil.rmtree(Path(place) / "images")
    return {"case": "bad data", "seed": seed, "sick": sick, "found": {finding.name: "" for finding in found}}


def rates(name: str, runs: list[dict[str, Any]]) -> list[Row]:
    """Count the runs in which a finding was found: of those built to have it, and of their counterparts."""
    wanted, rows = NAMES.get(name, {name}), []
    for sick in (True, False):
        some = [run for run in runs if run["case"] == name and run["sick"] == sick]
        hits = sum(bool(wanted & set(run["found"])) for run in some)
        low, high = wilson_interval(hits / len(some), len(some))
        others = sorted({other for run in some for other in run["found"]} - wanted)
        detail = f"95% {low:.0%} to {high:.0%}" + (f"; also found: {', '.join(others)}" if others else "")
        what = f"{name}: found in {'runs made to have it' if sick else 'healthy twins'}"
        goal, met = ("all", hits == len(some)) if sick else ("none", hits == 0)
        rows.append(Row(what, len(some), hits, hits / len(some), goal, met, detail))
    return rows


def betterment(case: Case, cured: list[dict[str, Any]]) -> Row:
    """Compare quality before and after the advice was applied."""
    some = [run for run in cured if run["case"] == case.finding]
    before, after = (np.array([run[key] for run in some]) for key in ("before", "after"))
    (low, high), (lowest, highest) = _span(before), _span(after)
    better = lowest > high if case.figure == "psnr" else highest < low
    detail = f"95% over {len(some)} seeds {low:.4g} to {high:.4g} before, {lowest:.4g} to {highest:.4g} after"
    what = f"{case.finding}: {display_name(case.figure)} before, and after --fix"
    return Row(what, float(before.mean()), float(after.mean()), None, "intervals apart", bool(better), detail)


def _span(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95% interval of a mean."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def beside(found: list[dict[str, Any]], part: str, quick: bool) -> list[dict[str, Any]]:
    """Merge new rows with earlier rows of other findings, in the order of the cases."""
    file, new = RESULTS / "diagnosis.json", {run["case"] for run in found}
    before = [] if quick or not file.is_file() else json.loads(file.read_text(encoding="utf-8"))[part]
    order = [case.finding for case in CASES] + ["bad data"]
    both = [run for run in before if run["case"] not in new] + found
    return sorted(both, key=lambda run: (order.index(run["case"]), run["seed"]))


def merge_short(found: list[dict[str, Any]], quick: bool) -> list[dict[str, Any]]:
    """Return new short runs, or the earlier ones where none were requested."""
    file = RESULTS / "diagnosis.json"
    if not found and not quick and file.is_file():
        return json.loads(file.read_text(encoding="utf-8")).get("short", [])
    order = list(SHORT)
    return sorted(found, key=lambda run: (order.index(run["family"]), run["updates"], run["seed"]))


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__,
        each=(10, "runs of each kind"),
        processes=(2, "at a time"),
        fixes=(5, "runs that are trained with --fix, for each finding"),
        only=(-1, "index of a single finding; −1 for all, the last one for folders"),
        short=(2, "short runs of each family and length"),
        updates=(SHORT_UPDATES[-1], "updates of the longest short runs"),
    )
    each, fixes = (2, 1) if given.quick else (given.each, given.fixes)
    chosen = list(range(len(CASES))) if given.only < 0 else [i for i in range(len(CASES)) if i == given.only]
    folders = given.only in (-1, len(CASES))
    # Every finding once with the first seed, then with the next, so that an interrupted benchmark is balanced.
    work = [(i, FIRST + k, sick) for k in range(each) for i in chosen for sick in (True, False)]
    runs, cured = [], []
    for run in side_by_side(trial, work, given.processes):
        runs.append(run)
        console.print(run)
    if folders:
        runs += [looked((FOLDERS + i, sick)) for i in range(each) for sick in (True, False)]
    again = [(i, FIRST + k) for k in range(fixes) for i in chosen if CASES[i].figure]
    for run in side_by_side(mended, again, given.processes):
        cured.append(run)
        console.print(run)
    lengths = [updates for updates in SHORT_UPDATES if updates <= given.updates]
    repeated = range(FIRST, FIRST + (1 if given.quick else given.short))
    brief = [(preset, updates, seed) for seed in repeated for updates in lengths for preset in SHORT]
    briefly = []
    for run in side_by_side(short_trial, brief, given.processes):
        briefly.append(run)
        console.print(run)
    short = merge_short(briefly, given.quick)
    runs, cured = (beside(runs, "runs", given.quick), beside(cured, "mended", given.quick))
    rows = [row for name in dict.fromkeys(run["case"] for run in runs) for row in rates(name, runs)]
    mended_ones = {run["case"] for run in cured}
    rows += [betterment(case, cured) for case in CASES if case.finding in mended_ones]
    rows += [short_row(family, short) for family in dict.fromkeys(run["family"] for run in short)]
    notes = ["Peer: number of runs; ours: in how many it was found. Wilson intervals; for --fix, Student's over seeds."]
    tell("diagnosis", "Findings, and the effect of their advice", rows, notes, runs=runs, mended=cured, short=short)


if __name__ == "__main__":
    main()
