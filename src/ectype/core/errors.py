"""All errors and warnings of Ectype, and the hints in their messages.

* `EctypeError`: the base class; the command line prints the message and exits with `exit_code`
    * `RecipeError` (2): a preset, key or value that a recipe does not accept
    * `DataError` (3): images that are missing, damaged, or not what the recipe needs
    * `ModelError` (4): a model that cannot be built for these images, or lacks an ability
    * `CheckpointError` (5): a checkpoint that is missing, damaged, or of another model
    * `TrainingError` (6): training that cannot continue
    * `RunError` (7): a run directory that is missing, in use, or of another recipe
    * `Interrupted` (75): Ctrl-C, SIGTERM or SIGHUP stopped the work
* `EctypeWarning`: something that does not stop the work

Every message is one line that names the value, the rule that it breaks, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

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
    "similar_words",
]


class EctypeWarning(UserWarning):
    """Something that a user should know and that does not stop the work."""


class EctypeError(Exception):
    """Base class of all errors that Ectype raises on purpose."""

    exit_code = 1
    """Exit code of the command line."""


class RecipeError(EctypeError):
    """A preset, key or value that a recipe does not accept."""

    exit_code = 2


class DataError(EctypeError):
    """Images that are missing, damaged, or not what the recipe needs."""

    exit_code = 3


class ModelError(EctypeError):
    """A model that cannot be built for these images, or that lacks the requested ability."""

    exit_code = 4


class CheckpointError(EctypeError):
    """A checkpoint that is missing, damaged, or of another model."""

    exit_code = 5


class TrainingError(EctypeError):
    """Training that cannot continue: a loss or gradient that is not finite, or no space to save."""

    exit_code = 6


class RunError(EctypeError):
    """A run directory that is missing, in use, or of another recipe."""

    exit_code = 7


class Interrupted(EctypeError):
    """Ctrl-C, SIGTERM or SIGHUP stopped the work after saving what there was to save; the same command continues."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: trying again will work


MIN_SIMILARITY = 0.6
"""Similarity (0 to 1) from which an option is taken for what was meant."""
MIN_LEAD = 0.1
"""If the best option is more similar than the second one by this much, it is the only suggestion."""
MAX_SUGGESTIONS = 5
MAX_LISTED_OPTIONS = 40


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return the end of an error message about a mistyped word.

    The most similar option is suggested, or up to five if several are similar. If none is, all options are listed if
    there are at most 40, else the five closest. Upper and lower case count as equal.

    >>> did_you_mean("latent_dims", ["latent_dim", "lr"])
    "did you mean 'latent_dim'?"
    >>> did_you_mean("adamx", ["adamw", "adam", "sgd"])
    "did you mean 'adam' or 'adamw'?"
    >>> did_you_mean("huber", ["mse", "l1"])
    'choose from: l1, mse.'

    Args:
        word: What the user wrote.
        options: What could have been meant.
    """
    options = sorted(set(options))
    if not options:
        return "there is nothing to choose from."
    if similar := similar_words(word, options):
        *others, last = (f"'{option}'" for option in similar)
        return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"
    if len(options) <= MAX_LISTED_OPTIONS:
        return "choose from: " + ", ".join(options) + "."
    similarity = _similarities(word, options)
    closest = sorted(options, key=lambda option: -similarity[option])[:MAX_SUGGESTIONS]
    return f"the closest of {len(options):,} names: {', '.join(closest)}."


def similar_words(word: str, options: Sequence[str]) -> list[str]:
    """Return the options that are similar to a word, the most similar first: up to five, or one if it is clearly best.

    >>> similar_words("vae-1", ["vae-001", "gan-001"])
    ['vae-001']
    """
    similarity = _similarities(word, options)
    similar = sorted(
        (option for option in options if similarity[option] >= MIN_SIMILARITY), key=lambda o: -similarity[o]
    )
    if len(similar) > 1:
        first, second = (similarity[option] for option in similar[:2])
        if first - second >= MIN_LEAD or first == 1 > second:
            similar = similar[:1]
    return similar[:MAX_SUGGESTIONS]


def _similarities(word: str, options: Sequence[str]) -> dict[str, float]:
    matcher, word = difflib.SequenceMatcher(), word.lower()
    matcher.set_seq2(word)
    similarity = {}
    for option in options:
        matcher.set_seq1(option.lower())
        bound = matcher.quick_ratio()  # fast; halved, it only orders the options that are not similar
        similarity[option] = matcher.ratio() if bound >= MIN_SIMILARITY else bound / 2
        if len(word) >= 3 and word in option.lower():
            similarity[option] = max(similarity[option], MIN_SIMILARITY)
    return similarity
