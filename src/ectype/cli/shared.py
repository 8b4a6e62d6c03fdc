"""What commands share: the application, its two consoles, and how errors are printed."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from ectype.core import console
from ectype.core.console import ActivityConsole
from ectype.core.errors import EctypeError, EctypeWarning, Interrupted
from ectype.core.escape import as_one_line

__all__ = ["Device", "Run", "Seed", "app", "columns", "err", "main", "out", "say"]

GROUPS = {
    "Train": ("train", "presets", "data", "compare", "study"),
    "Use": ("sample", "reconstruct", "translate", "score", "nearest", "encode", "decode"),
    "Understand": ("evaluate", "diagnose", "report", "runs", "keep"),
    "Share": ("export", "push"),
}
"""Headings of `ectype --help` → commands, in the order in which they are shown."""


class GroupedCommands(TyperGroup):
    """Lists commands under headings, each with one complete line at 80 columns."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Arguments in a message may be names of files, such as those that `*` stands for."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = as_one_line(error.message)  # pyright: ignore[reportAttributeAccessIssue]
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading."""
        for heading, names in GROUPS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name, command.get_short_help_str(limit=400)) for name, command in commands if command is not None]
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=12)


app = typer.Typer(
    name="ectype",
    cls=GroupedCommands,
    help="From a folder of images to a trained, monitored, measured and comparable image model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 2 recipe or usage, 3 images, 4 model, 5 checkpoint, 6 training, 7 run, "
    "75 stopped by Ctrl-C or SIGTERM and saved (repeat the command; train with --resume or --out).",
)

out = ActivityConsole()
err = ActivityConsole(stderr=True)

Run = Annotated[Path, typer.Argument(help="A run's directory, such as runs/vae-001, or a model on the Hub, user/name.")]
Seed = Annotated[int, typer.Option(help="Seed of the random draws.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"ectype {version('ectype')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From a folder of images to a trained, monitored, measured and comparable image model."""


def say(text: str) -> None:
    """Print text as it is."""
    console.say(out, text)


def columns(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table with one line for each row, cut at the terminal's edge."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*map(as_one_line, row))
    wide = out if out.is_terminal else ActivityConsole(width=200)
    wide.print(table, highlight=False)


def _complain(color: str, word: str, text: str) -> None:
    """Print one line on stderr that begins with a colored word."""
    err.print(Text.assemble((f"{word}:", color), f" {as_one_line(text)}"), highlight=False, soft_wrap=True)


def main() -> None:
    """Run a command. An error that a user can fix is one line on stderr and a non-zero exit code."""
    # By default, idle threads of GNU OpenMP spin, which slows down a machine that has other work many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.simplefilter("always", EctypeWarning)
    warnings.showwarning = lambda message, *_, **__: _complain("yellow", "warning", str(message))
    try:
        app()
    except EctypeError as error:
        color = "yellow" if isinstance(error, Interrupted) else "red"
        word = "stopped" if isinstance(error, Interrupted) else "error"
        _complain(color, word, str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("yellow", "stopped", "checkpoints that were saved are kept")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
