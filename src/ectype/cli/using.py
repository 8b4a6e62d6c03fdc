"""Commands that use a finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ectype.cli.shared import Device, Run, Seed, app, out, say


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", min=1, help="How many; of walks, 16 at most.")] = 64,
    seed: Seed = 0,
    density: Annotated[
        str | None,
        typer.Option(help="normal, gaussian, gmm, or flow, which is trained at first; the model's own if not given."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="A class, several with commas between, or all.")] = None,
    truncation: Annotated[float | None, typer.Option(help="Draw noise beyond ± this again, such as 0.7.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of a flow: fewer are faster, more are better.")] = None,
    solver: Annotated[Literal["euler", "heun"] | None, typer.Option(help="Of a flow.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Of a flow with classes; above 1: clearer.")] = None,
    frames: Annotated[int | None, typer.Option("--walk", min=2, help="A film of so many frames instead.")] = None,
    picture: Annotated[Path | None, typer.Option("--out", help="The picture, or the film.")] = None,
    device: Device = "auto",
) -> None:
    """Draw new images: `ectype sample RUN --label 7 -n 64`, or a walk between them: `--walk 120 --out walk.mp4`."""
    from ectype import sampling

    way = sampling.Way(steps, solver, guidance)
    given: dict[str, Any] = {"n": n, "seed": seed, "density": density, "label": label, "truncation": truncation}
    given |= {"way": way, "console": out}
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
    beside: Annotated[
        str | None, typer.Option(metavar="DATA", help="Usual images to compare with, not those that the run held out.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Find odd images: how badly each comes back, beside how badly held-out images do."""
    from ectype import scoring

    say(scoring.score(run, images, to, maps=maps, beside=beside, device=device))


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
