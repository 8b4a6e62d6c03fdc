"""The command line: parse, call, print. What a command does is elsewhere, and imported when it is asked for."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ectype.errors import EctypeError, EctypeWarning, Interrupted, RecipeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ectype",
    help="From a folder of images to a trained, watched, measured and comparable image model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 2 recipe or usage, 3 images, 4 model, 5 checkpoint, 6 training, 7 run, "
    "75 stopped by Ctrl-C or SIGTERM and saved (the same command goes on).",
)

out = Console()
err = Console(stderr=True)

Run = Annotated[Path, typer.Argument(help="A run's directory, such as runs/vae-001.")]
Seed = Annotated[int, typer.Option(help="Repeats the same draws.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]


def say(text: str) -> None:
    """Print one line as it is."""
    out.print(text, highlight=False, soft_wrap=True, markup=False)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A preset (`ectype presets`) or a YAML file.")],
    data: Annotated[str, typer.Argument(help="A folder, archive, IDX, .npz, hf:…, torchvision:…, or 'digits'.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe.")] = None,
    images: Annotated[str | None, typer.Option(help="Budget in images shown, such as 500k or 2M.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in time, turned into images at the start.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Directory of the run; the same command goes on.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest unfinished run of it.")] = False,
    start: Annotated[Path | None, typer.Option("--from", help="A run whose weights to start from.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto.")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Train a model on images: `ectype train vae photos/ latent_dim=32`."""
    from ectype import run as runs

    given = {"train.images": images, "train.minutes": minutes, "run.device": device}
    options = [f"{key}={value}" for key, value in given.items() if value is not None]
    resolved = runs.resolve(recipe, data, [*(overrides or []), *options])
    if dry:
        print(resolved.yaml(), end="")
        return
    made = runs.train(resolved, out=to, resume=resume, start=start, console=out)
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks for all
        from ectype import results

        out.print(results.evaluate(made).table())
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
        _columns(("preset", "family", "density", "task", "what it is"), rows)
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
    picture: Annotated[Path, typer.Option("--out", help="Where the picture of the data goes.")] = Path("data.png"),
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
    config = data_recipe(text, overrides or [])
    prepared = preparing.prepare(config, progress=progress_line(out))
    say(prepared.summary)
    for note in prepared.notes:
        say(f"  {note}")
    preview.save_overview(prepared, picture)
    say(f"a picture of them → {picture}")
    if prepared.rejects:
        say(f"what was rejected, and why → {prepared.root / 'rejects.csv'}")


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", min=1, help="How many; of walks, 16 at most.")] = 64,
    seed: Seed = 0,
    density: Annotated[str | None, typer.Option(help="normal, gaussian or gmm; the model's own if not given.")] = None,
    label: Annotated[str | None, typer.Option(help="A class, several with commas between, or all.")] = None,
    truncation: Annotated[float | None, typer.Option(help="Draw noise beyond ± this again, such as 0.7.")] = None,
    frames: Annotated[int | None, typer.Option("--walk", min=2, help="A film of so many frames instead.")] = None,
    picture: Annotated[Path | None, typer.Option("--out", help="The picture, or the film.")] = None,
    device: Device = "auto",
) -> None:
    """Draw new images: `ectype sample RUN --label 7 -n 64`, or a walk between them: `--walk 120 --out walk.mp4`."""
    from ectype import sampling

    given: dict[str, Any] = {"n": n, "seed": seed, "density": density, "label": label, "truncation": truncation}
    if frames is not None:
        say(sampling.walk(run, picture or Path("walk.webp"), frames=frames, device=device, **given))
    else:
        say(sampling.sample(run, picture or Path("samples.png"), device=device, **given))


@app.command()
def reconstruct(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Images or folders of them.")],
    to: Annotated[Path, typer.Option("--out", help="A directory.")] = Path("reconstructions"),
    draws: Annotated[int, typer.Option(min=0, help="Draws of q(z|x) per image, of a variational model.")] = 0,
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="Of the tiles of a large image, as a share.")] = 0.25,
    resize: Annotated[bool, typer.Option("--resize", help="Bring large images to the model's size too.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Pass images through a model's code and back; those larger than its size in tiles, so that they keep theirs."""
    from ectype import use

    say(use.reconstruct(run, images, to, draws=draws, overlap=overlap, resize=resize, seed=seed, device=device))


@app.command()
def translate(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Images or folders of them.")],
    to: Annotated[Path, typer.Option("--out", help="A directory.")] = Path("translated"),
    overlay: Annotated[bool, typer.Option("--overlay", help="Of masks: also laid over the images.")] = False,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Of masks: also of each class.")] = False,
    flips: Annotated[bool, typer.Option("--flips", help="Average with what is made of the mirror image.")] = False,
    scale: Annotated[
        Literal["auto", "trained", "full"],
        typer.Option(help="At that of the training images, or at their own; auto: full for what restores."),
    ] = "auto",
    tile: Annotated[int, typer.Option(help="Larger images go through in tiles of so many pixels a side.")] = 512,
    device: Device = "auto",
) -> None:
    """Make masks, pictures or restored images of images, at their own size and under their own names."""
    from ectype import translating

    given: dict[str, Any] = {"overlay": overlay, "probabilities": probabilities, "flips": flips}
    say(translating.translate(run, images, to, scale=scale, tile=tile, device=device, **given))


@app.command()
def score(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Images or folders of them.")],
    to: Annotated[Path, typer.Option("--out", help="A .csv file.")] = Path("scores.csv"),
    maps: Annotated[Path | None, typer.Option(help="A directory for a picture of each image's errors.")] = None,
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="Of the tiles of a large image, as a share.")] = 0.25,
    device: Device = "auto",
) -> None:
    """Find odd images: how badly each comes back, beside how badly held-out images do."""
    from ectype import scoring

    say(scoring.score(run, images, to, maps=maps, overlap=overlap, device=device))


@app.command()
def nearest(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Images or folders of them.")],
    source: Annotated[str, typer.Option("--in", metavar="DATA", help="Among which to look.")],
    to: Annotated[Path, typer.Option("--out", help="A picture.")] = Path("nearest.png"),
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours of each.")] = 8,
    device: Device = "auto",
) -> None:
    """Find the images whose codes are nearest to those of an image."""
    from ectype import scoring

    for line in scoring.nearest(run, images, source, to, k=k, device=device):
        say(line)


@app.command()
def encode(
    run: Run,
    source: Annotated[str, typer.Argument(metavar="DATA", help="A folder or any other source of images.")],
    to: Annotated[Path, typer.Option("--out", help="A .parquet or .npz file.")] = Path("codes.parquet"),
    device: Device = "auto",
) -> None:
    """Write the code of every image: path, label, code."""
    from ectype import use

    say(use.encode(run, source, to, device=device))


@app.command()
def decode(
    run: Run,
    codes: Annotated[Path, typer.Argument(help="A .parquet or .npz file as `encode` writes them.")],
    to: Annotated[Path, typer.Option("--out", help="A directory.")] = Path("decoded"),
    device: Device = "auto",
) -> None:
    """Turn codes into images."""
    from ectype import use

    say(use.decode(run, codes, to, device=device))


@app.command()
def evaluate(
    run: Run,
    source: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Other images than the run's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "auto",
) -> None:
    """Measure a run on images that it never saw."""
    from ectype import results

    found = results.evaluate(results.RunDir.existing(run), source, device=device)
    if as_json:
        print(found.to_json())
    else:
        out.print(found.table())


@app.command()
def keep(run: Run, step: Annotated[int, typer.Argument(help="A step that has a checkpoint.")]) -> None:
    """Ship the weights of a chosen step."""
    from ectype import results

    results.keep(run, step)
    say(f"{run}/model now holds the weights of step {step}")


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
    words: Annotated[list[str], typer.Argument(metavar="key=V1,V2,… [key=value…]", help="The knob, and overrides.")],
    data: Data,
    images: Images = None,
    minutes: Minutes = None,
    seeds: Seeds = 1,
    to: Annotated[Path, typer.Option("--out", help="A directory; the same command goes on.")] = Path("study"),
    processes: Processes = 0,
) -> None:
    """Turn one knob of a recipe: `ectype study vae latent_dim=2,8,32 --data photos/ --images 500k`."""
    from ectype import compare as comparing

    arms, shared = comparing.arms_of(recipe, words)
    given: dict[str, Any] = {"images": images, "minutes": minutes, "seeds": seeds, "processes": processes}
    _compared(comparing.compare(arms, data, to, words=shared, command=_typed(), console=out, **given))


def _typed() -> str:
    return shlex.join(["ectype", *sys.argv[1:]])


def _compared(found: Any) -> None:
    for sentence in found.said:
        say(sentence)
    say(f"page: {found.page}")


@app.command()
def report(
    runs_: Annotated[list[Path], typer.Argument(metavar="RUN…", help="One or more runs.")],
    to: Annotated[Path | None, typer.Option("--out", help="The page; report.html in the first run.")] = None,
) -> None:
    """Write one self-contained HTML page."""
    from ectype import results

    say(f"report: {results.report([results.RunDir.existing(path) for path in runs_], to)}")


@app.command("runs")
def list_runs(root: Annotated[Path, typer.Argument(help="Where to look.")] = Path("runs")) -> None:
    """List runs with their state and main figure."""
    from ectype.training.rundir import find_runs

    found = find_runs(root)
    if not found:
        say(f"no runs in '{root}': `ectype train vae photos/` makes one.")
        return
    rows = [(str(run.path), run.state(), f"{run.seen():,}", run.main_figure()) for run in found]
    _columns(("run", "state", "images", "main figure"), rows)


def _columns(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A line for each row, cut at the terminal's edge and nowhere else."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    wide = out if out.is_terminal else Console(width=200)
    wide.print(table, highlight=False)


def main() -> None:
    """Run a command; what a user can mend is one line on stderr and a non-zero exit."""
    # Threads that spin while they wait make a machine that has other work too many times slower (GNU OpenMP's default).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.simplefilter("always", EctypeWarning)
    warnings.showwarning = lambda message, *_, **__: err.print(
        f"[yellow]warning:[/] {escape(str(message))}", highlight=False, soft_wrap=True
    )
    try:
        app()
    except EctypeError as error:
        colour = "yellow" if isinstance(error, Interrupted) else "red"
        word = "stopped" if isinstance(error, Interrupted) else "error"
        err.print(f"[{colour}]{word}:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("[yellow]stopped:[/] before anything was saved", highlight=False)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
