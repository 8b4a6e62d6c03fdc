"""What is off with a run, on its page: sign, evidence, pictures, advice."""

from __future__ import annotations

from typing import Any

from ectype.diagnose.finding import typed
from ectype.diagnose.scan import of_run
from ectype.measure.evaluation import number
from ectype.measure.view import RunView
from ectype.report.parts import Row, Section
from ectype.report.pictures import strip

__all__ = ["findings"]


def findings(view: RunView) -> Section | None:
    """All findings, the gravest first, and what was tried against them; None where there are none."""
    facts = _attempts(view, view.run.summary())
    rows = []
    for finding in of_run(view):
        facts.append((f"{finding.name} ({finding.severity})", f"{finding.sign}."))
        told = [f"{e.name} {number(e.value)}{f' ({e.beside})' if e.beside else ''}" for e in finding.evidence]
        facts.append(("Evidence", "; ".join(told)))
        for advice in finding.advice:
            facts.append(("Try", ": ".join(filter(None, (advice.title, advice.typed()))) + f" ({advice.why})"))
        for what, images in finding.pictures.items():
            rows.append(Row(f"{finding.name}: {what}", [strip(images, f"{finding.name}: {what}")]))
    if not facts:
        return None
    caption = "What is off, what that rests on, and what to change, as it is typed behind `ectype train`."
    return Section("findings", "Findings", caption, rows, facts=facts)


def _attempts(view: RunView, said: dict[str, Any]) -> list[tuple[str, str]]:
    """What was tried."""
    facts = []
    for entry in said.get("attempts", []):
        shipped = ", shipped" if said.get("shipped_attempt") == entry["attempt"] else ""
        whence = "its last healthy weights" if entry["from"] else "the beginning"
        changed = typed(entry["changed"])
        what = f"{entry['why']}, so from {whence} with {changed}: {entry['state']}, {entry['reason']}{shipped}"
        facts.append((f"Attempt {entry['attempt']}", what))
    return facts
