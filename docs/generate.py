"""Pages that the program writes: presets and what they cost, and the figures of benchmarks.

python docs/generate.py
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from ectype.errors import EctypeError, EctypeWarning
from ectype.measure.cost import cost
from ectype.recipe import load_recipe, preset_path, preset_table

SITE = Path(__file__).parent / "site"
COMMANDS = {"step_gpu": "step.py --gpu 1"}
"""Of benchmarks that are one of another's ways."""
SYSTEMS = SITE / "systems" / "systems.json"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def presets() -> str:
    """Every preset: what it is, what a few minutes of it give, what it costs, its recipe."""
    parts = ["# Presets", "", "Written by the program: `ectype presets NAME` prints the same.", ""]
    if SYSTEMS.is_file():
        parts += [
            "Pictures and figures are of a few minutes (`docs/systems.py`): what a system makes, not how good",
            "it can get. Samples where there are any, else images above what was made of them. `mnist-10000.npz` holds",
            "the first 10,000 training and 1,000 test digits of MNIST, and is written by that command.",
            "",
        ]
    made: dict[str, Any] = json.loads(SYSTEMS.read_text(encoding="utf-8")) if SYSTEMS.is_file() else {}
    for about in preset_table():
        file = preset_path(about.name)
        parts += [f"## {about.name}", "", f"{about.summary}. Family: {about.family}; density: {about.density}.", ""]
        if (found := made.get(about.name)) is not None:
            parts += [f"![{about.name}](systems/{about.name}.jpg)", ""]
            where = "one thread of a processor" if found["device"] == "cpu" else found["device"]
            shown = f"`{found['command']}`: {found['seen']:,} images shown, on {where}."
            parts += [f"{shown} {'; '.join(found['figures'])}.", ""]
        try:
            parts += ["```", *cost(load_recipe(file)).lines(), "```", ""]
        except EctypeError as error:
            parts += [f"What it costs is known where its files are: {error}", ""]
        parts += ['??? note "Recipe"', "", "    ```yaml"]
        parts += [f"    {line}".rstrip() for line in file.read_text(encoding="utf-8").splitlines()]
        parts += ["    ```", ""]
    return "\n".join(parts)


def benchmarks() -> str:
    """Every result file as a table."""
    parts = [
        "# Benchmarks",
        "",
        "Written from `benchmarks/results/`. Each command prints the peer beside ours; machines were shared and noisy,",
        "so ratios say more than times. A cross marks a goal that was missed.",
        "",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if "rows" not in said:
            continue  # two of them print what they keep
        machine = said["machine"]
        parts += [
            f"## {said['title']}",
            "",
            f"`python benchmarks/{COMMANDS.get(said['benchmark'], said['benchmark'] + '.py')}`, {said['date'][:10]}, ",
        ]
        parts[-1] += f"{machine['processor']}, {machine['cores']} cores, torch {said['versions']['torch']}."
        parts += ["", "| | peer | ours | ratio | goal | |", "|---|---:|---:|---:|---|---|"]
        for row in said["rows"]:
            mark = "" if row["met"] is None else " ✓" if row["met"] else " ✗"
            cells = [row["what"], *(_short(row[key]) for key in ("peer", "ours", "ratio")), row["goal"] + mark]
            parts.append("| " + " | ".join(_safe(cell) for cell in [*cells, row["detail"]]) + " |")
        parts += ["", *(f"- {note}" for note in said["notes"]), ""]
    return "\n".join(parts)


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    warnings.simplefilter("ignore", EctypeWarning)
    for name, page in (("presets", presets()), ("benchmarks", benchmarks())):
        (SITE / f"{name}.md").write_text(page + "\n", encoding="utf-8")
