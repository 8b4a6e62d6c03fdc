"""The command line: parse, call, print. What a command does is elsewhere, and imported when it is asked for."""

from ectype.cli import making, using, weighing  # noqa: F401  (each adds its commands)
from ectype.cli.shared import app, main

__all__ = ["app", "main"]
