"""What commands share: the application, its two consoles, and what becomes of an error."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ectype.errors import EctypeError, EctypeWarning, Interrupted

__all__ = ["Device", "Run", "Seed", "app", "columns", "main", "measuring", "out", "say"]

app = typer.Typer(
    name="ectype",
    help="From a folder of images to a trained, watched, measured and comparable image model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 2 recipe or usage, 3 images, 4 model, 5 checkpoint, 6 training, 7 run, "
    "75 stopped by Ctrl-C or SIGTERM and saved (the same command goes on; train with --resume or --out).",
)

out = Console()
err = Console(stderr=True)

Run = Annotated[
    Path, typer.Argument(help="A run's directory, such as runs/vae-001; to use it, also user/name on the Hub.")
]
Seed = Annotated[int, typer.Option(help="Repeats the same draws.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]


def say(text: str) -> None:
    """Print one line as it is."""
    out.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def measuring() -> Iterator[Callable[[str], None]]:
    """On a terminal, a line that says what is being measured while it is."""
    with err.status("measuring") as status:
        yield lambda what: status.update(f"measuring {escape(what)}")


def columns(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
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
        err.print("[yellow]stopped:[/] what was saved before is kept", highlight=False)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
