"""What is done with runs that were made: load, ship another step, fit a density, measure, report."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import nn

from ectype.console import progress_line
from ectype.data.feed import Feed
from ectype.data.prepare import Prepared, prepare
from ectype.data.preview import save_grid
from ectype.data.store import Images, Store, open_store
from ectype.diagnose import scan
from ectype.diagnose.finding import Finding
from ectype.errors import (
    CheckpointError,
    DataError,
    EctypeWarning,
    ModelError,
    RecipeError,
    RunError,
    TrainingError,
    did_you_mean,
)
from ectype.measure.evaluate import evaluate as measure
from ectype.measure.evaluation import Evaluation
from ectype.measure.features import Source, choose_extractors
from ectype.measure.standing import Standing
from ectype.measure.view import RunView
from ectype.models.base import Model, Samples, evaluating
from ectype.models.densities import DENSITIES, Density, fit_density
from ectype.objectives.base import Objective
from ectype.recipe import Recipe, data_recipe, load_recipe
from ectype.sections import DataConfig, DataInfo
from ectype.share.hub import located
from ectype.training import checkpoint
from ectype.training.distributed import choose_device
from ectype.training.position import looking
from ectype.training.rundir import RunDir
from ectype.training.shipped import DrawsCodes, load_model, ship, store_density
from ectype.training.watch import to_uint8
from ectype.untrusted import inside, read_json

__all__ = [
    "density_of",
    "diagnose",
    "evaluate",
    "keep",
    "load",
    "open_data",
    "other_source",
    "recipe_of",
    "report",
    "save_evidence",
    "told",
    "validated",
    "view",
]

FIGURES = 6
"""Of what is measured: stored figures of another version are measured anew."""
CODES = 10_000
"""Images whose codes a density is fitted on, at most."""


def open_data(config: DataConfig, console: Console | None = None) -> tuple[Prepared, Store]:
    """Prepare images, or find them prepared, and say what was found."""
    prepared = prepare(config, progress=progress_line(console))
    if console is not None:
        console.print(prepared.summary, highlight=False, soft_wrap=True)
        for note in prepared.notes:
            console.print(f"  {note}", highlight=False, soft_wrap=True)
    return prepared, open_store(prepared, config)


def keep(run: RunDir | str | Path, step: int, *, store: Store | None = None) -> None:
    """Ship the weights of a checkpoint as the run's model, and fit its densities where it needs them.

    A run that has not ended ships them until it does.

    Raises:
        CheckpointError: No such checkpoint, or it is damaged.
    """
    run = run if isinstance(run, RunDir) else RunDir.existing(run)
    _ship(run, step, store)
    run.amend_summary({"shipped_step": step, "shipped_attempt": 0})


def _ship(run: RunDir, step: int, store: Store | None = None) -> None:
    place = run.checkpoint(step)
    if not checkpoint.verify(place):
        have = ", ".join(str(checkpoint.step_of(path)) for path in checkpoint.places(run.checkpoints))
        raise CheckpointError(f"no whole checkpoint of step {step} in '{run.path}'; have {have or 'none'}.")
    recipe, state = run.recipe, checkpoint.load_state(place)
    store = store or open_data(recipe.data)[1]
    averaged = place / "average.safetensors"
    if averaged.is_file():
        weights = checkpoint.load_tensors(averaged)
    else:
        held = checkpoint.load_tensors(place / "objective.safetensors")
        objective = recipe.objective.build(recipe.model.build(store.info), store.info, images=recipe.train.images)
        objective.load_state_dict(held)
        assert isinstance(objective, Objective)
        weights = objective.model.state_dict()
    ship(run.model, recipe, store.info, weights, step=state["step"], seen=state["seen"])
    model = load_model(run.model)
    if isinstance(model, DrawsCodes) and len(store.split("train")) > 1:
        # Where codes were trained towards a prior, a mixture beside it shows what the prior misses of them.
        for name in ("gaussian", "gmm") if model.prior is None else ("gmm",):
            _fit(run, model, name, store)


def adopt(run: RunDir, attempt: RunDir) -> None:
    """Ship an attempt's model as its run's."""
    with checkpoint.committed(run.model) as scratch:
        for file in attempt.model.iterdir():
            if file.name != checkpoint.MANIFEST:
                shutil.copy2(file, scratch / file.name)


def evaluate(
    run: RunDir, source: str | None = None, *, device: str | None = None, likelihood: int | None = None
) -> Evaluation:
    """Measure a run's model on images that it never saw: its own held-out ones, or another source's.

    The result on its own images is stored in the run.

    Args:
        run: That has a model.
        source: Other images than the run's own; where they lie in folders such as `train` and `test`, those held out.
        device: See `choose_device`; None for the one that the run was meant for, where there is such a one.
        likelihood: k of the importance-weighted bound, then of all test images; None for a quick one of some.

    Raises:
        RunError: No such run, or no model yet.
        DataError: Another source that cannot be used.
    """
    return view(run, source, device, likelihood).evaluation


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

    target = out or runs[0].report
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
) -> RunView:
    """A run's model, images and figures, measured if they were not yet. Raises as `evaluate` does."""
    recipe = run.recipe
    model = load(run.path, device=device or _usual(recipe))
    here = next(model.parameters()).device
    prepared, store = open_data(recipe.data)
    config = recipe.data if source is None else other_source(recipe.data, source, store.info)
    own, asked = config is recipe.data and split == "test", store
    if config is not recipe.data:
        asked = open_data(config)[1]
        _check_partners(store.info, asked.info, str(source))
    judged = store.split(split) if asked is store else _judged(asked, store.info)
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
        model, train, test, recipe=recipe, device=here, likelihood_samples=likelihood, extractors=extractors
    )
    if moved:
        what = "the images have changed since this run was trained: what is held out now may have been trained on"
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


def _judged(other: Store, own: DataInfo) -> Images:
    """What another source holds out by itself, or all of it, with classes by the numbers that the run knows them by.

    No classes where one of theirs is none of the run's.
    """
    parts = dict(other.splits())
    images = next(parts[name] for name in ("test", "val", "train") if name in parts)
    if images.labels is not None:
        number = {name: i for i, name in enumerate(own.classes)}
        known = [number.get(name, -1) for name in other.info.classes]
        images.labels = None if -1 in known else torch.tensor(known)[images.labels]
    return images


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
    changes: dict[str, object] = {"source": text, "labels": None, "split": {"val": 0, "test": 0}}
    if info.target is not None and info.target.kind == "masks":
        # A class that the others have none of must not move those behind it.
        changes |= {"class_names": info.target.classes, "class_values": info.target.values or None}
    return DataConfig.model_validate({**config.model_dump(), **changes, "size": info.size, "channels": info.channels})


def load(path: str | Path, *, device: str = "auto") -> Model:
    """The model of a run, of a model directory, or of a name on the Hub such as `user/name`, ready to use.

    A place that is there goes before a name. What comes from elsewhere is checked and none of it is run; see
    `ectype.untrusted`.

    What it can do is in its methods: `reconstruct`, `encode`, `decode`, `sample`, `log_likelihood`; see
    `ectype.models.base`. Images are tensors [b, c, h, w] in [0, 1].

    Raises:
        RunError: No such run, or it has shipped no model yet.
        CheckpointError: Its files are damaged, or claim what cannot be.
    """
    place = located(path)
    if not (place / "config.json").is_file():
        run = RunDir.existing(place)
        _ship_newest(run)
        place = run.model
    return load_model(place, choose_device(device))


def _ship_newest(run: RunDir) -> None:
    """Ship the newest checkpoint of a run that has not ended, unless a user has chosen one."""
    shipped = run.model / "config.json"
    if shipped.is_file() and (run.trained or "shipped_step" in run.summary()):
        return
    newest = checkpoint.latest(run.checkpoints)
    step = 0 if newest is None else checkpoint.step_of(newest)
    if shipped.is_file() and step in (0, checkpoint.load_json(shipped)["step"]):
        return
    if not step:
        raise RunError(f"'{run.path}' has no model yet: it was stopped before its first check; resume it first.")
    _ship(run, step)


def recipe_of(path: str | Path) -> Recipe:
    """The recipe of a run, or of a model that was handed on. Raises as `load` does."""
    place = located(path)
    handed = place / "recipe.json"
    if handed.is_file():
        return load_recipe(read_json(inside(place, handed.name)))
    return RunDir.existing(place).recipe


def density_of(run: RunDir, model: nn.Module, name: str) -> Density:
    """A density on the codes of a run's model, fitted on its training images and stored if it was not before."""
    if not isinstance(model, DrawsCodes):
        raise ModelError(f"the model of '{run.path}' draws no codes: leave --density out.")
    if name not in DENSITIES:
        raise ModelError(f"no density '{name}'; {did_you_mean(name, DENSITIES)}")
    if name not in model.densities:
        _fit(run, model, name, open_data(run.recipe.data)[1])
    return model.densities[name]


def _fit(run: RunDir, model: nn.Module, name: str, store: Store) -> None:
    assert isinstance(model, DrawsCodes)
    recipe, device = run.recipe, next(model.parameters()).device
    feed = Feed(store.split("train"), recipe.data, device, training=False, seed=recipe.train.seed)
    numbers = int(torch.tensor(next(iter(model.densities.values())).shape).prod())
    most = max(2, min(CODES, 50_000_000 // numbers))
    with evaluating(model):
        codes = [
            model.encode(b.image).cpu()
            for b, _ in feed.sequence(*looking(store.info, recipe.train.seed, device), most=most)
        ]
    model.densities[name] = fit_density(name, torch.cat(codes), seed=recipe.train.seed)
    store_density(run.model, name, model.densities[name])
