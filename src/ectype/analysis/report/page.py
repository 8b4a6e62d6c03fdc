"""One or more runs as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ectype.analysis.cost import format_gflop, format_gigabytes
from ectype.analysis.diagnose.check import check_view
from ectype.analysis.diagnose.finding import Finding
from ectype.analysis.headline import headline_figures, headline_sentence, short_number
from ectype.analysis.report.comparison import ComparisonView
from ectype.analysis.report.components import Row, Section
from ectype.analysis.report.findings import FindingCard, attempt_facts, finding_cards
from ectype.analysis.report.next_step import next_command
from ectype.analysis.report.opening import opening_rows
from ectype.analysis.report.sections import sections
from ectype.analysis.report.summary_text import describe_density, format_compression, summary_text
from ectype.analysis.report.tiles import Standing, Tile, tiles
from ectype.analysis.report.verdict import RunVerdict, run_verdict
from ectype.analysis.run_view import RunView
from ectype.core.errors import CheckpointError, RunError
from ectype.core.escape import for_terminal
from ectype.core.files import atomic_file
from ectype.core.outputs import output_file
from ectype.evaluation.figure_names import display_name
from ectype.evaluation.figures import Evaluation, Figure, format_number
from ectype.models.base import Encodes
from ectype.models.flop import count_flops
from ectype.runs import checkpoint
from ectype.runs.run_dir import RunDir

__all__ = ["reproduction_commands", "write_report"]

TEMPLATES = Path(__file__).parent
COMPARED = ("mean_dice", "psnr", "psnr_above_pca", "ssim", "effective_rank", "linear_probe_accuracy")
"""Figures of the table at the top of a page of several runs, if any of them has it."""
MAX_FIGURES = 6
"""Number of figures on the first screen."""


@dataclass(frozen=True)
class _Part:
    """What the template shows of one run."""

    key: str
    name: str
    preset: str
    opening: list[Row]
    tiles: list[Tile]
    sentence: str
    standing: Standing
    next_step: tuple[str, str]
    verdict: RunVerdict
    headline: list[Figure]
    findings: list[FindingCard]
    attempts: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    summary: list[str]
    evaluation: Evaluation
    sections: list[Section]
    recipe: str
    environment: list[tuple[str, str]]
    commands: list[str]


def write_report(
    target: Path,
    views: Sequence[RunView],
    *,
    comparison: ComparisonView | None = None,
    owned: bool = False,
) -> Path:
    """Write one page about one or more runs.

    The file contains all pictures, scripts and styles. It loads nothing from elsewhere, which its own content security
    policy also forbids.

    Args:
        target: The HTML file.
        views: The runs, at least one.
        comparison: What the page shows above the runs, if they were trained to be compared.
        owned: Whether the file is in a run or comparison, where it may be replaced whatever is in it.

    Returns:
        The file.

    Raises:
        RunError: There are no runs, the file cannot be written, or it exists and Ectype did not write it.
    """
    if not views:
        raise RunError("a report needs at least one run.")
    template = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html.j2")
    parts = [_part(view, f"run-{i}") for i, view in enumerate(views, 1)]
    compared = {key: display_name(key) for key in COMPARED if any(key in part.evaluation for part in parts)}
    page = template.render(
        title=f"Comparison of {target.parent.resolve().name}" if comparison is not None else _title(parts),
        comparison=comparison,
        parts=parts,
        compared=compared if len(parts) > 1 and comparison is None else {},
        number=format_number,
        short_number=short_number,
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "page.js").read_text(encoding="utf-8"),
        sorting=(TEMPLATES / "sort.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        has_charts=bool(comparison is not None and comparison.charts)
        or any(section.charts for part in parts for section in part.sections),
    )
    try:
        with atomic_file(target) if owned else output_file(target) as scratch:
            scratch.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write '{target}' ({error.strerror}): choose another place with --out.") from None
    return target


def _visible(value: Any) -> Any:
    """Write out control characters of text in the page; jinja escapes its tags."""
    return value if not isinstance(value, str) or isinstance(value, Markup) else for_terminal(value)


def _title(parts: Sequence[_Part]) -> str:
    return parts[0].name if len(parts) == 1 else f"{len(parts)} runs"


def _part(view: RunView, key: str) -> _Part:
    evaluation, about = view.evaluation, view.recipe.about
    built, findings = sections(view), check_view(view)
    verdict = run_verdict(view)
    return _Part(
        key=key,
        name=view.run.name,
        preset=f"{about.name}: {about.summary}" if about.summary else about.name,
        opening=opening_rows(built),
        tiles=tiles(view),
        sentence=headline_sentence(evaluation, findings),
        standing=_standing(findings, verdict.standing),
        next_step=next_command(view, findings),
        verdict=verdict,
        headline=headline_figures(evaluation)[:MAX_FIGURES],
        findings=finding_cards(view, findings),
        attempts=attempt_facts(view.run.summary()),
        facts=_facts(view),
        summary=[
            " ".join(summary_text(evaluation, view.info)),
            describe_density(evaluation.density, encodes=isinstance(view.model, Encodes)),
        ],
        evaluation=evaluation,
        sections=built,
        recipe=view.recipe.yaml(),
        environment=_environment(view.run),
        commands=reproduction_commands(view.run),
    )


def _standing(findings: Sequence[Finding], verdict: Standing) -> Standing:
    """Return how a run stands as a whole: badly if anything is serious."""
    severities = {finding.severity for finding in findings}
    if verdict == "bad" or "serious" in severities:
        return "bad"
    return "held" if verdict == "held" or "warning" in severities else "good"


def _facts(view: RunView) -> list[tuple[str, str]]:
    """Return terms and values that describe a run: its images, its model and its training."""
    evaluation, info = view.evaluation, view.info
    height, width = info.size
    summary = view.run.selected_attempt.summary()
    color = "grayscale" if info.channels == 1 else "color"
    facts = [
        ("Images", f"{view.recipe.data.source}: {width}×{height}, {color}"),
        ("Trained on", f"{evaluation.train_images:,} images"),
        ("Tested on", f"{evaluation.test_images:,} {evaluation.test_set}, seed {evaluation.seed}"),
        ("Parameters", f"{evaluation.parameters:,}"),
    ]
    if evaluation.code_elements is not None:
        facts.append(("Compression", f"{format_compression(evaluation)} (image values ÷ code dimensions)"))
    if (counted := count_flops(view.model)) is not None:
        facts.append(("GFLOP per image", format_gflop(counted[1], counted[0])))
    if first := summary.get("autoencoder"):
        what = f"{first.get('state')}: {first.get('seen', 0):,} images, {first.get('seconds', 0.0) / 60:.1f} minutes"
        facts.append(("Autoencoder, trained first", what))
    if "state" in summary:
        minutes = f", {summary['seconds'] / 60:.1f} minutes" if "seconds" in summary else ""
        facts.append(("Training", f"{summary['state']}: {summary.get('reason', '')}{minutes}"))
    if summary.get("peak_memory"):
        facts.append(("Peak memory", f"{format_gigabytes(summary['peak_memory'])} in training"))
    if "shipped_step" in summary:
        facts.append(("Weights", f"of step {summary['shipped_step']:,}"))
    return facts


def _environment(run: RunDir) -> list[tuple[str, str]]:
    found = run.environment()
    return [(key, shlex.join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in found.items()]


def reproduction_commands(run: RunDir) -> list[str]:
    """Return the commands that train a run again.

    Settings that were chosen by timing are written out, because timing differs from run to run.
    """
    summary, selected = run.summary(), run.selected_attempt
    recipe = selected.recipe
    source, first = str(recipe.data.source), RunDir(run.autoencoder)
    before: list[str] = []
    if recipe.train.minutes is not None and first.recipe_file.is_file():
        before, source = reproduction_commands(first), f"{first.path}-again"
    words = ["ectype", "train", str(selected.recipe_file), source]
    starts = {entry["attempt"]: entry["from"] for entry in summary.get("attempts", [])}
    if start := starts.get(summary.get("shipped_attempt")):
        words += ["--from", start]
    if recipe.train.minutes is not None or recipe.monitor.every == "auto":
        try:
            newest = checkpoint.latest(selected.checkpoints)
            choices = checkpoint.load_state(newest)["choices"] if newest is not None else None
        except (CheckpointError, KeyError):
            choices = None
        if choices is not None:
            words += [f"train.images={choices['budget']}", f"monitor.every={choices['every']}"]
            words += ["train.minutes=null"] if recipe.train.minutes is not None else []
    return [*before, shlex.join([*words, "--out", f"{run.path}-again"])]
