"""Commands that say how good a run is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ectype.cli.shared import Device, Run, app, columns, measuring, out, say


@app.command()
def evaluate(
    run: Run,
    source: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Other images than the run's own.")] = None,
    likelihood: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Draws of the bound on the likelihood, of all test images.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "auto",
) -> None:
    """Measure a run on images that it never saw."""
    from ectype import results

    with measuring() as progress:
        found = results.evaluate(
            results.RunDir.existing(run), source, device=device, likelihood=likelihood, progress=progress
        )
    if as_json:
        print(found.to_json())
    else:
        out.print(found.table())


@app.command()
def diagnose(
    what: Annotated[str, typer.Argument(metavar="RUN | DATA", help="A run's directory, or images.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Of images: key=value, such as size=128.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="A directory for pictures of the evidence.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "auto",
) -> None:
    """Find what is off with a run or with images, and what to do about it."""
    from ectype import results

    found = results.diagnose(what, overrides or [], device=device)
    written = results.save_evidence(found, pictures) if pictures is not None else []
    if as_json:
        print(json.dumps([finding.plain() for finding in found], ensure_ascii=False, indent=1))
        return
    for line in [*results.told(found), *(f"→ {place}" for place in written)]:
        say(line)


@app.command()
def keep(run: Run, step: Annotated[int, typer.Argument(help="A step that has a checkpoint.")]) -> None:
    """Ship the weights of a chosen step."""
    from ectype import loading

    loading.keep(run, step)
    say(f"{run}/model now holds the weights of step {step}")


@app.command()
def report(
    runs_: Annotated[list[Path], typer.Argument(metavar="RUN…", help="One or more runs.")],
    to: Annotated[
        Path | None, typer.Option("--out", help="The page: report.html in the run; of several, beside the first.")
    ] = None,
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
    columns(("run", "state", "images", "main figure"), rows)
