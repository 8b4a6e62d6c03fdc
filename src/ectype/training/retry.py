"""Further attempts at a run that went wrong: the recipe with advice applied, until no problem or no advice is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from ectype.analysis.diagnose import check
from ectype.analysis.diagnose.advice import advice_for_verdict
from ectype.analysis.diagnose.finding import Advice, Finding
from ectype.analysis.open_view import open_view
from ectype.analysis.run_view import RunView
from ectype.config.recipe import Recipe
from ectype.config.schema import MAX_SEED
from ectype.core.console import say
from ectype.core.distributed import World
from ectype.core.errors import EctypeError, Interrupted
from ectype.evaluation.figures import Evaluation
from ectype.evaluation.monitor import FATAL_VERDICTS
from ectype.runs import checkpoint
from ectype.runs.load import promote_attempt
from ectype.runs.run_dir import RunDir
from ectype.training.loop import Callback
from ectype.training.on_codes import autoencoder_run
from ectype.training.saved_state import load_saved_state
from ectype.training.session import TrainingSession

__all__ = ["MAX_ATTEMPTS", "train_with_fixes", "train_with_rollback"]

MAX_ATTEMPTS = 3
"""Maximum number of times that a run is trained again with advice applied."""


class _Next(NamedTuple):
    """The next attempt."""

    why: str
    advice: Advice
    start: Path | None
    """The checkpoint with the initial weights; None for those that the run started from."""


Changes = dict[str, Any]
Decide = Callable[[RunDir, Recipe, Sequence[Changes]], _Next | None]
"""Maps an attempt, its recipe and the changes tried so far to the next attempt; None if it is good or no advice is
left."""
Rank = Callable[[RunDir], tuple[float, ...]]
"""How good an attempt is; less is better."""


def train_with_rollback(recipe: Recipe, run: RunDir, *how: Any) -> None:
    """Train a run again from its last healthy weights while its verdict says that it failed.

    Args:
        recipe: The recipe of the run, which has ended.
        run: The run's directory.
        how: Device, world, console and callbacks, as a `TrainingSession` takes them, and the run's initial weights.
    """

    def decide(current: RunDir, now: Recipe, tried: Sequence[Changes]) -> _Next | None:
        verdict = _fatal_verdict(current)
        if not verdict:
            return None
        advice = next((each for each in advice_for_verdict(now, verdict) if each.overrides not in tried), None)
        return None if advice is None else _Next(verdict, advice, _healthy(current))

    def rank(tried: RunDir) -> tuple[float, ...]:
        # Attempts that ended well come first, then the smallest distance.
        best = tried.summary().get("best")
        return (float(bool(_fatal_verdict(tried))), math.inf if best is None else best)

    _attempts("rollback", recipe, run, decide, rank, *how)


def train_with_fixes(recipe: Recipe, run: RunDir, *how: Any) -> None:
    """Train a run again with the advice of the most serious finding, while one is found that a recipe can change.

    Findings and the choice of the best attempt are based on validation images, never on test images.

    Args:
        recipe: The recipe of the run, which has ended.
        run: The run's directory.
        how: Device, world, console and callbacks, as a `TrainingSession` takes them, and the run's initial weights.
    """
    views: dict[Path, RunView] = {}

    def view_of(tried: RunDir) -> RunView:
        if tried.path not in views:
            views[tried.path] = open_view(tried, split="val")
        return views[tried.path]

    def decide(current: RunDir, now: Recipe, tried: Sequence[Changes]) -> _Next | None:
        for finding in _findings(view_of(current)):
            for advice in finding.advice:
                if advice.overrides and advice.overrides not in tried:
                    return _Next(finding.name, advice, None)
        return None

    def rank(tried: RunDir) -> tuple[float, ...]:
        found = _findings(view_of(tried))
        grave = sum(finding.severity == "serious" for finding in found)
        # In a run that is too short to tell, other findings are unknown.
        return (
            any(finding.withholds_others for finding in found),
            grave,
            len(found),
            -_quality(view_of(tried).evaluation),
        )

    _attempts("fix", recipe, run, decide, rank, *how)


def _findings(view: RunView) -> list[Finding]:
    return [finding for finding in check.check_run(view) if finding.severity != "note"]


def _quality(found: Evaluation) -> float:
    """Return the main figure of this kind of model, as a value of which more is better."""
    figure = found.first_of("mean_dice", "psnr", "fd")
    if figure is None:
        return 0.0
    return -figure.value if figure.better == "lower" else figure.value


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
    """Make attempts until no problem is left, select the best, and record what was tried.

    The first process decides for all. What was tried in an earlier call is not tried again.
    """
    summary: dict[str, Any] = world.broadcast(run.summary() if world.is_first else {})
    before: list[dict[str, Any]] = summary.get("attempts", [])
    if any(entry.get("by", "rollback") == by for entry in before):
        return
    base = summary.get("shipped_attempt") or 0
    current, made, tried = (
        (run, [], []) if not base else (run.selected_attempt, [], [entry["changed"] for entry in before])
    )
    recipe = current.recipe if base else recipe
    places = {base: run}
    for number in range(len(before) + 1, len(before) + MAX_ATTEMPTS + 1):
        following: _Next | None = world.broadcast(decide(current, recipe, tried) if world.is_first else None)
        if following is None:
            if by == "fix" and not made:
                say(console, "no problem was found that a recipe could change")
            break
        why, advice, healthy = following
        start = healthy or begun
        tried.append(dict(advice.overrides))
        entry = {"attempt": number, "by": by, "why": why, "from": str(start) if start else None, "changed": tried[-1]}
        made.append(entry)
        origin = f"from {start}" if start else "from the start"
        say(console, f"attempt {number}, {why}, {origin}: {advice.as_arguments()}")
        attempt = run.attempt(number)
        try:
            # Another seed, because the same draws could lead to the same result.
            changed = recipe.override({**advice.overrides, "train.seed": (recipe.train.seed + 1) % (MAX_SEED + 1)})
            autoencoder = autoencoder_run(recipe, run)
            session = TrainingSession(changed, attempt, device, world, console, autoencoder)
            session.go(callbacks, start)
            session.loggers.close()
        except Interrupted:
            raise
        except EctypeError as error:
            # An attempt that cannot be trained is no reason to lose the others.
            entry |= {"state": "failed", "reason": str(error), "best": None}
            say(console, f"attempt {number} failed: {error}")
            continue
        recipe, current = changed, attempt
        places[number] = attempt
        entry |= {key: attempt.summary().get(key) for key in ("state", "reason", "best")} if world.is_first else {}
    if world.is_first and made:
        chosen = min(places, key=lambda number: rank(places[number]))
        if chosen != base:
            promote_attempt(run, places[chosen])
        run.update_summary({"attempts": [*before, *made], "shipped_attempt": chosen})


def _fatal_verdict(run: RunDir) -> str:
    """Return the fatal verdict that a run ended by; empty if there was none.

    A run that ended before a second check could confirm the verdict of its last one has failed as well, unless an
    earlier check was healthy.
    """
    if run.state() in FATAL_VERDICTS:
        return run.state()
    verdicts = [line["verdict"] for line in run.metrics() if "verdict" in line]
    unconfirmed = verdicts[-1:] if "healthy" not in verdicts else []
    return next((verdict for verdict in unconfirmed if verdict in FATAL_VERDICTS), "")


def _healthy(run: RunDir) -> Path | None:
    """Return the checkpoint of the last check with a good verdict; None if there was none."""
    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        return None
    seen = load_saved_state(newest).monitor.healthy_seen
    whole = filter(checkpoint.verify, checkpoint.checkpoint_dirs(run.checkpoints))
    return next((place for place in whole if checkpoint.load_state(place)["seen"] == seen), None)
