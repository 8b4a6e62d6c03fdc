"""Commands that share a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ectype.cli.shared import Run, app, say

License = Annotated[str | None, typer.Option(help="License for the model card: apache-2.0, cc-by-4.0, …")]


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
    """Write a model as ONNX, OpenVINO, safetensors or diffusers."""
    from ectype.export import commands

    for line in commands.export(run, kind, out, license=license):
        say(line)


@app.command()
def push(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Name on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Only its owner can see it.")] = False,
    license: License = None,
    local: Annotated[Path | None, typer.Option(help="Write to a folder laid out as the Hub's cache instead.")] = None,
) -> None:
    """Upload a model to the Hub, with a model card."""
    from ectype.export import commands

    say(commands.push(run, name, private=private, license=license, local=local))
