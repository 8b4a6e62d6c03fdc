"""Several recipes on the same images with the same budget: trained, measured, and weighed against each other."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from ectype.apart import stoppable, train_all
from ectype.data.store import Store
from ectype.errors import EctypeError, Interrupted, RecipeError, RunError
from ectype.loading import open_data
from ectype.measure.evaluation import Evaluation
from ectype.measure.standing import Standing, caution, sentences, standings
from ectype.results import comparison_page, evaluate
from ectype.run import resolve
from ectype.sections import count
from ectype.training.rundir import RunDir

__all__ = ["Arm", "Comparison", "arms_of", "compare", "in_words", "values_of"]

PLAN = "comparison.json"


class Arm(NamedTuple):
    """One of the things compared."""

    name: str
    recipe: str
    words: tuple[str, ...] = ()
    """Overrides."""


class Comparison(NamedTuple):
    """What came of it."""

    path: Path
    runs: dict[str, list[RunDir]]
    """Arm → the runs that came to their end, a seed each."""
    failed: dict[str, str]
    """Run → why it has none."""
    standings: list[Standing]
    said: list[str]
    """The conclusion, sentence by sentence."""
    page: Path


def arms_of(preset: str, words: Sequence[str]) -> tuple[list[Arm], list[str]]:
    """The arms of a study of one knob, and the words that all of them share.

    Args:
        preset: Of all arms.
        words: `key=value`; the one with several values, commas between, is the knob.

    Raises:
        RecipeError: No knob, or several.
    """
    split = {word: values_of(word.partition("=")[2]) for word in words}
    knobs = [word for word, values in split.items() if len(values) > 1]
    if len(knobs) != 1:
        raise RecipeError(
            f"{len(knobs)} keys with several values: a study turns one knob, such as latent_dim=2,8,32; --trials 20 "
            "searches several, and ranges such as latent_dim=2..512."
        )
    key = knobs[0].partition("=")[0]
    arms = [Arm(f"{key}={value}", preset, (f"{key}={value}",)) for value in split[knobs[0]]]
    return arms, [word for word in words if word != knobs[0]]


def values_of(text: str) -> list[str]:
    """Parts between commas that stand in no bracket."""
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
    command: str = "",
    console: Console | None = None,
) -> Comparison:
    """Train every arm with every seed on the same split of the same images, measure all, and write one page.

    Runs are processes of their own: one that fails leaves the others be. Killed and called again with the same
    arguments it goes on where it was, each run bit-equal.

    Args:
        arms: At least two, with different names.
        data: Anything that training accepts.
        out: A directory: made, or gone on with if it holds the same comparison.
        words: Overrides of all arms; what an arm overrides itself comes after.
        images: Budget of each run, such as `500k`.
        minutes: Budget in time instead; each run turns it into images at its start.
        seeds: Runs of each arm, from seed 0 on.
        processes: Runs at a time; 0 for as many as leave each two cores.
        command: What the page says repeats this.
        console: Where to speak; None is silent.

    Raises:
        RecipeError: A recipe that does not resolve, fewer than two arms, or no budget.
        DataError: Unusable images.
        RunError: Another comparison lies there, or no run came to its end.
    """
    place = Path(out)
    names = [arm.name for arm in arms]
    if len(set(names)) < max(2, len(names)):
        raise RecipeError(f"{', '.join(names)}: compare at least two different recipes.")
    if (images is None) == (minutes is None):
        raise RecipeError("give one budget for all: --images 500k, or --minutes 10.")
    for word in (*words, *(word for arm in arms for word in arm.words)):
        if word.partition("=")[0].strip() in ("seed", "train.seed"):
            raise RecipeError(f"{word}: runs of each arm begin with the seeds 0, 1, …; --seeds says how many.")
    cores = os.cpu_count() or 1
    processes = processes or max(1, cores // 2)
    budget = [f"train.images={images}"] if images is not None else [f"train.minutes={minutes:g}"]
    shared = [*words, *budget, f"run.threads={max(1, cores // processes)}"]
    recipes = {
        f"{_safe(arm.name)}-{seed}": (arm.name, resolve(arm.recipe, data, [*shared, *arm.words, f"train.seed={seed}"]))
        for arm in arms
        for seed in range(seeds)
    }
    # Images that cannot be used are said once, before anything is made.
    configs = {recipe.data.model_dump_json(): recipe.data for _, recipe in recipes.values()}
    opened = {said: open_data(config, console) for said, config in configs.items()}
    plan: dict[str, Any] = {name: recipe.plain() for name, (_, recipe) in recipes.items()}
    _same_plan(place, {"runs": plan, "images": sorted({prepared.fingerprint for prepared, _ in opened.values()})})
    held = {said: _held_out(store) for said, (_, store) in opened.items()}

    def say(text: str) -> None:
        if console is not None:
            console.print(text, highlight=False, soft_wrap=True, markup=False)

    say(f"{len(recipes)} runs, {processes} at a time → {place}")
    runs: dict[str, list[RunDir]] = {arm.name: [] for arm in arms}
    found: dict[str, list[Evaluation]] = {arm.name: [] for arm in arms}
    with stoppable():
        failed = train_all(place, {name: recipe for name, (_, recipe) in recipes.items()}, processes, say)
        for name, (arm, _) in recipes.items():
            if name in failed:
                continue
            run = RunDir.existing(place / name)
            try:
                found[arm].append(evaluate(run))
                runs[arm].append(run)
                say(f"{name}: measured")
            except Interrupted:
                raise
            except EctypeError as error:
                failed[name] = str(error)
    if not any(runs.values()):
        raise RunError(f"no run came to its end: {'; '.join(f'{name}: {why}' for name, why in failed.items())}")
    unlike = _unlike(found, runs, held)
    standing = standings(found, alike=not unlike)
    said = [_premise(found, runs, budget[0], seeds), *unlike, *sentences(standing, names)]
    said += filter(None, [caution(standing)])
    said += [f"{name} has no figures: {why}" for name, why in failed.items()]
    page = comparison_page(runs, standing, said, out=place / "comparison.html", command=command)
    return Comparison(place, runs, failed, standing, said, page)


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-=." else "_" for letter in name)


def _same_plan(place: Path, plan: Mapping[str, Any]) -> None:
    """Note what is compared, or make sure that it is what was compared there before."""
    file, text = place / PLAN, json.dumps(plan, indent=1, ensure_ascii=False)
    if file.is_file():
        if file.read_text(encoding="utf-8") != text:
            raise RunError(
                f"'{place}' holds another comparison, or its images have changed: give another --out, or repeat the "
                "command it was made by."
            )
        return
    if place.exists() and any(place.iterdir()):
        raise RunError(f"'{place}' holds something else: give another --out.")
    place.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def in_words(budget: str) -> str:
    """A budget as it is said: `train.images=500k` is 500,000 images."""
    key, value = budget.split("=")
    return f"{count(value):,} images" if key == "train.images" else f"{value} minutes"


def _held_out(store: Store) -> str:
    """Which images are held out, in so many words that other ones have others."""
    names = store.split("test").names
    digest = hashlib.blake2b("\0".join(names).encode("utf-8", "surrogateescape"), digest_size=3).hexdigest()
    return f"{len(names):,} test images, set {digest}"


def _unlike(
    found: Mapping[str, Sequence[Evaluation]], runs: Mapping[str, Sequence[RunDir]], held: Mapping[str, str]
) -> list[str]:
    """Nothing where all arms are judged on the same images; else a sentence on why their figures are not weighed."""
    seen: dict[tuple[str, ...], list[str]] = {}
    for arm, some in found.items():
        for one, run in zip(some, runs[arm], strict=True):
            words = [f"{name}={value}" for name, value in run.recipe.data.prepared.items()]
            tested = held[run.recipe.data.model_dump_json()]
            seen.setdefault((f"{one.image_numbers:,} numbers each", *words, tested), []).append(arm)
    if len(seen) < 2:
        return []
    common = set.intersection(*map(set, seen))
    groups = [
        f"{', '.join(dict.fromkeys(arms))}: {', '.join(each for each in key if each not in common)}"
        for key, arms in seen.items()
    ]
    return [
        f"Images are not the same for all ({'; '.join(groups)}): their figures stand side by side, and are not weighed."
    ]


def _premise(
    found: Mapping[str, Sequence[Evaluation]], runs: Mapping[str, Sequence[RunDir]], budget: str, seeds: int
) -> str:
    one = next(some[0] for some in found.values() if some)
    every = [(name, run) for name, some in runs.items() for run in some]
    early = dict.fromkeys(f"{name} ({run.state()})" for name, run in every if run.state() != "finished")
    stopped = f" Stopped before that: {', '.join(early)}." if early else ""
    anew = dict.fromkeys(name for name, run in every if run.summary().get("attempts"))
    stopped += f" Begun anew after it failed, with as much again each time: {', '.join(anew)}." if anew else ""
    ended = {name: len(some) for name, some in runs.items() if some}
    each = f"{seeds} seeds each"
    if set(ended.values()) != {seeds}:
        each = f"{', '.join(f'{name}: {n}' for name, n in ended.items())} of {seeds} seeds"
    how = (
        f"{each}; intervals are over seeds, 95%."
        if seeds > 1
        else "One seed each: intervals are over test images, 95%, and say nothing of other seeds."
    )
    return (
        f"On these {one.train_images:,} training images, with {in_words(budget)} each, judged on "
        f"{one.test_images:,} held-out test images. {how}{stopped}"
    )
