"""What a finding is: a sign, the evidence for it, and what to do, as recipe overrides."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

__all__ = ["Advice", "Evidence", "Finding", "Severity", "typed"]

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")


class Advice(NamedTuple):
    """One change that is likely to help."""

    title: str
    why: str
    overrides: dict[str, Any]
    """Of the recipe; empty where what helps is outside of it."""

    def typed(self) -> str:
        """As it is typed behind `ectype train`."""
        return typed(self.overrides)


class Evidence(NamedTuple):
    """One number that a finding rests on."""

    name: str
    value: float
    beside: str = ""
    """What it would be otherwise, in words."""


@dataclass(frozen=True)
class Finding:
    """Something that is off."""

    name: str
    severity: Severity
    sign: str
    """What was seen and what follows from it, in one sentence."""
    evidence: Sequence[Evidence]
    advice: Sequence[Advice] = ()
    """The most promising first."""
    pictures: Mapping[str, Float[Tensor, "n c h w"]] = field(default_factory=dict)
    """Rows of images of equal number, by what they are."""
    decisive: bool = False
    """Whether nothing else can be told while this holds."""

    def lines(self) -> list[str]:
        """For a terminal."""
        found = [f"{self.severity}: {self.name}: {self.sign}"]
        found += [f"  {e.name} {e.value:.4g}{f' ({e.beside})' if e.beside else ''}" for e in self.evidence]
        for advice in self.advice:
            said = f": {advice.typed()}" if advice.overrides else ""
            found.append(f"  try {advice.title}{said} ({advice.why})")
        return found

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "severity": self.severity,
            "sign": self.sign,
            "evidence": [e._asdict() for e in self.evidence],
            "advice": [a._asdict() for a in self.advice],
        }


def typed(overrides: Mapping[str, Any]) -> str:
    """Overrides as they are typed in a shell."""
    return " ".join(shlex.quote(f"{key}={_text(value)}") for key, value in overrides.items())


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return "null" if value is None else str(value)
