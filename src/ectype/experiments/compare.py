"""Compare several recipes on the same images with the same budget."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from rich.console import Console

from ectype.analysis.report.frontier import training_minutes
from ectype.analysis.results import comparison_page, evaluate
from ectype.config.recipe import parse_overrides
from ectype.config.schema import parse_count
from ectype.core.console import doing, say
from ectype.core.errors import EctypeError, RecipeError, RunError
from ectype.data.dataset import ImageStore
from ectype.evaluation.comparison_stats import (
    FigureComparison,
    compare_figures,
    comparison_sentences,
    multiple_comparison_note,
)
from ectype.evaluation.figures import Evaluation
from ectype.evaluation.ranking import ranking_sentences
from ectype.experiments.launcher import claim_folder, launch_runs, running_text, terminate_children
from ectype.runs.load import open_data
from ectype.runs.run_dir import RunDir
from ectype.training.run import resolve

__all__ = ["Arm", "Comparison", "arms_of", "compare", "in_words", "values_of"]

PLAN = "comparison.json"


class Arm(NamedTuple):
    """One of the recipes that are compared."""

    name: str
    recipe: str
    words: tuple[str, ...] = ()
    """Overrides, `key=value`."""


class Comparison(NamedTuple):
    """The result of a comparison."""

    path: Path
    runs: dict[str, list[RunDir]]
    """Name of an arm → its finished runs, one for each seed."""
    failed: dict[str, str]
    """Name of a run → why it has no figures."""
    figures: list[FigureComparison]
    conclusions: list[str]
    """The conclusions: what was compared, then one ranking for each question."""
    details: list[str]
    """Which arms differ, one sentence for each figure."""
    page: Path


def arms_of(preset: str, words: Sequence[str]) -> tuple[list[Arm], list[str]]:
    """Return the arms of a study of one key, and the overrides that all of them share.

    Args:
        preset: The recipe of all arms.
        words: `key=value` texts. The one with several values, separated by commas, is varied.

    Raises:
        RecipeError: Not exactly one key has several values.
    """
    split = {word: values_of(word.partition("=")[2]) for word in words}
    knobs = [word for word, values in split.items() if len(values) > 1]
    if len(knobs) != 1:
        raise RecipeError(
            f"{len(knobs)} keys with several values: a study varies one key, such as latent_dim=2,8,32; --trials 20 "
            "searches several, and ranges such as latent_dim=2..512."
        )
    key = knobs[0].partition("=")[0]
    arms = [Arm(f"{key}={value}", preset, (f"{key}={value}",)) for value in split[knobs[0]]]
    return arms, [word for word in words if word != knobs[0]]


def values_of(text: str) -> list[str]:
    """Split a text at commas that are not inside brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [part.strip() for part in [*parts, text[start:]]]


def compare(
    arms: Sequence[Arm],
    data: str | Path,
    out: str | Path,
    *,
    words: Sequence[str] = (),
    images: str | None = None,
    minutes: float | None = None,
    seeds: int = 1,
    processes: int = 0,
    quick: bool = False,
    command: str = "",
    console: Console | None = None,
) -> Comparison:
    """Train every arm with every seed on the same split of the same images, measure all, and write one page.

    Each run is a separate process, and one that fails does not affect the others. If a comparison is killed and called
    again with the same arguments, it continues, and each run ends bit-equal.

    Args:
        arms: At least two, with different names.
        data: Anything that training accepts.
        out: A directory. It is created, or continued if it holds the same comparison.
        words: Overrides of all arms; the overrides of an arm take precedence.
        images: Budget of each run, such as `500k`.
        minutes: Budget in time instead; each run converts it to images at its start.
        seeds: Runs of each arm, with the seeds 0, 1, ...
        processes: Runs at the same time; 0 for as many as leave two cores to each.
        quick: Measure on fewer images, by fewer samples, and without a bound on the likelihood.
        command: The command that repeats the comparison, for the page.
        console: Where progress is printed; None prints nothing.

    Raises:
        RecipeError: An invalid recipe, fewer than two arms, or not exactly one budget.
        DataError: The images cannot be used.
        RunError: `out` holds another comparison, or no run finished.
    """
    place = Path(out)
    names = [arm.name for arm in arms]
    if len(set(names)) < max(2, len(names)):
        raise RecipeError(f"{', '.join(names)}: compare at least two different recipes.")
    if (images is None) == (minutes is None):
        raise RecipeError("give one budget for all: --images 500k, or --minutes 10.")
    for word in (*words, *(word for arm in arms for word in arm.words)):
        if word.partition("=")[0].strip() in ("seed", "train.seed"):
            raise RecipeError(f"{word}: the runs of each arm have the seeds 0, 1, …; use --seeds to set how many.")
    cores = os.cpu_count() or 1
    processes = processes or max(1, cores // 2)
    budget = [f"train.images={images}"] if images is not None else [f"train.minutes={minutes:g}"]
    shared = {"run.threads": max(1, cores // processes), **parse_overrides([*words, *budget])}
    if quick:
        shared["run.evaluation"] = "quick"

    def changes_of(arm: Arm, seed: int) -> dict[str, Any]:
        return {**shared, **parse_overrides(arm.words), "train.seed": seed}

    recipes = {
        f"{_safe(arm.name)}-{seed}": (arm.name, resolve(arm.recipe, data, changes_of(arm, seed)))
        for arm in arms
        for seed in range(seeds)
    }
    # Images that cannot be used are reported once, before anything is written.
    configs = {recipe.data.model_dump_json(): recipe.data for _, recipe in recipes.values()}
    opened = {key: open_data(config, console) for key, config in configs.items()}
    plan: dict[str, Any] = {name: recipe.plain() for name, (_, recipe) in recipes.items()}
    _same_plan(place, {"runs": plan, "images": sorted({prepared.fingerprint for prepared, _ in opened.values()})})
    held_out = {key: _held_out(store) for key, (_, store) in opened.items()}

    report = partial(say, console)
    report(f"{len(recipes)} runs, {processes} at a time → {place}")
    runs: dict[str, list[RunDir]] = {arm.name: [] for arm in arms}
    found: dict[str, list[Evaluation]] = {arm.name: [] for arm in arms}
    with terminate_children():
        doing(console, lambda: running_text(place, recipes))
        failed = launch_runs(place, {name: recipe for name, (_, recipe) in recipes.items()}, processes, report)
        for name, (arm, _) in recipes.items():
            if name in failed:
                continue
            run = RunDir.existing(place / name)
            doing(console, f"measuring {name}")
            try:
                found[arm].append(evaluate(run, progress=partial(_measuring, console, name)))
                runs[arm].append(run)
                report(f"{name}: measured")
            except EctypeError as error:
                failed[name] = str(error)
    if not any(runs.values()):
        raise RunError(f"no run finished: {'; '.join(f'{name}: {why}' for name, why in failed.items())}")
    different = _different_images(found, runs, held_out)
    figures = compare_figures(found, comparable=not different)
    conclusions = [_premise(found, runs, budget[0], seeds), *different, *ranking_sentences(figures, names)]
    conclusions += [f"{name} has no figures: {why}" for name, why in failed.items()]
    details = [*comparison_sentences(figures, names), *filter(None, [multiple_comparison_note(figures)])]
    doing(console, "writing the page")
    page = comparison_page(runs, figures, conclusions, details=details, out=place / "comparison.html", command=command)
    return Comparison(place, runs, failed, figures, conclusions, details, page)


def _measuring(console: Console | None, name: str, what: str) -> None:
    doing(console, f"measuring {name}: {what}")


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-=." else "_" for letter in name)


def _same_plan(place: Path, plan: Mapping[str, Any]) -> None:
    """Write what is compared, or check that the same was compared there before."""
    file, text = place / PLAN, json.dumps(plan, indent=1, ensure_ascii=False)
    if claim_folder(place, file.name, "comparison", text) != text:
        raise RunError(
            f"'{place}' holds another comparison, or its images have changed: give another --out, or repeat the "
            "command that created it."
        )


def in_words(budget: str) -> str:
    """Return a budget as text: `train.images=500k` becomes 500,000 images."""
    key, value = budget.split("=")
    if key == "train.images":
        return f"{parse_count(value):,} images"
    return f"a budget of {value} minute{'s' * (value != '1')}"


def _held_out(store: ImageStore) -> str:
    """Return a text that identifies the held-out images."""
    names = store.split("test").names
    digest = hashlib.blake2b("\0".join(names).encode("utf-8", "surrogateescape"), digest_size=3).hexdigest()
    return f"{len(names):,} test images, set {digest}"


def _different_images(
    found: Mapping[str, Sequence[Evaluation]], runs: Mapping[str, Sequence[RunDir]], held: Mapping[str, str]
) -> list[str]:
    """Return a sentence on why figures are not compared if arms were measured on different images; else nothing."""
    seen: dict[tuple[str, ...], list[str]] = {}
    for arm, some in found.items():
        for one, run in zip(some, runs[arm], strict=True):
            words = [f"{name}={value}" for name, value in run.recipe.data.preparation.items()]
            tested = held[run.recipe.data.model_dump_json()]
            seen.setdefault((f"{one.image_elements:,} values each", *words, tested), []).append(arm)
    if len(seen) < 2:
        return []
    common = set.intersection(*map(set, seen))
    groups = [
        f"{', '.join(dict.fromkeys(arms))}: {', '.join(each for each in key if each not in common)}"
        for key, arms in seen.items()
    ]
    return [f"Images are not the same for all ({'; '.join(groups)}): their figures are shown, but not compared."]


def _premise(
    found: Mapping[str, Sequence[Evaluation]], runs: Mapping[str, Sequence[RunDir]], budget: str, seeds: int
) -> str:
    one = next(some[0] for some in found.values() if some)
    every = [(name, run) for name, some in runs.items() for run in some]
    early = dict.fromkeys(f"{name} ({run.state()})" for name, run in every if run.state() != "finished")
    stopped = f" Stopped before that: {', '.join(early)}." if early else ""
    retried = dict.fromkeys(name for name, run in every if run.summary().get("attempts"))
    stopped += (
        f" Trained again after a failure, with the same budget each time: {', '.join(retried)}." if retried else ""
    )
    ended = {name: len(some) for name, some in runs.items() if some}
    each = f"{seeds} seeds each"
    if set(ended.values()) != {seeds}:
        each = f"{', '.join(f'{name}: {n}' for name, n in ended.items())} of {seeds} seeds"
    how = (
        f"{each}; intervals are over seeds, 95%."
        if seeds > 1
        else "One seed each: intervals are over test images, 95%, and say nothing about other seeds."
    )
    return (
        f"On these {one.train_images:,} training images, with {in_words(budget)} each{_used_text(runs, budget)}, "
        f"measured on {one.test_images:,} held-out test images{_quick_text(every[0][1])}. {how}{stopped}"
    )


def _used_text(runs: Mapping[str, Sequence[RunDir]], budget: str) -> str:
    """Return what a budget in minutes became: images at the start of each run, at the speed that was measured there."""
    if budget.startswith("train.images"):
        return ""
    used = (f"{name} {mean(map(training_minutes, some)):.1f}" for name, some in runs.items() if some)
    return f" (converted to images at the start; minutes used: {', '.join(used)})"


def _quick_text(run: RunDir) -> str:
    return " and as many samples, without a bound on the likelihood" * (run.recipe.run.evaluation == "quick")
