"""Runs a recipe on images, once or in several attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from ectype.assembly import Session
from ectype.attempts import fix as mend
from ectype.attempts import roll_back
from ectype.errors import ModelError, RecipeError, RunError
from ectype.loading import load
from ectype.models.base import Encodes, has_own_codes
from ectype.nets.published import described, find_published
from ectype.recipe import Recipe, differences, load_recipe, within
from ectype.training.distributed import choose_device, launched
from ectype.training.environment import numerics
from ectype.training.loop import Callback
from ectype.training.rundir import RunDir, find_runs, numbered

__all__ = ["resolve", "train"]


def resolve(
    recipe: str | Path | Recipe | Mapping[str, Any],
    data: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    start: str | Path | None = None,
) -> Recipe:
    """A recipe with its data and overrides in place.

    Args:
        recipe: A preset's name, a YAML file, plain values, or a recipe.
        data: A folder of images or any other source.
        overrides: `key=value` texts, or a mapping.
        start: Whose weights it will begin with. Where that is a network that others published, the recipe takes its
            architecture, unless it is one already or an override says otherwise.

    Raises:
        RecipeError: An unknown preset or key, or a value that its key does not admit.
        ModelError: A start that is of another network, or cannot be had.
    """
    if data is not None and RunDir(data).recipe_file.is_file():
        return _upon(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), RunDir(data), overrides)
    if data is not None:
        overrides = within(str(data), overrides)
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if isinstance(recipe, Recipe):
        found = load_recipe(recipe.plain(), overrides) if overrides else recipe
    elif start is not None and (folder := find_published(start)) is not None:
        found = load_recipe(found.override(described(found.model, folder)).plain(), overrides)
    if data is not None:
        text = str(data)
        # Not by an override, which reads words as YAML does: a name may hold a # or a colon.
        source = str(Path(text).resolve()) if Path(text).exists() else text
        found = found.model_copy(update={"data": found.data.model_copy(update={"source": source})})
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
    fix: bool = False,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
) -> RunDir:
    """Train, or go on training, and return the run's directory.

    Args:
        recipe: A preset's name, a YAML file, or a recipe.
        data: A folder of images or any other source, see the README; or the run of an autoencoder, whose codes are
            then learnt (`flow`, `latent-gan`).
        overrides: `key=value` texts, or a mapping.
        out: The run's directory: made, or gone on with if it holds the same recipe. A numbered one in `root` if not
            given.
        root: Where numbered runs lie.
        resume: Go on with the newest unfinished run of the same recipe in `root`.
        start: A run whose weights are taken at the start, where names and shapes agree; or a folder of diffusers, or
            its name on the Hub, user/name: then all of them, and its architecture (see `resolve`).
        fix: Diagnose the run, and while something is off that a recipe can change, train anew with the advice applied,
            three times at most; the best is shipped.
        callbacks: Yours; see `ectype.Callback`.
        console: Where to speak; None is silent.

    Raises:
        EctypeError: Anything that a user can mend, in one line.
    """
    found = resolve(recipe, data, overrides, start=start)
    device = choose_device(found.run.device)
    with launched(device) as world:
        if found.train.batch < world.size:
            raise RecipeError(f"train.batch={found.train.batch} is less than the {world.size} processes: raise it.")
        run = RunDir(world.agree(str(_place(found, out, Path(root), resume)) if world.first else ""))
        if not world.first:
            console = None
        lock = run.locked() if world.first else nullcontext()
        with lock, numerics(found):
            try:
                session = Session(found, run, device, world, console)
                if fix:
                    session.store.split("val")  # by which it is decided: said before anything is trained
                session.go(callbacks, start)
                if found.monitor.on_collapse == "rollback":
                    roll_back(found, run, device, world, console, callbacks, start)
                if fix:
                    mend(found, run, device, world, console, callbacks, start)
            except BaseException:
                if world.first:
                    run.forget_if_unbegun()
                raise
    return run


def _upon(recipe: Recipe, run: RunDir, overrides: Sequence[str] | Mapping[str, Any]) -> Recipe:
    """A recipe for the codes of a run's model, on the run's images."""
    place, trained = run.path.resolve(), run.shipped.recipe
    # Refused before the model is loaded, where it cannot be meant.
    recipe.model.upon(place, trained.model)
    model = load(run.path, device="cpu")
    if not (isinstance(model, Encodes) and has_own_codes(model)):
        raise ModelError(f"the model of '{run.path}' has no codes of its own: give the run of an autoencoder.")
    # The size is that of the model, whatever becomes of the images.
    data = trained.data.model_copy(update={"size": model.info.size, "channels": model.info.channels})
    suited = recipe.model_copy(update={"data": data, "model": recipe.model.on_codes(tuple(model.code_shape))})
    found = load_recipe(suited.plain(), overrides)
    # Last, so that no override is one of the coder.
    return found.model_copy(update={"model": found.model.upon(place, trained.model)})


def _place(recipe: Recipe, out: str | Path | None, root: Path, resume: bool) -> Path:
    if out is not None:
        run = RunDir(out)
        if recipe.data.source is not None and run.path.resolve() == Path(recipe.data.source).resolve():
            raise RunError(f"'{out}' holds the images, among which a run would lie: give an --out that lies elsewhere.")
        if run.recipe_file.is_file():
            _same(run, recipe)
        return run.path
    if resume:
        begun = list(reversed(find_runs(root)))
        # A command's last act is the report: what was trained and has none was cut off while it was looked at.
        for left in ([run for run in begun if not run.ended], [run for run in begun if not run.report.is_file()]):
            for run in left:
                # A neighbour that cannot be read, cut short or made by another version, is none of this one's business.
                with suppress(RecipeError):
                    if not differences(run.recipe, recipe):
                        return run.path
        raise RunError(f"no unfinished run of this recipe and data in '{root}': leave --resume out to start one.")
    return numbered(root, recipe.about.name)


def _same(run: RunDir, recipe: Recipe) -> None:
    if changed := differences(run.recipe, recipe):
        keys = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
        raise RunError(f"'{run.path}' was started with another recipe ({keys}): restore these, or give another --out.")
