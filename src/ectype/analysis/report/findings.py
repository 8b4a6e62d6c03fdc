"""The findings of a page, each with its evidence, its pictures, and the commands that follow its advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ectype.analysis.diagnose.finding import Finding, Severity, format_override
from ectype.analysis.report.components import Row
from ectype.analysis.report.next_step import advice_command
from ectype.analysis.report.pictures import strip
from ectype.analysis.run_view import RunView
from ectype.evaluation.figures import format_number

__all__ = ["FindingCard", "attempt_facts", "finding_cards"]


@dataclass(frozen=True)
class FindingCard:
    """A finding as a page shows it.

    Attributes:
        name: The problem.
        severity: How serious it is.
        message: What was observed, as a sentence.
        evidence: What is measured, its value, and what it is compared with.
        advice: What to try, why, the recipe overrides that do it, and the whole command; both may be empty.
        rows: Pictures of the problem.
    """

    name: str
    severity: Severity
    message: str
    evidence: list[tuple[str, str, str]]
    advice: list[tuple[str, str, str, str]]
    rows: list[Row]


def finding_cards(view: RunView, findings: Sequence[Finding]) -> list[FindingCard]:
    """Return findings as a page shows them, in the same order."""
    return [
        FindingCard(
            finding.name,
            finding.severity,
            f"{finding.message[:1].upper()}{finding.message[1:]}.",
            [(each.name, format_number(each.value), each.reference) for each in finding.evidence],
            [
                (advice.title, advice.why, advice.as_arguments(), advice_command(view, advice))
                for advice in finding.advice
            ],
            [Row(title, [strip(images, f"{finding.name}: {title}")]) for title, images in finding.pictures.items()],
        )
        for finding in findings
    ]


def attempt_facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return terms and descriptions of the attempts to fix problems of a run."""
    facts = []
    for entry in summary.get("attempts", []):
        selected = ", selected" if summary.get("shipped_attempt") == entry["attempt"] else ""
        start = "its last healthy weights" if entry["from"] else "the beginning"
        changed = format_override(entry["changed"])
        text = f"{entry['why']}, so from {start} with {changed}: {entry['state']}, {entry['reason']}{selected}"
        facts.append((f"Attempt {entry['attempt']}", text))
    return facts
