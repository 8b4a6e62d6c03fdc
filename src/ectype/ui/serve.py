"""The server of the local page: its address, its socket, and its end."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ectype.core.errors import EctypeError, RecipeError, RunError
from ectype.core.optional import optional_import
from ectype.core.signals import StopSignal
from ectype.ui.access import MIN_TOKEN_LENGTH, new_token
from ectype.ui.trainings import TOKEN_VARIABLE, Training

__all__ = ["DEFAULT_PORT", "TOKEN_VARIABLE", "is_loopback", "serve"]

DEFAULT_PORT = 8421
TRIED_PORTS = 20
"""Ports that are tried from the default on, if others are in use."""
STOP_SECONDS = 2
"""How long open requests may take when the server stops."""


def serve(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    run: str = "",
    browser: bool = False,
    say: Callable[[str], None],
    until: Callable[[], None] | None = None,
) -> list[Training]:
    """Serve the page on a runs folder until Ctrl-C or SIGTERM.

    Args:
        root: The runs folder.
        host: The address to listen on. One that other machines can reach needs a token.
        port: The port; None for the first free one from 8421 on.
        token: The key of the page, of at least 16 characters; None for a random one.
        run: The key of the run that the printed address shows; empty for the list.
        browser: Whether to open a browser.
        say: Prints a line.
        until: Returns when the server is to stop; called in a thread of its own.

    Returns:
        The trainings that were started from the page and go on without it.

    Raises:
        EctypeError: A library is missing, the address is not allowed, or the port is in use.
    """
    uvicorn = optional_import("uvicorn", "ui", "the local page", error=EctypeError)
    optional_import("fastapi", "ui", "the local page", error=EctypeError)
    if root.exists() and not root.is_dir():
        raise RunError(f"'{root}' is not a folder: give the folder that contains the runs.")
    token = token or os.environ.get(TOKEN_VARIABLE) or None
    local = is_loopback(host)
    if not local and token is None:
        raise RecipeError(
            f"--host {host} lets other machines look at all runs in '{root}' and start trainings here: give a token of "
            f"your own with --token or {TOKEN_VARIABLE}, or leave --host out."
        )
    if token is not None and (len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise RecipeError(
            f"a token of {len(token)} characters: at least {MIN_TOKEN_LENGTH} printable ASCII characters are needed."
        )
    from ectype.ui.app import create_page

    with _listen(host, port) as listening:
        bound = listening.getsockname()[1]
        page = create_page(root, token=token or new_token(), port=bound, local=local)
        key = token or page.app.token
        shown = host if local else "localhost" if host in ("0.0.0.0", "::") else host
        name = f"[{shown}]" if ":" in shown else shown
        address = f"http://{name}:{bound}/?token={quote(key, safe='')}" + (
            f"#/run/{quote(run, safe='')}" if run else ""
        )
        if not local:
            say(
                f"Everyone who can reach {host}:{bound} and has the token sees all runs in '{page.folder.root}' with "
                "their pictures, logs and recipes, and can start trainings on any images that you can read. The "
                "connection is not encrypted: use it in a network that you trust, or through an SSH tunnel."
            )
        say(f"{address}\nThe page on '{page.folder.root}' is open until Ctrl-C; trainings go on without it.")
        config = uvicorn.Config(
            page.app,
            log_level="error",
            access_log=False,  # it would contain the token
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=1024,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        server = uvicorn.Server(config)
        _end_streams_on_exit(server, page)
        if until is not None:

            def wait() -> None:
                until()
                server.should_exit = page.closing = True

            threading.Thread(target=wait, name="until", daemon=True).start()
        if browser and _has_browser():
            threading.Timer(0.5, webbrowser.open, [address]).start()
        with suppress(StopSignal):  # the usual end: the server raises the signal again when it has stopped
            server.run(sockets=[listening])
        page.closing = True
        page.models.close()
        return page.trainings.close()


def is_loopback(host: str) -> bool:
    """Return whether an address reaches only this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens on the port, or on the first free one from the default on."""
    error: OSError | None = None
    for tried in [port] if port is not None else range(DEFAULT_PORT, DEFAULT_PORT + TRIED_PORTS):
        try:
            family = socket.getaddrinfo(host, tried, type=socket.SOCK_STREAM)[0][0]
            listening = socket.socket(family, socket.SOCK_STREAM)
        except OSError as failed:
            raise RecipeError(f"--host {host}: {failed.strerror or failed}; give an address of this machine.") from None
        try:
            if sys.platform != "win32":  # there it would share a port with another program
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, tried))
            listening.listen(128)
        except OSError as failed:
            listening.close()
            error = failed
            continue
        return listening
    which = f"port {port}" if port is not None else f"ports {DEFAULT_PORT} to {DEFAULT_PORT + TRIED_PORTS - 1}"
    reason = error.strerror if error is not None else "in use"
    raise RecipeError(f"{which} on {host} cannot be used ({reason}): choose another one with --port.")


def _end_streams_on_exit(server: Any, page: Any) -> None:
    """Let a signal that stops the server also end the streams of events, which would be waited for."""
    handle = server.handle_exit

    def handle_exit(sig: int, frame: Any) -> None:
        page.closing = True
        handle(sig, frame)

    server.handle_exit = handle_exit


def _has_browser() -> bool:
    """Return whether a browser with windows can be opened, not one that would take over the terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
