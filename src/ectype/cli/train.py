"""Commands that create runs, and what comes before: train, compare, study, presets, data."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ectype.cli.shared import app, columns, finite, out, say
from ectype.core.errors import DataError, RecipeError
from ectype.core.escape import for_terminal


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A preset (`ectype presets`) or a YAML file.")],
    data: Annotated[str, typer.Argument(help="A folder, archive, IDX, .npz, hf:…, torchvision:…, or 'digits'.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe.")] = None,
    images: Annotated[str | None, typer.Option(help="Budget in images shown, such as 500k or 2M.")] = None,
    minutes: Annotated[
        float | None, typer.Option(callback=finite, help="Budget in time, converted to images at the start.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Directory of the run. If it holds this run, training continues.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest unfinished run of this recipe.")
    ] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="Initial weights: a run, a diffusers folder, or user/name.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Diagnose the run, and train again with the advice.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto.")] = None,
    every_figure: Annotated[
        bool, typer.Option("--all", help="Show all figures at the end, not the main ones.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Open the local page on this run (`ectype ui`).")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Train a model on images: `ectype train vae photos/`."""
    from ectype.config.recipe import preset_names

    if Path(recipe).is_dir() and recipe not in preset_names() and data in preset_names():
        raise RecipeError(f"images before the recipe: write `ectype train {data} {shlex.quote(recipe)}`.")
    with out.heartbeat():
        out.doing("loading PyTorch")
        from ectype.api import train as training

        changes = training.changes_of(overrides, images=images, minutes=minutes, device=device)
        if dry:
            from ectype.training.run import resolve

            print(for_terminal(resolve(recipe, data, changes, start=start).yaml()), end="")
            return
        is_first = os.environ.get("RANK", "0") == "0"  # of several processes, the first one reports
        page: AbstractContextManager[None] = nullcontext()
        if watch and is_first:
            from ectype.cli.ui import page_on
            from ectype.training.run import choose_run_path, resolve

            asked = resolve(recipe, data, changes, start=start)
            to, _ = choose_run_path(asked, to, Path("runs"), resume, out, start)
            page = page_on(to)
        with page:
            run = training.train(recipe, data, changes, out=to, resume=resume, start=start, fix=fix, progress=out)
            if is_first:
                show_results(run, every_figure=every_figure)


def show_results(run: Any, *, every_figure: bool) -> None:
    """Print what matters most, the figures and the findings of a run, and write its report."""
    from ectype.analysis.headline import headline_sentence, headline_table
    from ectype.analysis.results import finding_lines

    evaluation, findings = run.evaluate(), run.findings()
    say(headline_sentence(evaluation, findings))
    out.print(evaluation.table() if every_figure else headline_table(evaluation))
    for line in finding_lines(findings, quiet=True):
        say(line)
    say(f"report: {run.report()}")


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset and what it costs.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to it, such as size=512.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print every key, not only what differs from defaults.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print the YAML only.")] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also print the model layer by layer (needs torchinfo).")
    ] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Also measure the memory of a training step.")] = False,
) -> None:
    """List the presets, or print one with what it costs."""
    from ectype.config.recipe import load_recipe, preset_path, preset_table

    if name is None:
        rows = [(a.name, a.family, a.density, a.task, a.summary) for a in preset_table()]
        columns(("preset", "family", "density", "task", "what it is"), rows)
        return
    file = preset_path(name)
    recipe = load_recipe(file, overrides or []) if overrides or full else None
    text = recipe.yaml(full=full) if recipe is not None else file.read_text(encoding="utf-8")
    print(for_terminal(text), end="", flush=True)
    if plain:
        return
    from ectype.analysis import cost
    from ectype.training.step_memory import step_memory

    recipe = recipe or load_recipe(file)
    _comment(cost.cost(recipe).lines())
    if memory:
        _comment([step_memory(recipe).line()])
    if layers:
        _comment(cost.layers(recipe).splitlines())


def _comment(lines: list[str]) -> None:
    """Print lines as YAML comments, so that the output stays a valid recipe."""
    for line in lines:
        print(for_terminal(f"# {line}".rstrip()), flush=True)


@app.command()
def data(
    source: Annotated[str | None, typer.Argument(help="A folder or any other source of images.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as size=128 or resize=pad.")] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Where the picture of the data is written: data.png.")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Remove all prepared images from the cache.")] = False,
) -> None:
    """Check and prepare images: how many, and which are rejected and why."""
    from ectype.core.console import progress_line
    from ectype.data import cache, overview, preview
    from ectype.data import prepare as preparing
    from ectype.data.sources.walk import resolve_source

    if clean:
        removed = cache.clean()
        say(f"{removed.entries} prepared sources removed, {removed.bytes / 2**20:,.1f} MiB freed")
        return
    if source is None:
        raise RecipeError("no images given: name a folder, an archive, or a built-in set such as 'digits'.")
    from ectype.config.recipe import data_recipe

    text = resolve_source(source)
    config, picture = data_recipe(text, overrides or []), to or Path("data.png")
    among = picture.resolve().is_relative_to(text)
    if to is not None:
        preview.check_file_writable(to)
        if among:
            raise DataError(f"'{to}' would be one of the images in '{source}': give an --out outside of it.")
    prepared = preparing.prepare(config, progress=progress_line(out), describe=True)
    say(prepared.summary)
    for note in filter(None, (*prepared.class_counts, *prepared.notes, prepared.checked)):
        say(f"  {note}")
    for problem in prepared.problems:
        say(f"  training would stop: {problem}")
    if among:
        say("no picture was written, because it would be among the images: give --out a place outside")
    else:
        overview.save_overview(prepared, picture, config)
        say(f"picture of the images → {picture}")
    if prepared.rejects:
        say(f"rejected images and reasons → {prepared.root / 'rejects.csv'}")


Data = Annotated[str, typer.Option("--data", help="A folder or any other source of images.")]
Images = Annotated[str | None, typer.Option(help="Budget of each run in images shown, such as 500k.")]
Minutes = Annotated[float | None, typer.Option(callback=finite, help="Budget of each run in time.")]
Seeds = Annotated[int, typer.Option(min=1, max=10_000, help="Runs of each recipe.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Measure on at most 1,000 images, without a bound on the likelihood.")
]
Processes = Annotated[int, typer.Option(min=0, max=1024, help="Runs at the same time; 0 leaves two cores to each.")]


@app.command()
def compare(
    what: Annotated[
        list[str], typer.Argument(metavar="RECIPE… [key=value…]", help="Presets, and overrides for all of them.")
    ],
    data: Data,
    images: Images = None,
    minutes: Minutes = None,
    seeds: Seeds = 1,
    to: Annotated[Path, typer.Option("--out", help="A directory; repeat the command to continue.")] = Path(
        "comparison"
    ),
    processes: Processes = 0,
    quick: Quick = False,
) -> None:
    """Compare recipes on the same images with the same budget."""
    from ectype.experiments import compare as comparing

    arms = [comparing.Arm(Path(word).stem, word) for word in what if "=" not in word]
    words = [word for word in what if "=" in word]
    given: dict[str, Any] = {"images": images, "minutes": minutes, "seeds": seeds, "processes": processes}
    given |= {"quick": quick}
    with out.spinner("reading the recipes"):
        _compared(comparing.compare(arms, data, to, words=words, command=_typed(), console=out, **given))


@app.command()
def study(
    recipe: Annotated[str, typer.Argument(help="A preset or a YAML file.")],
    words: Annotated[
        list[str], typer.Argument(metavar="key=V1,V2,… [key=value…]", help="Keys to vary, and overrides.")
    ],
    data: Data,
    images: Images = None,
    minutes: Minutes = None,
    seeds: Seeds = 1,
    trials: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Search several keys with this many runs.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="In a search, the figure that trials are ranked by.")] = None,
    storage: Annotated[str | None, typer.Option(help="In a search, the URL of a database to share.")] = None,
    to: Annotated[Path, typer.Option("--out", help="A directory; repeat the command to continue.")] = Path("study"),
    processes: Processes = 0,
    quick: Quick = False,
) -> None:
    """Vary one key of a recipe, or search several.

    `ectype study vae latent_dim=2,8,32 --data photos/ --images 500k`, or
    `ectype study vae latent_dim=2..512 beta=0.1..10 --trials 20 --data photos/ --images 500k`.
    """
    given: dict[str, Any] = {"images": images, "minutes": minutes, "processes": processes, "quick": quick}
    if trials is None and (by or storage):
        raise RecipeError("--by and --storage belong to a search: add --trials 20, or leave them out.")
    if trials is not None:
        if seeds > 1:
            raise RecipeError(f"--seeds {seeds}: a search trains each trial once; leave it out, or vary one key.")
        from ectype.experiments import search as searching

        knobs, shared = searching.knobs_of(words)
        given |= {"trials": trials, "by": by, "storage": storage, "words": shared}
        with out.spinner("reading the recipes"):
            _compared(searching.search(recipe, knobs, data, to, command=_typed(), console=out, **given))
        return
    from ectype.experiments import compare as comparing

    arms, shared = comparing.arms_of(recipe, words)
    given |= {"seeds": seeds, "words": shared}
    with out.spinner("reading the recipes"):
        _compared(comparing.compare(arms, data, to, command=_typed(), console=out, **given))


def _typed() -> str:
    return shlex.join(["ectype", *sys.argv[1:]])


def _compared(found: Any) -> None:
    for sentence in found.conclusions:
        say(sentence)
    say(f"page: {found.page}")
