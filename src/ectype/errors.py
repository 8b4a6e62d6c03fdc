"""What can go wrong, in one tree.

Every message is one line that names the value, the rule it breaks and what to do. The command line prints that line
and exits with the class's `exit_code`; a library user catches `EctypeError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "DataError",
    "EctypeError",
    "EctypeWarning",
    "Interrupted",
    "ModelError",
    "RecipeError",
    "RunError",
    "TrainingError",
    "did_you_mean",
]


class EctypeWarning(UserWarning):
    """Something a user should know that does not stop the work."""


class EctypeError(Exception):
    """The root of all errors raised on purpose."""

    exit_code = 1


class RecipeError(EctypeError):
    """A preset, key or value that a recipe does not admit."""

    exit_code = 2


class DataError(EctypeError):
    """Images that are missing, broken, or not what the recipe needs."""

    exit_code = 3


class ModelError(EctypeError):
    """A model that cannot be built for these images, or cannot do what it was asked."""

    exit_code = 4


class CheckpointError(EctypeError):
    """A checkpoint that is missing, damaged, or of another model."""

    exit_code = 5


class TrainingError(EctypeError):
    """Training that cannot go on: a loss or gradient that is not a number, no room to save."""

    exit_code = 6


class RunError(EctypeError):
    """A run directory that is missing, busy, or of another recipe."""

    exit_code = 7


class Interrupted(EctypeError):
    """Ctrl-C or SIGTERM stopped training, which saved itself: the same command with `--resume` goes on from there."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: trying again will work


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of an error message: the option closest to a mistyped word, else all of them.

    >>> did_you_mean("latent_dims", ["latent_dim", "lr"])
    "did you mean 'latent_dim'?"
    """
    options = sorted(set(options))
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not options:
        return "there is nothing to choose from."
    return "choose from: " + ", ".join(options) + "."
