"""The verdict on a run in a word, and whether it is good news."""

from __future__ import annotations

from typing import NamedTuple

from ectype.analysis.report.tiles import Standing
from ectype.analysis.run_view import RunView

__all__ = ["RunVerdict", "run_verdict"]

MAX_CLAUSES = 2
"""Clauses of the evidence that the short form keeps."""
HELD = ("learning", "undertrained", "unfinished")
"""Verdicts and states that are neither good nor bad yet."""
GOOD = ("healthy", "finished", "stopped early")


class RunVerdict(NamedTuple):
    """The verdict on the samples of a run, or how its training ended if there is none.

    Attributes:
        name: In a word or two.
        evidence: What it rests on; may be empty.
        standing: What it means.
    """

    name: str
    evidence: str
    standing: Standing

    @property
    def short_evidence(self) -> str:
        """The first clauses of the evidence."""
        clauses = self.evidence.split("; ")
        return "; ".join(clauses[:MAX_CLAUSES]) + " …" * (len(clauses) > MAX_CLAUSES)


def run_verdict(view: RunView) -> RunVerdict:
    """Return the verdict on a run."""
    name, evidence = view.evaluation.verdict, view.evaluation.verdict_evidence
    if not name:
        summary = view.run.selected_attempt.summary()
        name, evidence = str(summary.get("state", "unfinished")), str(summary.get("reason", ""))
    return RunVerdict(name, evidence, "good" if name in GOOD else "held" if name in HELD else "bad")
