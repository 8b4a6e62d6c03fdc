"""Commands that make runs: train, compare, study, and what comes before."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ectype.cli.shared import app, columns, measuring, out, say
from ectype.errors import DataError, RecipeError


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A preset (`ectype presets`) or a YAML file.")],
    data: Annotated[str, typer.Argument(help="A folder, archive, IDX, .npz, hf:…, torchvision:…, or 'digits'.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe.")] = None,
    images: Annotated[str | None, typer.Option(help="Budget in images shown, such as 500k or 2M.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in time, turned into images at the start.")] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Directory of the run; with it the same command goes on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest unfinished run of it.")] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="Whose weights to start from: a run, a folder of diffusers, user/name.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Diagnose it, and try again with the advice.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto.")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Train a model on images: `ectype train vae photos/ latent_dim=32`."""
    from ectype import run as runs
    from ectype.recipe import preset_names

    if Path(recipe).is_dir() and recipe not in preset_names() and data in preset_names():
        raise RecipeError(f"images before the recipe: write `ectype train {data} {shlex.quote(recipe)}`.")
    given = {"train.images": images, "train.minutes": minutes, "run.device": device}
    options = [f"{key}={value}" for key, value in given.items() if value is not None]
    resolved = runs.resolve(recipe, data, [*(overrides or []), *options], start=start)
    if dry:
        print(resolved.yaml(), end="")
        return
    made = runs.train(resolved, out=to, resume=resume, start=start, fix=fix, console=out)
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks for all
        from ectype import results

        with measuring() as progress:
            found = results.evaluate(made, progress=progress)
        out.print(found.table())
        for line in results.told(results.diagnose(str(made.path)), quiet=True):
            say(line)
        say(f"report: {results.report([made])}")


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this one's YAML, and what it costs.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to it, such as size=512.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="The YAML alone.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Also the model layer by layer (needs torchinfo).")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Also measure the memory of a training step.")] = False,
) -> None:
    """List the presets, or print one with its parameters, arithmetic and compression as comments."""
    from ectype.recipe import load_recipe, preset_path, preset_table

    if name is None:
        rows = [(a.name, a.family, a.density, a.task, a.summary) for a in preset_table()]
        columns(("preset", "family", "density", "task", "what it is"), rows)
        return
    file = preset_path(name)
    recipe = load_recipe(file, overrides) if overrides else None
    print(recipe.yaml() if recipe is not None else file.read_text(encoding="utf-8"), end="", flush=True)
    if plain:
        return
    from ectype.measure import cost

    recipe = recipe or load_recipe(file)
    _comment(cost.cost(recipe).lines())
    if memory:
        _comment([cost.step_memory(recipe).line()])
    if layers:
        _comment(cost.layers(recipe).splitlines())


def _comment(lines: list[str]) -> None:
    """Lines that leave the YAML above them a recipe."""
    for line in lines:
        print(f"# {line}".rstrip(), flush=True)


@app.command()
def data(
    source: Annotated[str | None, typer.Argument(help="What `ectype train` would be given.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as size=128 or resize=pad.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Where the picture of the data goes: data.png.")] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Remove all prepared images from the cache.")] = False,
) -> None:
    """Scan and prepare images: how many, which were rejected and why, and what they look like."""
    from ectype.console import progress_line
    from ectype.data import cache, preview
    from ectype.data import prepare as preparing

    if clean:
        removed = cache.clean()
        say(f"{removed.entries} prepared sources removed, {removed.bytes / 2**20:,.1f} MiB freed")
        return
    if source is None:
        raise RecipeError("no images named: give a folder, an archive, or a built-in set such as 'digits'.")
    from ectype.recipe import data_recipe

    text = str(Path(source).resolve()) if Path(source).exists() else source
    config, picture = data_recipe(text, overrides or []), to or Path("data.png")
    among = picture.resolve().is_relative_to(text)
    if to is not None:
        preview.writable(to)
        if among:
            raise DataError(f"'{to}' would be one of the images in '{source}': give an --out that lies elsewhere.")
    prepared = preparing.prepare(config, progress=progress_line(out))
    say(prepared.summary)
    for note in prepared.notes:
        say(f"  {note}")
    if among:
        say("no picture of them was made, as it would lie among the images: --out says where else")
    else:
        preview.save_overview(prepared, picture)
        say(f"a picture of them → {picture}")
    if prepared.rejects:
        say(f"what was rejected, and why → {prepared.root / 'rejects.csv'}")


Data = Annotated[str, typer.Option("--data", help="What `ectype train` would be given.")]
Images = Annotated[str | None, typer.Option(help="Budget of each run in images shown, such as 500k.")]
Minutes = Annotated[float | None, typer.Option(help="Budget of each run in time.")]
Seeds = Annotated[int, typer.Option(min=1, help="Runs of each.")]
Processes = Annotated[int, typer.Option(min=0, help="Runs at a time; 0 leaves each two cores.")]


@app.command()
def compare(
    what: Annotated[list[str], typer.Argument(metavar="RECIPE… [key=value…]", help="Presets, and overrides of all.")],
    data: Data,
    images: Images = None,
    minutes: Minutes = None,
    seeds: Seeds = 1,
    to: Annotated[Path, typer.Option("--out", help="A directory; the same command goes on.")] = Path("comparison"),
    processes: Processes = 0,
) -> None:
    """Weigh recipes against each other: same images, split and budget: `ectype compare ae vae gan --data photos/`."""
    from ectype import compare as comparing

    arms = [comparing.Arm(Path(word).stem, word) for word in what if "=" not in word]
    words = [word for word in what if "=" in word]
    given: dict[str, Any] = {"images": images, "minutes": minutes, "seeds": seeds, "processes": processes}
    _compared(comparing.compare(arms, data, to, words=words, command=_typed(), console=out, **given))


@app.command()
def study(
    recipe: Annotated[str, typer.Argument(help="A preset or a YAML file.")],
    words: Annotated[list[str], typer.Argument(metavar="key=V1,V2,… [key=value…]", help="Knobs, and overrides.")],
    data: Data,
    images: Images = None,
    minutes: Minutes = None,
    seeds: Seeds = 1,
    trials: Annotated[int | None, typer.Option(min=1, help="Search several knobs, by so many runs.")] = None,
    by: Annotated[str | None, typer.Option(help="Of a search: the figure that trials are judged by.")] = None,
    storage: Annotated[str | None, typer.Option(help="Of a search: the URL of a data base to share.")] = None,
    to: Annotated[Path, typer.Option("--out", help="A directory; the same command goes on.")] = Path("study"),
    processes: Processes = 0,
) -> None:
    """Turn one knob of a recipe, `ectype study vae latent_dim=2,8,32 --data photos/ --images 500k`, or search several,
    `ectype study vae latent_dim=2..512 beta=0.1..10 --trials 20 --data photos/ --images 500k`.
    """
    given: dict[str, Any] = {"images": images, "minutes": minutes, "processes": processes}
    if trials is None and (by or storage):
        raise RecipeError("--by and --storage are of a search: add --trials 20, or leave them out.")
    if trials is not None:
        if seeds > 1:
            raise RecipeError(f"--seeds {seeds}: a search trains each trial once; leave it out, or name one knob.")
        from ectype import search as searching

        knobs, shared = searching.knobs_of(words)
        given |= {"trials": trials, "by": by, "storage": storage, "words": shared}
        _compared(searching.search(recipe, knobs, data, to, command=_typed(), console=out, **given))
        return
    from ectype import compare as comparing

    arms, shared = comparing.arms_of(recipe, words)
    given |= {"seeds": seeds, "words": shared}
    _compared(comparing.compare(arms, data, to, command=_typed(), console=out, **given))


def _typed() -> str:
    return shlex.join(["ectype", *sys.argv[1:]])


def _compared(found: Any) -> None:
    for sentence in found.said:
        say(sentence)
    say(f"page: {found.page}")
