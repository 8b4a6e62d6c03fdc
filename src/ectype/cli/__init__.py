"""The command line: parse, call, print. What a command does is elsewhere, and imported when it is asked for."""

from ectype.cli import evaluate, export, infer, train, ui
from ectype.cli.shared import app, main

# Importing these modules registers their commands.
__all__ = ["app", "evaluate", "export", "infer", "main", "train", "ui"]
