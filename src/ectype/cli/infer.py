"""Commands that use a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ectype.cli.shared import Device, Run, Seed, app, columns, err, finite, out, say

MAX_SHOWN_ROWS = 40
"""Rows of a table of neighbors that are printed; all are in its file."""


@app.command()
def sample(
    run: Run,
    n: Annotated[
        int, typer.Option("-n", min=1, max=1_000_000, help="Number of images; with --walk, at most 16 walks.")
    ] = 64,
    seed: Seed = 0,
    density: Annotated[
        str | None,
        typer.Option(help="normal, gaussian, gmm, or flow (trained when first used). Default: the model's own."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="A class, several with commas, or all: equally many of each.")
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(callback=finite, help="Redraw noise beyond ± this, such as 0.7.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=10_000, help="For a flow: fewer are faster.")] = None,
    solver: Annotated[Literal["euler", "heun"] | None, typer.Option(help="Solver of a flow.")] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, max=1000, callback=finite, help="For a flow with classes; above 1: clearer.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--walk", min=2, max=100_000, help="Write a film with this many frames instead.")
    ] = None,
    picture: Annotated[Path | None, typer.Option("--out", help="The picture or film to write.")] = None,
    device: Device = "auto",
) -> None:
    """Generate images, or a film of a walk: `ectype sample RUN -n 64`."""
    from ectype.inference import sample

    way = sample.SamplingOptions(steps, solver, guidance)
    given: dict[str, Any] = {"n": n, "seed": seed, "density": density, "label": label, "truncation": truncation}
    given |= {"way": way, "console": out}
    with out.spinner("sampling"):
        if frames is not None:
            result = sample.walk(run, picture or Path("walk.webp"), frames=frames, device=device, **given)
        else:
            result = sample.sample(run, picture or Path("samples.png"), device=device, **given)
    say(result.summary)


@app.command()
def reconstruct(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Images or folders of them.")],
    to: Annotated[Path, typer.Option("--out", help="A directory.")] = Path("reconstructions"),
    draws: Annotated[
        int, typer.Option(min=0, max=10_000, help="Posterior draws per image, for a variational model.")
    ] = 0,
    overlap: Annotated[
        float, typer.Option(min=0, max=0.9, callback=finite, help="Overlap of tiles, as a fraction.")
    ] = 0.25,
    resize: Annotated[bool, typer.Option("--resize", help="Resize large images instead of tiling them.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Encode and decode images, large ones in tiles."""
    with err.spinner("reconstructing"):
        from ectype.inference import reconstruct

        given: dict[str, Any] = {"draws": draws, "overlap": overlap, "resize": resize, "seed": seed}
        result = reconstruct.reconstruct(run, images, to, device=device, **given)
    say(result.summary)


@app.command()
def translate(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Images or folders of them.")],
    to: Annotated[Path, typer.Option("--out", help="A directory.")] = Path("translated"),
    overlay: Annotated[bool, typer.Option("--overlay", help="For masks: also overlay them on the images.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="For masks: also class probabilities.")
    ] = False,
    flips: Annotated[bool, typer.Option("--flips", help="Average with the mirrored image's output.")] = False,
    scale: Annotated[
        Literal["auto", "trained", "full"],
        typer.Option(help="Work at the size of the training images, or at full size; auto: full size for restoration."),
    ] = "auto",
    tile: Annotated[int, typer.Option(min=1, max=16_384, help="Tile size in pixels for larger images.")] = 512,
    device: Device = "auto",
) -> None:
    """Predict masks, translated images or restored images."""
    with err.spinner("translating"):
        from ectype.inference import translate

        given: dict[str, Any] = {"overlay": overlay, "probabilities": probabilities, "flips": flips}
        result = translate.translate(run, images, to, scale=scale, tile=tile, device=device, **given)
    say(result.summary)


@app.command()
def score(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Images or folders of them.")],
    to: Annotated[Path, typer.Option("--out", help="A .csv file.")] = Path("scores.csv"),
    maps: Annotated[Path | None, typer.Option(help="A directory for a picture of each image's errors.")] = None,
    beside: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Normal images to compare with instead of held-out ones."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Find odd images: those reconstructed worse than held-out ones."""
    with err.spinner("scoring"):
        from ectype.inference import anomaly

        result = anomaly.score(run, images, to, maps=maps, beside=beside, device=device)
    say(result.summary)


@app.command()
def nearest(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Images or folders of them.")],
    source: Annotated[str, typer.Option("--in", metavar="DATA", help="The images to search.")],
    to: Annotated[Path, typer.Option("--out", help="A picture; the table is written next to it.")] = Path(
        "nearest.png"
    ),
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Neighbors of each image.")] = 8,
    device: Device = "auto",
) -> None:
    """Find the images whose codes are nearest to an image's."""
    with err.spinner("comparing codes"):
        from ectype.inference import nearest

        result = nearest.nearest(run, images, source, to, k=k, device=device)
    assert result.table is not None
    shown = [tuple(_text(row[key]) for key in result.table.columns) for row in result.table.rows[:MAX_SHOWN_ROWS]]
    columns(tuple(result.table.columns), shown)
    say(result.summary)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command()
def encode(
    run: Run,
    source: Annotated[str, typer.Argument(metavar="DATA", help="A folder or any other source of images.")],
    to: Annotated[Path, typer.Option("--out", help="A .parquet, .csv or .npz file.")] = Path("codes.parquet"),
    device: Device = "auto",
) -> None:
    """Write the code of every image to a .parquet, .csv or .npz file."""
    with err.spinner("encoding"):
        from ectype.inference import codes

        summary = codes.encode(run, source, to, device=device)[1]
    say(summary)


@app.command()
def decode(
    run: Run,
    codes: Annotated[Path, typer.Argument(help="A .parquet, .csv or .npz file as `encode` writes them.")],
    to: Annotated[Path, typer.Option("--out", help="A directory.")] = Path("decoded"),
    device: Device = "auto",
) -> None:
    """Turn codes into images."""
    with err.spinner("decoding"):
        from ectype.inference import codes as inference

        result = inference.decode(run, codes, to, device=device)
    say(result.summary)
