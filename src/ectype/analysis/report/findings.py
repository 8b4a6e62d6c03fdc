"""The section of a page that lists findings, with evidence, pictures and advice."""

from __future__ import annotations

from typing import Any

from ectype.analysis.diagnose.check import check_view
from ectype.analysis.diagnose.finding import format_override
from ectype.analysis.report.components import Row, Section
from ectype.analysis.report.pictures import strip
from ectype.analysis.run_view import RunView
from ectype.evaluation.figures import format_number

__all__ = ["findings_section"]


def findings_section(view: RunView) -> Section | None:
    """List all findings, the most serious first, after the attempts to fix them. None if there are neither."""
    facts = _attempts(view.run.summary())
    rows = []
    for finding in check_view(view):
        facts.append((f"{finding.name} ({finding.severity})", f"{finding.message[:1].upper()}{finding.message[1:]}."))
        evidence = [
            f"{each.name} {format_number(each.value)}{f' ({each.reference})' if each.reference else ''}"
            for each in finding.evidence
        ]
        if evidence:
            facts.append(("Evidence", "; ".join(evidence)))
        for advice in finding.advice:
            change = ": ".join(filter(None, (advice.title, advice.as_arguments())))
            facts.append(("Try", f"{change} ({advice.why})"))
        for title, images in finding.pictures.items():
            rows.append(Row(f"{finding.name}: {title}", [strip(images, f"{finding.name}: {title}")]))
    if not facts:
        return None
    caption = (
        "Problems with this run or its images, the evidence for each, and what to change. Changes are given as "
        "arguments of ectype train."
    )
    return Section("findings", "Findings", caption, rows, facts=facts)


def _attempts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Describe the attempts to fix problems of the run."""
    facts = []
    for entry in summary.get("attempts", []):
        selected = ", selected" if summary.get("shipped_attempt") == entry["attempt"] else ""
        start = "its last healthy weights" if entry["from"] else "the beginning"
        changed = format_override(entry["changed"])
        text = f"{entry['why']}, so from {start} with {changed}: {entry['state']}, {entry['reason']}{selected}"
        facts.append((f"Attempt {entry['attempt']}", text))
    return facts
