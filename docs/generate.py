"""Write the generated pages of the site: presets with their costs, and the figures of all benchmarks.

Usage: `python docs/generate.py`
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from ectype.analysis.cost import cost
from ectype.config.recipe import load_recipe, preset_path, preset_table
from ectype.core.errors import EctypeError, EctypeWarning

SITE = Path(__file__).parent / "site"
COMMANDS = {"step_gpu": "step.py --gpu 1"}
"""Commands of results that are a mode of another benchmark."""
SYSTEMS = SITE / "systems" / "systems.json"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def presets() -> str:
    """Return the page of presets: what each is, its results after a few minutes, its cost, and its recipe."""
    parts = [
        "# Presets",
        "",
        "Generated from the program; `ectype presets NAME` prints the same, and `--full` every key.",
        "",
    ]
    if SYSTEMS.is_file():
        parts += [
            "Pictures and figures are from a few minutes of training (`docs/systems.py`). They show what kind of",
            "output a preset gives, not how good it can get. Pictures show samples, or images above their",
            "reconstructions if the model cannot sample. `mnist-10000.npz` holds the first 10,000 training and 1,000",
            "test digits of MNIST; that command writes it.",
            "",
        ]
    trained: dict[str, Any] = json.loads(SYSTEMS.read_text(encoding="utf-8")) if SYSTEMS.is_file() else {}
    for about in preset_table():
        file = preset_path(about.name)
        parts += [f"## {about.name}", "", f"{about.summary}. Family: {about.family}; density: {about.density}.", ""]
        if (found := trained.get(about.name)) is not None:
            parts += [f"![{about.name}](systems/{about.name}.jpg)", ""]
            where = "one thread of a processor" if found["device"] == "cpu" else found["device"]
            shown = f"`{found['command']}`: {found['seen']:,} images shown, on {where}."
            parts += [f"{shown} {'; '.join(found['figures'])}.", ""]
        try:
            parts += ["```", *cost(load_recipe(file)).lines(), "```", ""]
        except EctypeError as error:
            parts += [f"The cost can only be computed where its files are available: {error}", ""]
        parts += ['??? note "Recipe"', "", "    ```yaml"]
        parts += [f"    {line}".rstrip() for line in file.read_text(encoding="utf-8").splitlines()]
        parts += ["    ```", ""]
    return "\n".join(parts)


def benchmarks() -> str:
    """Return the page of benchmarks: every result file as a table."""
    parts = [
        "# Benchmarks",
        "",
        "Generated from `benchmarks/results/`, with the notes that each benchmark wrote when it was run. Machines were",
        "shared and noisy, so ratios are more reliable than times. A cross marks a goal that was missed.",
        "",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if "rows" not in result:
            continue  # two benchmarks store another format
        machine = result["machine"]
        parts += [
            f"## {result['title']}",
            "",
            f"`python benchmarks/{COMMANDS.get(result['benchmark'], result['benchmark'] + '.py')}`, ",
        ]
        where = f"{machine['processor']}, {machine['cores']} cores, torch {result['versions']['torch']}"
        parts[-1] += f"{result['date'][:10]}, {where}."
        parts += ["", "| | peer | ours | ratio | goal | |", "|---|---:|---:|---:|---|---|"]
        for row in result["rows"]:
            mark = "" if row["met"] is None else " ✓" if row["met"] else " ✗"
            cells = [row["what"], *(_short(row[key]) for key in ("peer", "ours", "ratio")), row["goal"] + mark]
            parts.append("| " + " | ".join(_safe(cell) for cell in [*cells, row["detail"]]) + " |")
        parts += ["", *(f"- {note}" for note in result["notes"]), ""]
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
