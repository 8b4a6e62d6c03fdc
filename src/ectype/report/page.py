"""Runs as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from ectype.errors import CheckpointError, RunError
from ectype.measure.cost import flop, gigabytes, gigaflop
from ectype.measure.evaluation import Evaluation, number
from ectype.measure.standing import Standing
from ectype.measure.view import RunView
from ectype.models.base import Encodes
from ectype.report.charts import Chart
from ectype.report.parts import Section
from ectype.report.sections import sections
from ectype.report.words import compression, density, summary
from ectype.training import checkpoint
from ectype.training.rundir import RunDir

__all__ = ["write_report"]

HERE = Path(__file__).parent
COMPARED = ("mean Dice", "PSNR", "PSNR above PCA's", "SSIM", "effective rank", "linear-probe accuracy")
"""Figures of the small table at the top of a page of several runs, where any of them has it."""


@dataclass(frozen=True)
class _Part:
    """One run, as the template wants it."""

    key: str
    name: str
    preset: str
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
    standings: Sequence[Standing] = (),
    said: Sequence[str] = (),
    charts: Sequence[Chart] = (),
    pictures: Section | None = None,
    command: str = "",
) -> Path:
    """Write one page about one or more runs.

    The file holds all it needs, pictures, scripts and styles included: nothing is fetched, which its own
    content security policy also forbids.

    Args:
        target: The HTML file; written beside first, then renamed.
        views: At least one.
        standings: What the runs were made to be compared by, over all seeds.
        said: The conclusion, sentence by sentence.
        charts: Of the comparison as a whole.
        pictures: What all make of the same.
        command: What repeats the comparison.

    Returns:
        The file.

    Raises:
        RunError: No runs, or a place that cannot be written.
    """
    if not views:
        raise RunError("a report needs at least one run.")
    template = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("page.html.j2")
    parts = [_part(view, f"run-{i}") for i, view in enumerate(views, 1)]
    shown = [name for name in COMPARED if any(name in part.evaluation for part in parts)]
    page = template.render(
        title=f"Comparison of {target.parent.resolve().name}" if said else _title(parts),
        standings=standings,
        arms=list(dict.fromkeys(arm for standing in standings for arm in standing.values)),
        said=said,
        compared_by=charts,
        beside=pictures,
        command=command,
        parts=parts,
        compared=shown if len(parts) > 1 and not standings else [],
        number=number,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        sorting=(HERE / "sort.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        charts=bool(charts) or any(section.charts for part in parts for section in part.sections),
    )
    scratch = target.with_name(target.name + ".tmp")
    try:
        # A file's name may hold bytes that are no text.
        scratch.write_text(page, encoding="utf-8", errors="replace")
        scratch.replace(target)
    except OSError as error:
        raise RunError(f"cannot write '{target}' ({error.strerror}): give a place that can be written.") from None
    return target


def _title(parts: Sequence[_Part]) -> str:
    return parts[0].name if len(parts) == 1 else f"{len(parts)} runs"


def _part(view: RunView, key: str) -> _Part:
    evaluation, recipe, info = view.evaluation, view.recipe, view.info
    height, width = info.size
    said = view.run.shipped.summary()
    facts = [
        ("Images", f"{recipe.data.source}: {width}×{height}, {'grey' if info.channels == 1 else 'colour'}"),
        ("Trained on", f"{evaluation.train_images:,} images"),
        ("Judged on", f"{evaluation.test_images:,} {evaluation.judged}, seed {evaluation.seed}"),
        ("Parameters", f"{evaluation.parameters:,}"),
        ("Compression", f"{compression(evaluation)} (numbers in ÷ numbers kept)"),
    ]
    if evaluation.code_numbers is None:
        facts.pop()
    if (found := flop(view.model)) is not None:
        facts.append(("GFLOP per image", gigaflop(found[1], found[0])))
    if "state" in said:
        minutes = f", {said['seconds'] / 60:.1f} minutes" if "seconds" in said else ""
        facts.append(("Training", f"{said['state']}: {said.get('reason', '')}{minutes}"))
    if said.get("peak_memory"):
        facts.append(("Peak memory", f"{gigabytes(said['peak_memory'])} while training"))
    if "shipped_step" in said:
        facts.append(("Weights", f"of step {said['shipped_step']:,}"))
    return _Part(
        key=key,
        name=view.run.name,
        preset=f"{recipe.about.name}: {recipe.about.summary}" if recipe.about.summary else recipe.about.name,
        facts=facts,
        summary=[
            " ".join(summary(evaluation, info)),
            density(evaluation.density, encodes=isinstance(view.model, Encodes)),
            *evaluation.remarks,
        ],
        evaluation=evaluation,
        sections=sections(view),
        recipe=recipe.yaml(),
        environment=_environment(view.run),
        commands=commands(view.run),
    )


def _environment(run: RunDir) -> list[tuple[str, str]]:
    try:
        found: dict[str, Any] = json.loads(run.environment_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [(key, shlex.join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in found.items()]


def commands(run: RunDir) -> list[str]:
    """What trains the same again: what was chosen by timing is written out, since a clock never repeats."""
    said, shipped = run.summary(), run.shipped
    recipe = shipped.recipe
    words = ["ectype", "train", str(shipped.recipe_file), str(recipe.data.source)]
    begun = {entry["attempt"]: entry["from"] for entry in said.get("attempts", [])}
    if whence := begun.get(said.get("shipped_attempt")):
        words += ["--from", whence]
    if recipe.train.minutes is not None or recipe.monitor.every == "auto":
        try:
            newest = checkpoint.latest(shipped.checkpoints)
            choices = checkpoint.load_state(newest)["choices"] if newest is not None else None
        except (CheckpointError, KeyError):
            choices = None
        if choices is not None:
            words += [f"train.images={choices['budget']}", f"monitor.every={choices['every']}"]
            words += ["train.minutes=null"] if recipe.train.minutes is not None else []
    return [shlex.join([*words, "--out", f"{run.path}-again"])]
