"""What the files of a run say about it, as plain values for the page.

Everything is read from the files each time that they have changed, so that a page that is reloaded, and a server that
is started again, show the same. A file that is damaged is a problem that the page names; the rest is still shown.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from ectype.analysis.diagnose.finding import format_override
from ectype.analysis.headline import headline_figures, headline_sentence, short_number
from ectype.config.yaml_text import parse_yaml
from ectype.core.errors import EctypeError
from ectype.core.escape import as_one_line, for_terminal
from ectype.core.files import read_regular
from ectype.evaluation.figures import Evaluation
from ectype.evaluation.monitor import best_check_text
from ectype.runs import checkpoint
from ectype.runs.json_files import parse_json
from ectype.runs.run_dir import RunDir, is_summary, monitored_values
from ectype.ui.folder import MAX_BYTES, Entry, file_stamp, pictures_of
from ectype.ui.metrics import MetricsReader

__all__ = ["RunStates", "finite"]

SHOWN_FIRST = ("samples", "translations", "reconstructions")
"""Kinds of pictures; the first that a run has is its thumbnail."""
RECENT_LINES = 5
"""Lines of metrics whose speeds are averaged for the time left."""
FRESH_SECONDS = 60.0
"""Age of the metrics up to which a run is taken for running, where locks are unknown."""

Values = dict[str, Any]


class RunStates:
    """The states of runs, read again only if their files have changed."""

    def __init__(self) -> None:
        self._rows: dict[Path, tuple[object, Values]] = {}
        self._details: dict[Path, tuple[object, Values]] = {}
        self._budgets: dict[Path, tuple[object, int]] = {}
        self.metrics: dict[Path, MetricsReader] = {}

    def row(self, entry: Entry) -> Values:
        """Return what the list of runs shows of a run."""
        if entry.refused:
            return {"key": entry.key, "name": entry.name, "refused": as_one_line(entry.refused), "state": "refused"}
        row = _cached(self._rows, entry, self._read_row)
        if row["state"] == "unfinished":
            return self._with_progress(entry.run, row)
        # Its prior is trained, or another attempt is made, before the report is written.
        return {**row, "state": "finishing"} if not row["report"] and entry.run.is_locked() else row

    def details(self, entry: Entry) -> Values:
        """Return what the page of a run shows in addition to its row."""
        return _cached(self._details, entry, self._read_details)

    def forget_others(self, entries: list[Entry]) -> None:
        """Forget the runs that are no longer in the folder."""
        paths = {entry.run.path for entry in entries}
        for kept in (self._rows, self._details, self._budgets, self.metrics):
            for path in [path for path in kept if path not in paths]:
                kept.pop(path, None)

    def _summary(self, run: RunDir, problems: list[str]) -> Mapping[str, Any]:
        return _json(run.summary_file, is_summary, problems) or {}

    def reader(self, run: RunDir) -> MetricsReader:
        """Return the reader of a run's metrics, which keeps what it has read."""
        return self.metrics.setdefault(run.path, MetricsReader(run.metrics_file))

    def _verdict(self, run: RunDir, evaluation: Evaluation | None) -> tuple[str, str]:
        """Return the verdict and its evidence: of the evaluation, or of the last check."""
        if evaluation is not None and evaluation.verdict:
            return evaluation.verdict, evaluation.verdict_evidence
        if evaluation is not None:
            return "", ""
        judged = [line for line in self.reader(run).lines() if "verdict" in line]
        return (judged[-1]["verdict"], judged[-1]["evidence"]) if judged else ("", "")

    def _read_row(self, entry: Entry) -> Values:
        run, problems = entry.run, []
        recipe = _recipe(run, problems)
        summary = self._summary(run, problems)
        evaluation = _evaluation(run, problems)
        verdict = self._verdict(run, evaluation)[0]
        figure, sort_value = _main_figure(evaluation)
        if not figure and (not summary or "state" not in summary or evaluation is None):
            figure = as_one_line(best_check_text(*monitored_values(self.reader(run).lines()))[:200])
        pictures = pictures_of(run)
        kinds = {picture.kind for picture in pictures}
        kind = next((kind for kind in SHOWN_FIRST if kind in kinds), None)
        newest = max((picture.step for picture in pictures if picture.kind == kind), default=None)
        seen = summary.get("seen") or self.reader(run).last_seen()
        row: Values = {
            "key": entry.key,
            "name": entry.name,
            "refused": "",
            "preset": as_one_line(str(_part(recipe, "about").get("name", ""))[:100]),
            "source": as_one_line(str(_part(recipe, "data").get("source", ""))[:1000]),
            "state": as_one_line(str(summary.get("state", "unfinished"))),
            "seen": seen,
            "budget": self._budget(run, recipe),
            "figure": figure,
            "figure_value": sort_value,
            "verdict": as_one_line(verdict),
            "thumbnail": None if kind is None else {"kind": kind, "step": newest},
            "report": run.report.is_file(),
            "model": (run.model / "config.json").is_file() or bool(checkpoint.checkpoint_dirs(run.checkpoints)),
            "changed": _changed(run),
            "problems": problems,
            "left": None,
            "share": 1.0 if "state" in summary else None,
        }
        return finite(row)

    def _read_details(self, entry: Entry) -> Values:
        run, problems = entry.run, []
        evaluation = _evaluation(run, problems)
        found = _stored(run, run.findings_file, lambda content: isinstance(content.get("findings"), list), problems)
        sentence = str((found or {}).get("sentence", "")) or (headline_sentence(evaluation, []) if evaluation else "")
        details: Values = {
            "sentence": as_one_line(sentence),
            "findings": [_finding(each) for each in (found or {}).get("findings", []) if isinstance(each, dict)],
            "diagnosed": found is not None,
            "figures": [] if evaluation is None else [_figure(figure) for figure in headline_figures(evaluation)],
            "recipe": for_terminal(_text(run.recipe_file, MAX_BYTES["recipe.yaml"])),
            "reason": as_one_line(str(self._summary(run, problems).get("reason", ""))),
            "evidence": as_one_line(self._verdict(run, evaluation)[1]),
        }
        return finite(details)

    def _with_progress(self, run: RunDir, row: Values) -> Values:
        """Return the row of an unfinished run with what changes although no file does: whether it is being trained."""
        locked = run.is_locked()
        if locked is None:
            stamp = file_stamp(run.metrics_file)
            locked = stamp is not None and time.time() - stamp[2] / 1e9 < FRESH_SECONDS
        budget, seen = row["budget"], row["seen"]
        share = min(1.0, seen / budget) if budget else None
        recent = [line["images/s"] for line in self.reader(run).lines()[-RECENT_LINES:] if line.get("images/s")]
        left = max(0, budget - seen) / mean(recent) if locked and budget and recent and mean(recent) > 0 else None
        return {**row, "state": "training" if locked else "stopped", "share": share, "left": left}

    def _budget(self, run: RunDir, recipe: Mapping[str, Any]) -> int | None:
        """Return the budget in images: of the newest checkpoint, where minutes have become images, or of the recipe."""
        stamp = file_stamp(run.recipe_file)
        known = self._budgets.get(run.path)
        if known is not None and known[0] == stamp:
            return known[1]
        for place in reversed(checkpoint.checkpoint_dirs(run.checkpoints)):
            if place.is_symlink() or (place / checkpoint.STATE).is_symlink():
                continue
            try:
                budget = checkpoint.load_state(place)["choices"]["budget"]
            except (EctypeError, KeyError, TypeError):
                continue
            if isinstance(budget, int) and budget > 0:
                self._budgets[run.path] = (stamp, budget)
                return budget
        train = _part(recipe, "train")
        images = train.get("images")
        return images if isinstance(images, int) and images > 0 and train.get("minutes") is None else None


def _cached(kept: dict[Path, tuple[object, Values]], entry: Entry, read: Callable[[Entry], Values]) -> Values:
    """Return what `read` returns, read again only if a file that it is read from has changed."""
    run = entry.run
    files = (run.recipe_file, run.metrics_file, run.summary_file, run.evaluation_file, run.findings_file, run.report)
    stamp = (*map(file_stamp, files), file_stamp(run.samples), file_stamp(run.checkpoints), file_stamp(run.model))
    known = kept.get(run.path)
    if known is None or known[0] != stamp:
        known = kept[run.path] = (stamp, read(entry))
    return known[1]


def _recipe(run: RunDir, problems: list[str]) -> Mapping[str, Any]:
    """Return the recipe as plain values, not checked: the list needs three of them, of a hundred runs at once."""
    try:
        found = parse_yaml(_text(run.recipe_file, MAX_BYTES["recipe.yaml"]))
    except (EctypeError, yaml.YAMLError, RecursionError) as error:
        problems.append(as_one_line(f"recipe.yaml is damaged: {error}"[:300]))
        return {}
    return found if isinstance(found, dict) else {}


def _part(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = recipe.get(name)
    return found if isinstance(found, dict) else {}


def _text(file: Path, most: int) -> str:
    try:
        return read_regular(file, most, follow=False).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _json(file: Path, form: Callable[[Mapping[str, Any]], bool], problems: list[str]) -> dict[str, Any] | None:
    try:
        return parse_json(read_regular(file, MAX_BYTES[file.name], follow=False), form)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problems.append(f"{file.name} is damaged: {reason}")
        return None


def _stored(
    run: RunDir, file: Path, form: Callable[[Mapping[str, Any]], bool], problems: list[str]
) -> dict[str, Any] | None:
    """Return what was stored about the model; None if the model was saved later, as `ectype keep` does."""
    model, stored = file_stamp(run.model / checkpoint.MANIFEST), file_stamp(file)
    if stored is None or (model is not None and model[2] > stored[2]):
        return None
    return _json(file, form, problems)


def _evaluation(run: RunDir, problems: list[str]) -> Evaluation | None:
    held = _stored(run, run.evaluation_file, lambda content: isinstance(content.get("evaluation"), dict), problems)
    if held is None:
        return None
    try:
        found = Evaluation.from_json(json.dumps(held["evaluation"]))
        headline_figures(found)
        headline_sentence(found, [])
    except Exception as error:  # the types of its fields are not checked, and a run may come from anyone
        problems.append(as_one_line(f"evaluation.json is damaged: {error}"[:300]))
        return None
    return found


def _main_figure(evaluation: Evaluation | None) -> tuple[str, float | None]:
    """Return the most important figure as text, and a value to sort by, of which more is better."""
    figures = headline_figures(evaluation) if evaluation is not None else []
    if not figures:
        return "", None
    first = figures[0]
    text = f"{first.name} {short_number(first.value)} {first.unit}".strip()
    return as_one_line(text), -first.value if first.better == "lower" else first.value


def _figure(figure: Any) -> Values:
    interval = f"{short_number(figure.low)} to {short_number(figure.high)}" if figure.interval else ""
    return {
        "name": as_one_line(figure.name),
        "value": as_one_line(f"{short_number(figure.value)} {figure.unit}".strip()),
        "interval": interval,
        "baselines": [f"{as_one_line(k)} {short_number(v)}" for k, v in figure.named_baselines.items()],
        "better": figure.better or "",
    }


def _finding(stored: Mapping[str, Any]) -> Values:
    def texts(key: str) -> list[dict[str, Any]]:
        found = stored.get(key)
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    evidence = []
    for each in texts("evidence"):
        value, beside = each.get("value"), each.get("beside")
        number = short_number(value) if isinstance(value, int | float) else "not finite"
        evidence.append(as_one_line(f"{each.get('name')} {number}{f' ({beside})' if beside else ''}"))
    advice = []
    for each in texts("advice"):
        changes = each.get("overrides")
        override = format_override(changes) if isinstance(changes, dict) and changes else ""
        shown = {"title": str(each.get("title")), "why": str(each.get("why")), "override": override}
        advice.append({key: as_one_line(text) for key, text in shown.items()})
    severity = str(stored.get("severity"))
    return {
        "name": as_one_line(str(stored.get("name"))),
        "severity": severity if severity in ("serious", "warning", "note") else "note",
        "message": as_one_line(str(stored.get("sign"))),
        "evidence": evidence,
        "advice": advice,
    }


def _changed(run: RunDir) -> float:
    """Return when the run was last written to, in seconds since 1970."""
    stamps = map(file_stamp, (run.recipe_file, run.metrics_file, run.summary_file))
    return max((stamp[2] for stamp in stamps if stamp is not None), default=0) / 1e9


def finite(value: Any) -> Any:
    """Return plain values as JSON knows them: a number that is not finite is null."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
