"""The interface of a logger, and the data that it receives about a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from ectype.core.errors import RecipeError
from ectype.core.optional import optional_import
from ectype.runs.run_dir import RunDir

__all__ = ["End", "LoggedRun", "Logger", "Results", "flat"]

End = Literal["finished", "interrupted"]
"""How training ended: completely, or by a signal or an error, so that it may go on later."""


class LoggedRun(NamedTuple):
    """The data about a run that a logger receives at its start.

    Attributes:
        directory: The run. A logger writes nowhere else unless the user has configured another place.
        name: The name that people see.
        recipe: The recipe as plain values.
        text: The recipe as YAML.
    """

    directory: RunDir
    name: str
    recipe: dict[str, Any]
    text: str


class Results(NamedTuple):
    """What is known about a run when it has been measured.

    Attributes:
        figures: Key of each finite figure → its value.
        sentence: What matters most.
        findings: One text of several lines for each finding.
    """

    figures: Mapping[str, float]
    sentence: str
    findings: Sequence[str]

    @property
    def text(self) -> str:
        """Sentence and findings as plain text."""
        return "\n\n".join([self.sentence, *(self.findings or ["No problems were found."])])


class Logger(ABC):
    """Sends a run to one tool. Any method may raise anything; see `RunLoggers`.

    Attributes:
        name: In a recipe; also the name of the extra that installs the library.
        library: What the library is called.
        module: The module that must be importable.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    module: ClassVar[str]

    @classmethod
    def check(cls) -> Any:
        """Import the library and return it. Raises `RecipeError` if it is not installed."""
        needed_for = f"run.loggers='[{cls.name}]'"
        return optional_import(cls.module, cls.name, needed_for, library=cls.library, error=RecipeError)

    @abstractmethod
    def open(self, run: LoggedRun, identity: str | None) -> str:
        """Start a run in the tool, or continue it.

        Args:
            run: The run.
            identity: What an earlier call has returned for this run; None for a new one.

        Returns:
            What the tool recognizes the run by.
        """

    @abstractmethod
    def scalars(self, values: Mapping[str, float], seen: int) -> None:
        """Log named finite values after a number of images seen, which never decreases."""

    @abstractmethod
    def pictures(self, files: Mapping[str, Path], seen: int) -> None:
        """Log PNG files by name."""

    @abstractmethod
    def model(self, folder: Path) -> None:
        """Log the folder of the trained model."""

    @abstractmethod
    def results(self, results: Results, seen: int) -> None:
        """Log what is known when the run has been measured."""

    @abstractmethod
    def close(self, end: End) -> None:
        """Write what is left, and say how training ended."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys.

    >>> flat({"model": {"kind": "ae", "net": {"width": 8}}})
    {'model.kind': 'ae', 'model.net.width': 8}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
