"""Train a recipe on images, in one or several attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from ectype.config.recipe import Recipe, load_recipe, merge_source_override
from ectype.core.console import doing
from ectype.core.distributed import choose_device, process_group
from ectype.core.environment import numerics
from ectype.core.errors import Interrupted, RecipeError, RunError
from ectype.core.signals import StopSignal
from ectype.data.sources.walk import resolve_source
from ectype.nets.diffusers_weights import diffusers_overrides, find_diffusers_folder
from ectype.runs.load import check_same_recipe
from ectype.runs.run_dir import RunDir, find_runs, next_numbered_dir
from ectype.training.autoencoder_first import choose_codes, train_autoencoder
from ectype.training.loggers import check_loggers
from ectype.training.loop import Callback
from ectype.training.on_codes import autoencoder_run, recipe_on_codes, trains_autoencoder
from ectype.training.prior import train_prior
from ectype.training.retry import train_with_fixes, train_with_rollback
from ectype.training.session import TrainingSession

__all__ = ["choose_run_path", "resolve", "train", "train_session"]


def resolve(
    recipe: str | Path | Recipe | Mapping[str, Any],
    data: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    start: str | Path | None = None,
) -> Recipe:
    """Return the complete recipe of a run: its data and overrides in place.

    Args:
        recipe: A preset's name, a YAML file, plain values, or a recipe.
        data: A folder of images or any other source; or the run of an autoencoder, on whose codes the model is trained
            (`flow`, `latent-gan`). Whether these train an autoencoder on images first is decided by `train_session`.
        overrides: `key=value` texts, or a mapping.
        start: Where the initial weights come from. If that is a published network, the recipe takes its architecture,
            unless `recipe` is a `Recipe` already or an override says otherwise.

    Raises:
        RecipeError: An unknown preset or key, or an invalid value.
        ModelError: `start` is another network, or is not available.
    """
    text = None if data is None else resolve_source(str(data))
    if data is not None and RunDir(data).recipe_file.is_file():
        return recipe_on_codes(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), RunDir(data), overrides)
    if data is not None:
        overrides = merge_source_override(str(data), overrides)
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if isinstance(recipe, Recipe):
        found = load_recipe(recipe.plain(), overrides) if overrides else recipe
    elif start is not None and (folder := find_diffusers_folder(start)) is not None:
        found = load_recipe(found.override(diffusers_overrides(found.model, folder)).plain(), overrides)
    if text is not None:
        # Not by an override, which is parsed as YAML: a path may contain a # or a colon.
        found = found.model_copy(update={"data": found.data.model_copy(update={"source": text})})
    if found.data.source is None:
        raise RecipeError("no images given: name a folder, an archive, or a built-in set such as 'digits'.")
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
    fix: bool = False,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
) -> RunDir:
    """Train, or continue training, and return the run's directory. See `train_session` for the arguments and errors."""
    found = resolve(recipe, data, overrides, start=start)
    options: dict[str, Any] = {"out": out, "root": root, "resume": resume, "start": start, "fix": fix}
    session = train_session(found, callbacks=callbacks, console=console, **options)
    session.loggers.close()
    return session.run


def train_session(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    root: str | Path = "runs",
    resume: bool = False,
    start: str | Path | None = None,
    fix: bool = False,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
) -> TrainingSession:
    """Train, or continue training, and return the session, whose images and loggers are open for what follows.

    Args:
        recipe: A resolved recipe; see `resolve`.
        out: The run's directory. It is created, or continued if it holds the same recipe. If it is not given, a
            numbered directory in `root` is created.
        root: The directory of numbered runs.
        resume: Continue the newest unfinished run of the same recipe in `root`.
        start: A run whose weights training starts from, where names and shapes agree; or a diffusers folder, or its
            name on the Hub, `user/name`: then all of them, and its architecture (see `resolve`).
        fix: Diagnose the run. While a problem is found that a recipe can change, train again with the advice applied,
            at most three times; the best attempt is kept.
        callbacks: Your own callbacks; see `ectype.Callback`.
        console: Where progress is printed; None prints nothing.

    Raises:
        EctypeError: Anything that a user can fix, in one line.
    """
    check_loggers(recipe.run.loggers)
    device = choose_device(recipe.run.device)
    with process_group(device) as world:
        if recipe.train.batch < world.size:
            raise RecipeError(
                f"train.batch={recipe.train.batch} is less than the number of processes, {world.size}: raise it."
            )
        path, recipe = world.broadcast(
            choose_run_path(recipe, out, Path(root), resume, console, start) if world.is_first else (Path(), recipe)
        )
        run = RunDir(path)
        if not world.is_first:
            console = None
        lock = run.locked() if world.is_first else nullcontext()
        with lock, numerics(recipe.run.threads, deterministic=recipe.train.deterministic):
            try:
                doing(console, "loading the images")
                autoencoder = autoencoder_run(recipe, run)
                session = TrainingSession(recipe, run, device, world, console, autoencoder)
                if fix:
                    session.store.split("val")  # fails before anything is trained if there are no validation images
                train_autoencoder(recipe, run, device, world, console)
                session.go(callbacks, start)
                if recipe.monitor.on_collapse == "rollback":
                    train_with_rollback(recipe, run, device, world, console, callbacks, start)
                if fix:
                    train_with_fixes(recipe, run, device, world, console, callbacks, start)
                if recipe.train.prior != "none" and world.is_first:
                    train_prior(recipe, run, device, console)  # in this process; the others have nothing to do
            except StopSignal as stop:
                raise Interrupted(_stop_text(run, stop)) from None
            finally:
                if world.is_first:
                    run.remove_if_not_started()
    return session


def _stop_text(run: RunDir, stop: StopSignal) -> str:
    """Return what is left of a run that a signal has stopped outside of its training steps."""
    if not run.recipe_file.is_file():
        return f"{stop.name} before the first step, so there is nothing to save: repeat the command."
    if not run.training_ended:
        return f"{stop.name}: '{run.path}' is saved; repeat the command with --resume to continue."
    return f"{stop.name}: '{run.path}' is trained and saved; repeat the command with --resume for what follows."


def choose_run_path(
    recipe: Recipe,
    out: str | Path | None,
    root: Path,
    resume: bool,
    console: Console | None,
    start: str | Path | None = None,
) -> tuple[Path, Recipe]:
    """Return the directory of a run, as `train_session` chooses it from the same arguments. A new one is created.

    The recipe that is returned with it says whether an autoencoder is trained first, and has the splits that the run
    has if it was started before.
    """
    if trains_autoencoder(recipe):
        doing(console, "loading the images")
        recipe = choose_codes(recipe, console, has_weights=start is not None)
        if start is not None and trains_autoencoder(recipe):
            raise RecipeError(
                f"--from '{start}' gives initial weights, but an autoencoder would be trained first: give the run of "
                "one instead of images, or set autoencoder=none."
            )
    if out is not None:
        run = RunDir(out)
        if recipe.data.source is not None and run.path.resolve() == Path(recipe.data.source).resolve():
            raise RunError(f"'{out}' holds the images: a run there would mix with them; give an --out elsewhere.")
        if run.claim():
            recipe = check_same_recipe(run, recipe, console)
        return run.path, recipe
    if resume:
        started = list(reversed(find_runs(root)))
        # The report is written last: a trained run without one was interrupted while it was evaluated.
        for left in (
            [run for run in started if not run.is_complete],
            [run for run in started if not run.report.is_file()],
        ):
            for run in left:
                # Ignore other runs that cannot be read: damaged ones, or runs of another version.
                with suppress(RecipeError, RunError):
                    return run.path, check_same_recipe(run, recipe, console)
        raise RunError(f"no unfinished run of this recipe and data in '{root}': leave --resume out to start one.")
    return next_numbered_dir(root, recipe.about.name), recipe
