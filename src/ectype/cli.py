"""The command line: parse, call, print. What a command does is elsewhere, and imported when it is asked for."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

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
    _evaluate_and_report(made)


def _evaluate_and_report(made: Any) -> None:
    from ectype import run as runs

    evaluation = runs.evaluate(made)
    out.print(evaluation.table())
    say(f"report: {runs.report([made])}")


@app.command()
def presets(name: Annotated[str | None, typer.Argument(help="Print this one's YAML.")] = None) -> None:
    """List the presets, or print one."""
    from ectype.recipe import preset_path, preset_table

    if name is not None:
        print(preset_path(name).read_text(encoding="utf-8"), end="")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("preset", "family", "density", "task", "what it is"):
        table.add_column(heading, overflow="fold")
    for about in preset_table():
        table.add_row(about.name, about.family, about.density, about.task, about.summary)
    out.print(table)


@app.command()
def data(
    source: Annotated[str | None, typer.Argument(help="What `ectype train` would be given.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as size=128 or resize=pad.")] = None,
    picture: Annotated[Path, typer.Option("--out", help="Where the picture of the data goes.")] = Path("data.png"),
    clean: Annotated[bool, typer.Option("--clean", help="Remove all prepared images from the cache.")] = False,
) -> None:
    """Scan and prepare images: how many, which were rejected and why, and what they look like."""
    from ectype.data import prepare as preparing

    if clean:
        say(f"freed {preparing.clean() / 2**20:,.1f} MiB")
        return
    if source is None:
        raise RecipeError("no images named: give a folder, an archive, or a built-in set such as 'digits'.")
    from ectype.recipe import load_recipe

    text = str(Path(source).resolve()) if Path(source).exists() else source
    known = {"model": {"kind": "autoencoder"}, "objective": {"kind": "reconstruction"}}
    config = load_recipe({"data": {"source": text}, **known}, overrides or []).data
    prepared = preparing.prepare(config, progress=preparing.progress_line(out))
    say(prepared.summary)
    _ = picture


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 64,
    seed: Seed = 0,
    density: Annotated[str | None, typer.Option(help="normal, gaussian or gmm; the model's own if not given.")] = None,
    picture: Annotated[Path, typer.Option("--out", help="A picture of all of them.")] = Path("samples.png"),
    device: Device = "auto",
) -> None:
    """Draw new images."""
    from ectype import use

    say(use.sample(run, picture, n=n, seed=seed, density=density, device=device))


@app.command()
def reconstruct(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Images or folders of them.")],
    to: Annotated[Path, typer.Option("--out", help="A directory.")] = Path("reconstructions"),
    draws: Annotated[int, typer.Option(min=0, help="Draws of q(z|x) per image, of a variational model.")] = 0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Pass images through a model's code and back."""
    from ectype import use

    say(use.reconstruct(run, images, to, draws=draws, seed=seed, device=device))


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
    from ectype import run as runs

    found = runs.evaluate(runs.RunDir.existing(run), source, device=device)
    if as_json:
        print(found.to_json())
    else:
        out.print(found.table())


@app.command()
def keep(run: Run, step: Annotated[int, typer.Argument(help="A step that has a checkpoint.")]) -> None:
    """Ship the weights of a chosen step."""
    from ectype import run as runs

    runs.keep(run, step)
    say(f"{run}/model now holds the weights of step {step}")


@app.command()
def report(
    runs_: Annotated[list[Path], typer.Argument(metavar="RUN…", help="One or more runs.")],
    to: Annotated[Path | None, typer.Option("--out", help="The page; report.html in the first run.")] = None,
) -> None:
    """Write one self-contained HTML page."""
    from ectype import run as runs

    say(f"report: {runs.report([runs.RunDir.existing(path) for path in runs_], to)}")


@app.command("runs")
def list_runs(root: Annotated[Path, typer.Argument(help="Where to look.")] = Path("runs")) -> None:
    """List runs with their state and main figure."""
    from ectype.train.rundir import find_runs

    table = Table(box=None, pad_edge=False)
    for heading in ("run", "preset", "state", "images", "main figure"):
        table.add_column(heading, overflow="fold")
    for found in find_runs(root):
        recipe, summary = found.read_plain(), found.summary()
        table.add_row(str(found.path), recipe["about"]["name"], found.state(), f"{summary.get('seen', 0):,}", "")
    out.print(table)


def main() -> None:
    """Run a command; what a user can mend is one line on stderr and a non-zero exit."""
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


_ = json
if __name__ == "__main__":
    main()
