"""Commands that hand a model on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ectype.cli.shared import Run, app, say

License = Annotated[str | None, typer.Option(help="For the card, as the Hub writes it: apache-2.0, cc-by-4.0, …")]


@app.command()
def export(
    run: Run,
    kind: Annotated[
        Literal["onnx", "openvino", "safetensors", "diffusers"],
        typer.Option("--to", help="Graphs, a folder that ectype.load reads, or one that diffusers loads."),
    ],
    out: Annotated[Path, typer.Option("--out", help="A folder.")],
    license: License = None,
) -> None:
    """Write a model for other programs, tried on held-out images: `ectype export RUN --to onnx --out DIR`."""
    from ectype import sharing

    for line in sharing.export(run, kind, out, license=license):
        say(line)


@app.command()
def push(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="On the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Only its owner sees it.")] = False,
    license: License = None,
    local: Annotated[Path | None, typer.Option(help="Into a folder laid out as the Hub's cache instead.")] = None,
) -> None:
    """Put a model on the Hub, with a card made from the run; `ectype sample USER/NAME` then works anywhere."""
    from ectype import sharing

    say(sharing.push(run, name, private=private, license=license, local=local))
