"""Open a run for analysis: load its model and images once, and measure the model unless that was done before."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from torch import nn

from ectype.analysis.other_images import (
    check_targets_match,
    count_training_images,
    evaluation_split,
    other_source,
)
from ectype.analysis.run_view import RunView
from ectype.config.recipe import Recipe
from ectype.config.schema import Split
from ectype.core.distributed import choose_device
from ectype.core.errors import DataError, EctypeWarning, RunError, TrainingError
from ectype.data.dataset import ImageStore
from ectype.data.loader import Loader
from ectype.data.prepare import Prepared
from ectype.evaluation.evaluate import evaluate
from ectype.evaluation.features import ExtractorInputs, choose_extractors
from ectype.evaluation.figures import Evaluation
from ectype.evaluation.registered import metric_digests
from ectype.evaluation.training_progress import progress_of_run
from ectype.models.base import Samples
from ectype.runs import checkpoint
from ectype.runs.json_files import read_json_file, write_json_file
from ectype.runs.load import OpenData, images_are_gone, load, open_data, open_run_images, trained_on
from ectype.runs.run_dir import RunDir

__all__ = ["FIGURES_VERSION", "OpenData", "open_view"]

FIGURES_VERSION = 8
"""Version of what is measured. Figures stored by another version are measured again."""

MAX_QUICK_IMAGES = 1000
"""Test images, and samples, of an evaluation that is to be quick (`run.evaluation=quick`)."""


def open_view(
    run: RunDir,
    source: str | None = None,
    device: str | None = None,
    likelihood: int | None = None,
    *,
    split: Literal["val", "test"] = "test",
    progress: Callable[[str], None] | None = None,
    opener: OpenData = open_data,
) -> RunView:
    """Open a run's model, images and figures. The figures are measured if they were not stored before.

    Args:
        run: A run that has a model.
        source: Other images than the run's own. If they have splits such as `train` and `test`, the held-out one.
        device: See `choose_device`. None for the device that the run was meant for, if it exists here.
        likelihood: Draws of the importance-weighted bound, computed on all test images. None for a quick bound on some.
        split: The split of the run's own images that is measured. Figures of `val` are not stored.
        progress: Called with what is measured next.
        opener: Opens the images of a recipe.

    Raises:
        RunError: There is no such run, or it has no model yet.
        DataError: The images cannot be used.
    """
    recipe = run.recipe
    model = load(run.path, device=device or _usual_device(recipe))
    here = next(model.parameters()).device
    config = recipe.data if source is None else other_source(recipe.data, source, model.info)
    own, others, copies = config is recipe.data and split == "test", "", 0
    gone = config is not recipe.data and images_are_gone(recipe.data)
    if gone:
        # A half of the other images takes the place of the training images, which baselines are fitted to.
        config = config.model_copy(update={"split": Split(val=0, test=0.5)})
        prepared, store = open_data(config)
    else:
        prepared, store = open_run_images(run, opener)
    if config is recipe.data:
        images = store.split(split)
    else:
        found, asked = (prepared, store) if gone else open_data(config)
        check_targets_match(model.info, asked.info, str(source))
        part, images = evaluation_split(asked, model.info)
        others = f"images of '{source}'" if part == "train" else f"images held out in '{source}'"
        others += found.rejects_note
        copies = 0 if gone else count_training_images(found.digests(part), prepared.digests("train"), images.names)
    train = Loader(store.split("train"), recipe.data, here, training=False, seed=recipe.train.seed)
    test = Loader(images, config, here, training=False, seed=recipe.train.seed)
    if len(test) == 0:
        raise DataError(f"no {split} images to measure on: raise data.split.{split}.")
    changed = config is recipe.data and trained_on(run) not in (None, prepared.fingerprint)
    # The figures depend on these weights and these images.
    manifest = checkpoint.load_json(run.model / checkpoint.MANIFEST)
    weights = {name: digest for name, digest in manifest.items() if not name.startswith("density-")}
    quick = recipe.run.evaluation == "quick"
    key = [FIGURES_VERSION, weights, prepared.fingerprint, *(["quick"] if quick else [])]
    kept = _stored(run, key, likelihood) if own else None
    evaluation = kept or _measure(model, run, train, test, prepared, store, likelihood, progress)
    if others:
        evaluation = replace(evaluation, test_set=others)
    for applies, remark in (
        (
            gone,
            f"its own images are not at '{recipe.data.source}' any more: baselines are fitted to images of '{source}' "
            "instead, and copies of training images cannot be found; --data NEW names their new place",
        ),
        (changed, "the images have changed since this run was trained: held-out images may have been trained on"),
        (copies, f"{copies:,} of these images are among those that this run was trained on"),
    ):
        if applies:
            warnings.warn(f"'{run.path}': {remark}.", EctypeWarning, stacklevel=2)
            if remark not in evaluation.remarks:
                evaluation = replace(evaluation, remarks=[remark, *evaluation.remarks])
    if own and kept is None:
        held = {
            "key": key,
            "metrics": metric_digests(),
            "likelihood": likelihood,
            "evaluation": json.loads(evaluation.to_json()),
        }
        try:
            write_json_file(run.evaluation_file, held)
        except TrainingError as error:  # such as in the run of someone else, which may be read only
            warnings.warn(f"the figures are not stored: {error}", EctypeWarning, stacklevel=2)
    return RunView(run, model, train, test, evaluation, prepared)


def _measure(
    model: nn.Module,
    run: RunDir,
    train: Loader,
    test: Loader,
    prepared: Prepared,
    store: ImageStore,
    likelihood: int | None,
    progress: Callable[[str], None] | None,
) -> Evaluation:
    recipe, extractors = run.recipe, []
    quick = recipe.run.evaluation == "quick" and likelihood is None
    if isinstance(model, Samples):
        if progress is not None:
            progress("the feature network")
        features = ExtractorInputs(train, store.info, prepared.root)
        extractors = choose_extractors(recipe.monitor.features, features, quick=False).extractors
    return evaluate(
        model,
        train,
        test,
        recipe=recipe,
        device=next(model.parameters()).device,
        likelihood_samples=0 if quick else likelihood,
        max_images=MAX_QUICK_IMAGES if quick else None,
        extractors=extractors,
        training=progress_of_run(run.selected_attempt),
        progress=progress,
    )


def _stored(run: RunDir, key: list[object], likelihood: int | None) -> Evaluation | None:
    """Return the stored figures if they belong to these weights and images."""
    if (held := read_json_file(run.evaluation_file)) is None:
        return None
    with suppress(RunError, ValueError, KeyError, TypeError, AttributeError):
        # Figures of metrics that this process does not know are kept.
        current = metric_digests().items() <= held.get("metrics", {}).items()
        if held["key"] == key and current and likelihood in (None, held["likelihood"]):
            return Evaluation.from_json(json.dumps(held["evaluation"]))
    return None


def _usual_device(recipe: Recipe) -> str:
    """Return the device that a run was meant for, or auto if this machine does not have it."""
    with suppress(TrainingError):
        choose_device(recipe.run.device)
        return recipe.run.device
    return "auto"
