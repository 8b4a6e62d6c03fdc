"""The data that a finding consists of: a problem, the evidence for it, and advice as recipe overrides."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

__all__ = ["Advice", "Evidence", "Finding", "Severity", "format_override"]

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")
"""From the most to the least serious."""


class Advice(NamedTuple):
    """One change that is likely to help.

    Attributes:
        title: The change in a few words that complete "try …".
        why: The reason, in one clause.
        overrides: Recipe overrides that make the change; empty if the recipe is not what has to change.
        options: Options of `ectype train` that make the change instead, such as `--images 4000`.
    """

    title: str
    why: str
    overrides: dict[str, Any]
    options: str = ""

    def as_arguments(self) -> str:
        """Return the overrides as arguments of `ectype train`, quoted for a shell."""
        return format_override(self.overrides)


class Evidence(NamedTuple):
    """One value that a finding rests on.

    Attributes:
        name: What was measured.
        value: The measured value.
        reference: What the value is compared with, in a few words; may be empty.
    """

    name: str
    value: float
    reference: str = ""


@dataclass(frozen=True)
class Finding:
    """A problem with a run or with its images.

    Attributes:
        name: Stable identifier, such as "posterior collapse".
        severity: How serious the problem is.
        message: What was observed and what follows from it, in one sentence without a final full stop.
        evidence: The values that the message rests on.
        advice: What to change, the most promising first.
        pictures: Title → images that show the problem. All rows have the same number of images.
        decisive: Whether other findings are no more than notes while this one holds, unless they are lasting.
        withholds_others: Whether they mean nothing at all then.
        lasting: Whether longer training alone could not remove the problem.
        headline: The problem in a few words, for the first line of a report; the message if empty.
    """

    name: str
    severity: Severity
    message: str
    evidence: Sequence[Evidence]
    advice: Sequence[Advice] = ()
    pictures: Mapping[str, Float[Tensor, "n c h w"]] = field(default_factory=dict)
    decisive: bool = False
    withholds_others: bool = False
    lasting: bool = False
    headline: str = ""

    def lines(self) -> list[str]:
        """Return the finding as lines for a terminal."""
        lines = [f"{self.severity}: {self.name}: {self.message}"]
        for each in self.evidence:
            lines.append(f"  {each.name} {each.value:.4g}{f' ({each.reference})' if each.reference else ''}")
        for advice in self.advice:
            arguments = f": {advice.as_arguments()}" if advice.overrides else ""
            lines.append(f"  try {advice.title}{arguments} ({advice.why})")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the finding without its pictures, as JSON can store it."""
        return {
            "name": self.name,
            "severity": self.severity,
            "sign": self.message,
            "evidence": [{"name": e.name, "value": e.value, "beside": e.reference} for e in self.evidence],
            "advice": [{k: v for k, v in a._asdict().items() if k != "options" or v} for a in self.advice],
        }


def format_override(overrides: Mapping[str, Any]) -> str:
    """Format recipe overrides as they are typed in a shell.

    >>> format_override({"model.net.latent_dim": 32, "optimizer.betas": [0.0, 0.99]})
    "model.net.latent_dim=32 'optimizer.betas=[0.0, 0.99]'"
    """
    return " ".join(shlex.quote(f"{key}={_format_value(value)}") for key, value in overrides.items())


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_format_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_format_value, value)) + "]"
    return "null" if value is None else str(value)
