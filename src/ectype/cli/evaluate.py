"""Commands that measure and explain runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ectype.cli.shared import Moved, Run, app, columns, err, out, say, store_moved
from ectype.core.errors import RecipeError
from ectype.core.escape import for_json

Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto.")]


@app.command()
def evaluate(
    run: Run,
    source: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Other images than the run's own.")] = None,
    likelihood: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000_000, metavar="K", help="Draws of the bound on the likelihood, on all test images."
        ),
    ] = None,
    every_figure: Annotated[bool, typer.Option("--all", help="Show all figures, not the main ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all figures as CSV.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print all figures as a LaTeX table.")] = False,
    moved: Moved = None,
    device: Device = None,
) -> None:
    """Measure a run on images that it was not trained on."""
    formats = {"--json": as_json, "--csv": as_csv, "--latex": as_latex}
    if len(asked := [name for name, value in formats.items() if value]) > 1:
        raise RecipeError(f"{' and '.join(asked)}: choose one format.")
    with err.spinner("measuring"):
        from ectype.api.run import Run as OpenRun

        store_moved([run], moved)
        found = OpenRun(run, console=err).evaluate(source, likelihood=likelihood, device=device)
    if as_json:
        print(found.to_json())
    elif as_csv or as_latex:
        print(found.to_csv() if as_csv else found.to_latex(), end="")
    elif every_figure:
        out.print(found.table())
    else:
        from ectype.analysis.headline import headline_sentence, headline_table

        say(headline_sentence(found, []))
        out.print(headline_table(found))


@app.command()
def diagnose(
    what: Annotated[str, typer.Argument(metavar="RUN | DATA", help="A run's directory, or images.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="For images: key=value, such as size=128.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="A directory for pictures of the evidence.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    moved: Moved = None,
    device: Device = None,
) -> None:
    """Find problems of a run or of images, and what to change."""
    with err.spinner("looking for problems"):
        from ectype.analysis import results

        store_moved([Path(what)], moved)
        found = results.diagnose(what, overrides or [], device=device)
        written = results.save_evidence(found, pictures) if pictures is not None else []
    if as_json:
        print(for_json(json.dumps([finding.to_dict() for finding in found], ensure_ascii=False, indent=1)))
        return
    for line in [*results.finding_lines(found), *(f"→ {place}" for place in written)]:
        say(line)


@app.command()
def keep(run: Run, step: Annotated[int, typer.Argument(help="A step that has a checkpoint.")]) -> None:
    """Select the weights of another step: `ectype keep RUN STEP`."""
    with err.spinner("saving the model"):
        from ectype.runs import load

        load.ship_checkpoint(run, step)
    say(f"{run}/model now holds the weights of step {step}")


@app.command()
def report(
    runs_: Annotated[list[Path], typer.Argument(metavar="RUN…", help="One or more runs.")],
    to: Annotated[
        Path | None, typer.Option("--out", help="The page: report.html in the run, or next to the first of several.")
    ] = None,
    moved: Moved = None,
) -> None:
    """Write one self-contained HTML page about runs."""
    with err.spinner("writing the report"):
        from ectype.analysis import results

        store_moved(runs_, moved)
        page = results.report([results.RunDir.existing(path) for path in runs_], to)
    say(f"report: {page}")


@app.command("runs")
def list_runs(root: Annotated[Path, typer.Argument(help="Where to look.")] = Path("runs")) -> None:
    """List runs with their state and main figure."""
    from ectype.evaluation.monitor import best_check
    from ectype.runs.run_dir import find_runs

    found = find_runs(root)
    if not found:
        say(f"no runs in '{root}': `ectype train vae photos/` makes one.")
        return
    rows = [(str(run.path), run.state(), f"{run.seen():,}", best_check(run)) for run in found]
    columns(("run", "state", "images", "main figure"), rows)
