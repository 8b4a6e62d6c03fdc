"""New tries at a run that went wrong: its recipe with advice applied, until nothing is off or left to try."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from ectype.assembly import Session
from ectype.diagnose import scan
from ectype.diagnose.advice import advised
from ectype.diagnose.finding import Advice, Finding
from ectype.errors import EctypeError, Interrupted
from ectype.loading import adopt
from ectype.measure.evaluation import Evaluation
from ectype.measure.view import RunView
from ectype.recipe import Recipe
from ectype.results import view
from ectype.training import checkpoint
from ectype.training.distributed import World
from ectype.training.loop import Callback
from ectype.training.monitor import FATAL, Monitor
from ectype.training.rundir import RunDir

__all__ = ["ATTEMPTS", "fix", "roll_back"]

ATTEMPTS = 3
"""Most times that a run is begun anew with advice applied."""


class _Next(NamedTuple):
    """What to try."""

    why: str
    advice: Advice
    start: Path | None
    """The checkpoint whose weights to begin with; None for those that the run began with."""


Changes = dict[str, Any]
Decide = Callable[[RunDir, Recipe, Sequence[Changes]], _Next | None]
"""A try, its recipe and the changes tried so far to the next one; None where it is good, or nothing is left."""
Rank = Callable[[RunDir], tuple[float, ...]]
"""How good a try is, the less the better."""


def roll_back(recipe: Recipe, run: RunDir, *how: Any) -> None:
    """While a run has failed by its verdict: begin it anew from its last healthy weights.

    Args:
        recipe: Of the run, which has ended.
        run: Where it is.
        how: Device, world, console and callbacks, as a `Session` takes them, and what the run itself began with.
    """

    def decide(current: RunDir, now: Recipe, tried: Sequence[Changes]) -> _Next | None:
        verdict = current.state()
        if verdict not in FATAL:
            return None
        advice = next((each for each in advised(now, verdict) if each.overrides not in tried), None)
        return None if advice is None else _Next(verdict, advice, _healthy(current))

    def rank(tried: RunDir) -> tuple[float, ...]:
        # Of those that ended well the closest, else the closest of all.
        said = tried.summary()
        best = said.get("best")
        return (float(said.get("state") in FATAL), math.inf if best is None else best)

    _attempts("rollback", recipe, run, decide, rank, *how)


def fix(recipe: Recipe, run: RunDir, *how: Any) -> None:
    """While something is found in a run that a recipe can change: begin it anew with the gravest finding's advice.

    What is found, and which try is shipped, is decided by validation images: test images choose nothing.

    Args:
        recipe: Of the run, which has ended.
        run: Where it is.
        how: Device, world, console and callbacks, as a `Session` takes them, and what the run itself began with.
    """
    seen: dict[Path, RunView] = {}

    def look(tried: RunDir) -> RunView:
        if tried.path not in seen:
            seen[tried.path] = view(tried, split="val")
        return seen[tried.path]

    def decide(current: RunDir, now: Recipe, tried: Sequence[Changes]) -> _Next | None:
        for finding in _findings(look(current)):
            for advice in finding.advice:
                if advice.overrides and advice.overrides not in tried:
                    return _Next(finding.name, advice, None)
        return None

    def rank(tried: RunDir) -> tuple[float, ...]:
        found = _findings(look(tried))
        grave = sum(finding.severity == "serious" for finding in found)
        # Of one that is too short to tell, it is not known how many there are.
        return (any(finding.decisive for finding in found), grave, len(found), -_quality(look(tried).evaluation))

    _attempts("fix", recipe, run, decide, rank, *how)


def _findings(seen: RunView) -> list[Finding]:
    return [finding for finding in scan.of_run(seen) if finding.severity != "note"]


def _quality(found: Evaluation) -> float:
    """The more the better: what a model of this kind is first judged by, among tries that have as many findings."""
    for figure in found.figures:
        if figure.name.startswith(("FD-", "FID", "mean Dice", "PSNR")):
            return -figure.value if figure.better == "lower" else figure.value
    return 0.0


def _attempts(
    by: str,
    recipe: Recipe,
    run: RunDir,
    decide: Decide,
    rank: Rank,
    device: torch.device,
    world: World,
    console: Console | None,
    callbacks: Sequence[Callback],
    begun: str | Path | None,
) -> None:
    """Try until nothing is off, ship the best, and note what was tried.

    The first process looks and decides for all. What was tried in an earlier call is not tried again.
    """
    said: dict[str, Any] = world.agree(run.summary() if world.first else {})
    before: list[dict[str, Any]] = said.get("attempts", [])
    if any(entry.get("by", "rollback") == by for entry in before):
        return
    base = said.get("shipped_attempt") or 0
    current, made, tried = (run, [], []) if not base else (run.shipped, [], [entry["changed"] for entry in before])
    recipe = current.recipe if base else recipe
    places = {base: run}
    for number in range(len(before) + 1, len(before) + ATTEMPTS + 1):
        following: _Next | None = world.agree(decide(current, recipe, tried) if world.first else None)
        if following is None:
            if by == "fix" and not made and console is not None:
                console.print("nothing was found that a recipe could change", highlight=False)
            break
        why, advice, healthy = following
        start = healthy or begun
        tried.append(dict(advice.overrides))
        entry = {"attempt": number, "by": by, "why": why, "from": str(start) if start else None, "changed": tried[-1]}
        made.append(entry)
        if console is not None:
            whence = f"from {start}" if start else "from the beginning"
            console.print(f"attempt {number}, {why}, {whence}: {advice.typed()}", highlight=False, soft_wrap=True)
        attempt = run.attempt(number)
        try:
            # A seed of its own: the same draws would lead to the same place.
            changed = recipe.override({**advice.overrides, "train.seed": recipe.train.seed + 1})
            Session(changed, attempt, device, world, console).go(callbacks, start)
        except Interrupted:
            raise
        except EctypeError as error:
            # One that cannot be trained is no reason to lose what there is.
            entry |= {"state": "failed", "reason": str(error), "best": None}
            if console is not None:
                console.print(f"attempt {number} failed: {error}", highlight=False, soft_wrap=True, markup=False)
            continue
        recipe, current = changed, attempt
        places[number] = attempt
        entry |= {key: attempt.summary().get(key) for key in ("state", "reason", "best")} if world.first else {}
    if world.first and made:
        chosen = min(places, key=lambda number: rank(places[number]))
        if chosen != base:
            adopt(run, places[chosen])
        run.amend_summary({"attempts": [*before, *made], "shipped_attempt": chosen})


def _healthy(run: RunDir) -> Path | None:
    """The checkpoint of the last check with a good verdict; None if there was none."""
    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        return None
    seen = Monitor.restored(checkpoint.load_state(newest)["monitor"]).healthy_seen
    places = (place for place in checkpoint.places(run.checkpoints) if checkpoint.load_state(place)["seen"] == seen)
    return next((place for place in places if checkpoint.verify(place)), None)
