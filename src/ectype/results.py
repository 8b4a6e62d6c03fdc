"""What is said of runs that were made: their figures, what is off, a page."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ectype.data.feed import Feed
from ectype.data.prepare import prepare
from ectype.data.preview import save_grid
from ectype.data.sources import untiled
from ectype.data.store import Images, Store
from ectype.diagnose import scan
from ectype.diagnose.finding import Finding
from ectype.errors import (
    CheckpointError,
    DataError,
    EctypeWarning,
    RecipeError,
    RunError,
    TrainingError,
)
from ectype.loading import load, open_data
from ectype.measure.evaluate import evaluate as measure
from ectype.measure.evaluation import Evaluation
from ectype.measure.features import Source, choose_extractors
from ectype.measure.standing import Standing
from ectype.measure.view import RunView
from ectype.models.base import Samples
from ectype.recipe import Recipe, data_recipe
from ectype.sections import DataConfig, DataInfo
from ectype.training import checkpoint
from ectype.training.distributed import choose_device
from ectype.training.rundir import RunDir
from ectype.training.watch import to_uint8

__all__ = [
    "diagnose",
    "evaluate",
    "other_source",
    "report",
    "save_evidence",
    "told",
    "validated",
    "view",
]

FIGURES = 6
"""Of what is measured: stored figures of another version are measured anew."""


def evaluate(
    run: RunDir,
    source: str | None = None,
    *,
    device: str | None = None,
    likelihood: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure a run's model on images that it never saw: its own held-out ones, or another source's.

    The result on its own images is stored in the run.

    Args:
        run: That has a model.
        source: Other images than the run's own; where they lie in folders such as `train` and `test`, those held out.
        device: See `choose_device`; None for the one that the run was meant for, where there is such a one.
        likelihood: k of the importance-weighted bound, then of all test images; None for a quick one of some.
        progress: Is told what is measured next.

    Raises:
        RunError: No such run, or no model yet.
        DataError: Another source that cannot be used.
    """
    return view(run, source, device, likelihood, progress=progress).evaluation


def diagnose(what: str, overrides: Sequence[str] = (), *, device: str | None = None) -> list[Finding]:
    """What is off with a run and its images, or with images alone; empty where nothing is.

    Args:
        what: A run's directory, or any source of images.
        overrides: `key=value` of how images are prepared, where images alone are meant.
        device: As `evaluate` takes it.

    Raises:
        RunError: A run without a model.
        DataError: A source that cannot be used.
    """
    if (Path(what) / "recipe.yaml").is_file():
        run = RunDir.existing(what)
        if overrides:
            raise RecipeError(f"{' '.join(overrides)}: a run has its images as they are; leave it out, or name images.")
        return [*scan.of_run(view(run, device=device)), *scan.of_data(open_data(run.recipe.data)[0], run.recipe)]
    text = str(Path(what).resolve()) if Path(what).exists() else what
    return scan.of_data(prepare(data_recipe(text, overrides)))


def save_evidence(found: Sequence[Finding], out: Path) -> list[Path]:
    """Write the pictures that findings rest on, a file for each row, and say where."""
    written = []
    for finding in found:
        for what, images in finding.pictures.items():
            name = f"{finding.name} {what}".replace(" ", "-").replace(",", "")
            save_grid(to_uint8(images), out / f"{name}.png", columns=len(images))
            written.append(out / f"{name}.png")
    return written


def told(found: Sequence[Finding], *, quiet: bool = False) -> list[str]:
    """Findings as lines for a terminal; with `quiet`, none where nothing was found."""
    if not found and not quiet:
        return ["nothing was found that is off"]
    return [line for finding in found for line in finding.lines()]


def validated(run: RunDir) -> Evaluation:
    """Figures on validation images: what may be chosen by. They are not stored."""
    return view(run, split="val").evaluation


def report(runs: Sequence[RunDir], out: Path | None = None) -> Path:
    """Write one page about one or more runs."""
    from ectype.report.page import write_report

    target = out or (runs[0].report if len(runs) == 1 else runs[0].path.resolve().parent / "report.html")
    return write_report(target, [view(run) for run in runs])


def comparison_page(
    runs: Mapping[str, Sequence[RunDir]], found: Sequence[Standing], said: Sequence[str], *, out: Path, command: str
) -> Path:
    """Write one page about runs that were made to be compared: what the figures say, then the first run of each arm."""
    from ectype.report.beside import beside
    from ectype.report.frontier import frontier
    from ectype.report.page import write_report

    views = {arm: view(some[0]) for arm, some in runs.items() if some}
    return write_report(
        out,
        list(views.values()),
        standings=found,
        said=said,
        charts=frontier(runs, found),
        pictures=beside(views),
        command=command,
    )


def view(
    run: RunDir,
    source: str | None = None,
    device: str | None = None,
    likelihood: int | None = None,
    *,
    split: Literal["val", "test"] = "test",
    progress: Callable[[str], None] | None = None,
) -> RunView:
    """A run's model, images and figures, measured if they were not yet. Raises as `evaluate` does."""
    recipe = run.recipe
    model = load(run.path, device=device or _usual(recipe))
    here = next(model.parameters()).device
    prepared, store = open_data(recipe.data)
    config = recipe.data if source is None else other_source(recipe.data, source, store.info)
    own, others, copies = config is recipe.data and split == "test", "", 0
    if config is recipe.data:
        judged = store.split(split)
    else:
        found, asked = open_data(config)
        _check_partners(store.info, asked.info, str(source))
        part, judged = _judged(asked, store.info)
        others = f"images of '{source}'" if part == "train" else f"images held out in '{source}'"
        others += found.left_out
        copies = _copies(found.digests(part), prepared.digests("train"), judged.names)
    train, test = (
        Feed(images, found, here, training=False, seed=recipe.train.seed)
        for images, found in ((store.split("train"), recipe.data), (judged, config))
    )
    if len(test) == 0:
        raise DataError(f"no {split} images to measure on: raise data.split.{split}.")
    moved = config is recipe.data and _trained_on(run) not in (None, prepared.fingerprint)
    # What the figures depend on: these weights and these images.
    key = [FIGURES, checkpoint.load_json(run.model / "manifest.json"), prepared.fingerprint]
    kept = None
    if own and run.evaluation_file.is_file():
        with suppress(RunError, ValueError, KeyError, TypeError):
            held = json.loads(run.evaluation_file.read_text())
            if held["key"] == key and likelihood in (None, held["likelihood"]):
                kept = Evaluation.from_json(json.dumps(held["evaluation"]))
    extractors = []
    if kept is None and isinstance(model, Samples):
        source_of = Source(train, store.info, prepared.root)
        extractors = choose_extractors(recipe.monitor.features, source_of, quick=False).extractors
    evaluation = kept or measure(
        model,
        train,
        test,
        recipe=recipe,
        device=here,
        likelihood_samples=likelihood,
        extractors=extractors,
        progress=progress,
    )
    if others:
        evaluation = replace(evaluation, judged=others)
    for seen, what in (
        (moved, "the images have changed since this run was trained: what is held out now may have been trained on"),
        (copies, f"{copies:,} of these images are among those that this run was trained on"),
    ):
        if seen:
            warnings.warn(f"'{run.path}': {what}.", EctypeWarning, stacklevel=2)
            if what not in evaluation.remarks:
                evaluation = replace(evaluation, remarks=[what, *evaluation.remarks])
    if own and kept is None:
        held = {"key": key, "likelihood": likelihood, "evaluation": json.loads(evaluation.to_json())}
        run.evaluation_file.write_text(json.dumps(held, indent=1, ensure_ascii=False))
    return RunView(run, model, train, test, evaluation)


def _usual(recipe: Recipe) -> str:
    """The device that a run was meant for; any where there is none of that name."""
    with suppress(TrainingError):
        choose_device(recipe.run.device)
        return recipe.run.device
    return "auto"


def _trained_on(run: RunDir) -> str | None:
    """The fingerprint of the images that a run was trained on; None where no checkpoint is left that says so."""
    for place in reversed(checkpoint.places(run.shipped.checkpoints)):
        with suppress(CheckpointError):
            return checkpoint.load_state(place).get("fingerprint")
    return None


def _judged(other: Store, own: DataInfo) -> tuple[str, Images]:
    """Which part of another source is judged, what it holds out by itself or else all, and its images.

    Their classes have the numbers that the run knows them by; none where one is none of the run's.
    """
    parts = dict(other.splits())
    part = next(name for name in ("test", "val", "train") if name in parts)
    images = parts[part]
    if images.labels is not None:
        number = {name: i for i, name in enumerate(own.classes)}
        known = [number.get(name, -1) for name in other.info.classes]
        images.labels = None if -1 in known else torch.tensor(known)[images.labels]
    return part, images


def _copies(judged: np.ndarray, trained: np.ndarray, names: Sequence[str]) -> int:
    """How many images were trained on: of one in parts, all of these."""
    known: dict[str, bool] = {}
    for name, same in zip(names, np.isin(judged, trained), strict=True):
        known[untiled(name)] = known.get(untiled(name), True) and bool(same)
    return sum(known.values())


def _check_partners(own: DataInfo, other: DataInfo, source: str) -> None:
    """Raise `DataError` unless the partners of other images are what a model was trained to make."""
    if own.target is None or other.target is None:
        return
    if len(own.target.classes) != len(other.target.classes):
        found, known = (", ".join(info.target.classes[:6]) for info in (other, own) if info.target is not None)
        raise DataError(
            f"masks in '{source}' have {len(other.target.classes)} classes ({found}), the model knows "
            f"{len(own.target.classes)} ({known}): give masks of these."
        )
    if own.target.channels != other.target.channels:
        kinds = {1: "grey", 3: "in colour"}
        raise DataError(
            f"partners in '{source}' are {kinds[other.target.channels]}, the model makes pictures that are "
            f"{kinds[own.target.channels]}: convert them."
        )


def other_source(config: DataConfig, source: str, info: DataInfo) -> DataConfig:
    """The same preparation for other images, none held out, brought to the size that a model takes."""
    text = str(Path(source).resolve()) if Path(source).exists() else source
    if text == config.source:
        return config
    # What cannot be used is left out and told: there is no recipe at hand that could be changed.
    changes: dict[str, object] = {"source": text, "labels": None, "split": {"val": 0, "test": 0}, "max_rejects": 1.0}
    if info.target is not None and info.target.kind == "masks":
        # A class that the others have none of must not move those behind it.
        changes |= {"class_names": info.target.classes, "class_values": info.target.values or None}
    return DataConfig.model_validate({**config.model_dump(), **changes, "size": info.size, "channels": info.channels})
