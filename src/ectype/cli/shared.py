"""What commands share: the application, its two consoles, and how errors are printed."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
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
from ectype.core.output import safe_streams
from ectype.core.signals import StopSignal, handle_stop_signals, raise_stop_signal

__all__ = ["Device", "Moved", "Run", "Seed", "app", "columns", "err", "finite", "main", "out", "say", "store_moved"]

GROUPS = {
    "Train": ("train", "presets", "data", "compare", "study"),
    "Use": ("sample", "reconstruct", "translate", "score", "nearest", "encode", "decode"),
    "Understand": ("ui", "evaluate", "diagnose", "report", "runs", "keep"),
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
    "75 stopped by Ctrl-C, SIGTERM or SIGHUP, with all that there was to save (repeat the command; train with --resume "
    "or --out).",
)

out = ActivityConsole()
err = ActivityConsole(stderr=True)


def finite(value: float | None) -> float | None:
    """Refuse a number that is infinite or NaN, which every comparison with bounds lets through."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


Run = Annotated[Path, typer.Argument(help="A run's directory, such as runs/vae-001, or a model on the Hub, user/name.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the random draws.")]
Moved = Annotated[
    str | None, typer.Option("--data", help="The new place of the run's own images, if they moved; it is stored.")
]
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


def store_moved(runs: Iterable[Path], source: str | None) -> None:
    """Store the new place of the images of runs, if one is given."""
    if source is not None:
        from ectype.runs.load import move_images
        from ectype.runs.run_dir import RunDir

        for run in runs:
            move_images(RunDir.existing(run), source, err)


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
    with safe_streams() as (output, _):
        code = _run_command()
        if output is not None:
            output.flush()
            if output.error is not None:
                _end("error", f"not all of the output could be written ({output.error.strerror or output.error}).")
                code = code or 1
    sys.exit(code)


def _run_command() -> int:
    """Run the command that was typed, print how it ended, and return its exit code."""
    try:
        # The first of several processes cleans up; the others wait for its messages where no signal is handled.
        first = os.environ.get("RANK", "0") == "0"
        with handle_stop_signals(raise_stop_signal) if first else nullcontext():
            app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except EctypeError as error:
        _end("stopped" if isinstance(error, Interrupted) else "error", str(error))
        return error.exit_code
    except StopSignal as stop:
        _end("stopped", f"{stop.name}: what was written before is kept; repeat the command.")
        return Interrupted.exit_code
    except OSError as error:
        where = "" if error.filename is None else f" ('{str(error.filename)[:200]}')"
        _end("error", f"{error.strerror or error}{where}: check the path, its permissions, and the free space.")
        return 1
    except (RuntimeError, MemoryError) as error:
        from ectype.core.memory import out_of_memory

        if not out_of_memory(error):
            raise
        _end("error", "out of memory: use fewer or smaller images at a time, or a machine with more memory.")
        return 1
    return 0


def _end(word: str, text: str) -> None:
    """Print the last line of a command that does not end well."""
    _complain("yellow" if word == "stopped" else "red", word, text)
