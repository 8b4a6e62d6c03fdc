"""The command that opens the local page, and how a training opens it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ectype.cli.shared import app, out, say
from ectype.core.errors import RunError
from ectype.core.signals import StopSignal


@app.command()
def ui(
    root: Annotated[Path, typer.Argument(metavar="[RUNS]", help="The folder that contains the runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="The address to listen on; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port; the first free one from 8421 on if not given.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="Your own key of the page, also in ECTYPE_UI_TOKEN; a random one if not given.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser, if on a terminal.")] = True,
    run: Annotated[str, typer.Option(hidden=True)] = "",
    follow: Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)] = False,
) -> None:
    """Open a local page on runs: watch, start and stop them."""
    if root != Path("runs") and not root.exists():
        raise RunError(f"no folder '{root}': give the folder that contains the runs, such as runs/.")
    with out.spinner("opening the page"):
        from ectype.ui.serve import serve

    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass

    try:
        left = serve(
            root,
            host=host,
            port=port,
            token=token,
            run=run,
            browser=browser and sys.stdout.isatty(),
            say=lambda text: print(text, flush=True),
            until=wait if follow else None,
        )
    except StopSignal:  # the usual end
        return
    for training in left:
        say(f"'{training.run}' goes on: `ectype ui` shows it again")


@contextmanager
def page_on(run: Path) -> Iterator[None]:
    """Serve the page on a run in a process of its own while the block runs, and on a terminal until Ctrl-C after it.

    Args:
        run: The directory of the run, in its runs folder.
    """
    from ectype.core.optional import optional_import
    from ectype.ui.folder import key_of

    optional_import("uvicorn", "ui", "--watch", error=RunError)
    options = ["--run", key_of(run.name), *([] if sys.stdout.isatty() else ["--no-browser"]), "--until-stdin-ends"]
    words = [sys.executable, "-m", "ectype.cli", "ui", *options, "--", str(run.parent)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as server:
        try:
            yield
            if sys.stdout.isatty() and server.poll() is None:
                say("the page stays open until Ctrl-C")
                server.wait()
        finally:
            if server.stdin is not None:
                server.stdin.close()
