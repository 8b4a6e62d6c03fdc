"""The command line: parse, call, print. What a command does is elsewhere, and imported when it is asked for."""

from ectype.cli import making, sharing, using, weighing
from ectype.cli.shared import app, main

# The modules are named for what importing them does: each adds its commands.
__all__ = ["app", "main", "making", "sharing", "using", "weighing"]
