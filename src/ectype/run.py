"""Runs a recipe on images, once or in several attempts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ectype.assembly import Session
from ectype.diagnose.collapse import advised
from ectype.errors import RecipeError, RunError
from ectype.recipe import Recipe, differences, load_recipe, within
from ectype.results import adopt
from ectype.training import checkpoint
from ectype.training.distributed import World, choose_device, launched
from ectype.training.environment import numerics
from ectype.training.loop import Callback
from ectype.training.monitor import FATAL, Monitor
from ectype.training.rundir import RunDir, find_runs, numbered

__all__ = ["resolve", "train"]

ATTEMPTS = 3
"""Most times that a run is begun anew with advice applied."""


def resolve(
    recipe: str | Path | Recipe | Mapping[str, Any],
    data: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Recipe:
    """A recipe with its data and overrides in place.

    Raises:
        RecipeError: An unknown preset or key, or a value that its key does not admit.
    """
    if data is not None:
        overrides = within(str(data), overrides)
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if isinstance(recipe, Recipe) and overrides:
        found = load_recipe(recipe.plain(), overrides)
    if data is not None:
        text = str(data)
        found = found.override({"data.source": str(Path(text).resolve()) if Path(text).exists() else text})
    if found.data.source is None:
        raise RecipeError("no images named: give a folder, an archive, or a built-in set such as 'digits'.")
    return found


def train(
    recipe: str | Path | Recipe | Mapping[str, Any],
    data: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    out: str | Path | None = None,
    root: str | Path = "runs",
    resume: bool = False,
    start: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
) -> RunDir:
    """Train, or go on training, and return the run's directory.

    Args:
        recipe: A preset's name, a YAML file, or a recipe.
        data: A folder of images or any other source; see the README.
        overrides: `key=value` texts, or a mapping.
        out: The run's directory: made, or gone on with if it holds the same recipe. A numbered one in `root` if not
            given.
        root: Where numbered runs lie.
        resume: Go on with the newest unfinished run of the same recipe in `root`.
        start: A run whose weights are taken at the start, where names and shapes agree.
        callbacks: Yours; see `ectype.Callback`.
        console: Where to speak; None is silent.

    Raises:
        EctypeError: Anything that a user can mend, in one line.
    """
    found = resolve(recipe, data, overrides)
    device = choose_device(found.run.device)
    with launched(device) as world:
        if found.train.batch < world.size:
            raise RecipeError(f"train.batch={found.train.batch} is less than the {world.size} processes: raise it.")
        run = RunDir(world.agree(str(_place(found, out, Path(root), resume)) if world.first else ""))
        if not world.first:
            console = None
        lock = run.locked() if world.first else nullcontext()
        try:
            with lock, numerics(found):
                Session(found, run, device, world, console).go(callbacks, start)
                if found.monitor.on_collapse == "rollback":
                    _try_again(found, run, device, world, console, callbacks)
        except BaseException:
            if world.first:
                run.forget_if_unbegun()
            raise
    return run


def _try_again(
    recipe: Recipe,
    run: RunDir,
    device: torch.device,
    world: World,
    console: Console | None,
    callbacks: Sequence[Callback],
) -> None:
    """While a run has failed by its verdict: begin it anew from its last healthy weights, with advice applied."""
    current, made = run, []
    for number in range(1, ATTEMPTS + 1):
        verdict = world.agree(current.state() if world.first else "")
        advice = next(iter(advised(recipe, verdict)), None) if verdict in FATAL else None
        if advice is None:
            break
        # A seed of its own: the same draws would lead to the same place.
        recipe = recipe.override({**advice.overrides, "train.seed": recipe.train.seed + 1})
        attempt = run.attempt(number)
        begin = world.agree(str(_healthy(current) or "") if world.first else "")
        if console is not None:
            whence = f"from {begin}" if begin else "from the beginning, as nothing was healthy"
            console.print(f"attempt {number}, {whence}: {advice.typed()}", highlight=False, soft_wrap=True)
        Session(recipe, attempt, device, world, console).go(callbacks, Path(begin) if begin else None)
        made.append({"attempt": number, "why": verdict, "from": begin or None, "changed": dict(advice.overrides)})
        current = attempt
    if world.first and made:
        results = [{**entry, **_ending(run.attempt(entry["attempt"]))} for entry in made]
        # Of those that ended well the closest, else the closest of all; the first try is one of them.
        tried = [{"attempt": 0, **_ending(run)}, *results]
        chosen = min(tried, key=lambda entry: (entry["state"] in FATAL, _or_worst(entry["best"])))
        if chosen["attempt"]:
            adopt(run, run.attempt(chosen["attempt"]))
        run.amend_summary({"attempts": results, "shipped_attempt": chosen["attempt"]})


def _ending(run: RunDir) -> dict[str, Any]:
    said = run.summary()
    return {key: said.get(key) for key in ("state", "reason", "best")}


def _or_worst(best: float | None) -> float:
    return math.inf if best is None else best


def _healthy(run: RunDir) -> Path | None:
    """The checkpoint of the last check with a good verdict; None if there was none."""
    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        return None
    seen = Monitor.restored(checkpoint.load_state(newest)["monitor"]).healthy_seen
    places = (place for place in checkpoint.places(run.checkpoints) if checkpoint.load_state(place)["seen"] == seen)
    return next((place for place in places if checkpoint.verify(place)), None)


def _place(recipe: Recipe, out: str | Path | None, root: Path, resume: bool) -> Path:
    if out is not None:
        run = RunDir(out)
        if run.recipe_file.is_file():
            _same(run, recipe)
        return run.path
    if resume:
        for run in reversed(find_runs(root)):
            if not run.ended and not differences(run.recipe, recipe):
                return run.path
        raise RunError(f"no unfinished run of this recipe and data in '{root}': leave --resume out to start one.")
    return numbered(root, recipe.about.name)


def _same(run: RunDir, recipe: Recipe) -> None:
    if changed := differences(run.recipe, recipe):
        keys = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
        raise RunError(f"'{run.path}' was started with another recipe ({keys}): restore these, or give another --out.")
