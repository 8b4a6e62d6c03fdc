"""`ectype.compare` and `ectype.study`: several runs on the same images, and what their figures support."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ectype.api.run import Run
from ectype.api.train import console_for, source_text
from ectype.core.console import heartbeat
from ectype.core.errors import RecipeError
from ectype.core.escape import for_html
from ectype.core.table import Table
from ectype.evaluation.comparison_stats import comparison_table
from ectype.experiments import compare as comparing
from ectype.experiments import search as searching

__all__ = ["Comparison", "Study", "compare", "study"]


class _Results(ABC):
    """What comparisons and studies have in common."""

    conclusions: list[str]
    """What the figures support, sentence by sentence."""
    page: Path
    """The HTML page."""

    def _repr_html_(self) -> str:
        sentences = "".join(f"<p>{for_html(sentence)}</p>" for sentence in self.conclusions)
        return f"{sentences}{self.to_table()._repr_html_()}<p>page: {for_html(str(self.page))}</p>"

    def __repr__(self) -> str:
        return "\n".join([*self.conclusions, f"page: {self.page}"])

    @abstractmethod
    def to_table(self) -> Table:
        """Return the figures of all runs."""

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`."""
        return self.to_table().to_pandas()

    def to_csv(self, file: str | Path | None = None) -> str:
        """Return the table as CSV, and write it to `file` if one is given."""
        return self.to_table().to_csv(file)

    def to_latex(self, file: str | Path | None = None) -> str:
        """Return the table as LaTeX, and write it to `file` if one is given."""
        return self.to_table().to_latex(file)


class Comparison(_Results):
    """The result of `ectype.compare`, or of `ectype.study` with one varied key.

    Attributes:
        path: The directory of the comparison.
        runs: Name of each arm → its finished runs, one for each seed.
        failed: Name of a run → why it has no figures.
        conclusions: What was compared, then one ranking for each question that the figures answer.
        details: Which arms differ, one sentence for each figure.
        page: The HTML page.
    """

    def __init__(self, found: comparing.Comparison) -> None:
        self.path, self.failed, self.conclusions, self.page = found.path, found.failed, found.conclusions, found.page
        self.details = found.details
        self.runs = {arm: [Run(run.path) for run in runs] for arm, runs in found.runs.items()}
        self._figures = found.figures

    def to_table(self) -> Table:
        """Return one row for each figure and arm: figure, arm, mean, low, high (95%), better, best.

        `best` is True for the arm that is better than every other beyond chance; no arm has it where that is not known.
        """
        return comparison_table(self._figures)


class Study(_Results):
    """The result of `ectype.study` with `trials`.

    Attributes:
        path: The directory of the study.
        figure: Display name of the figure that trials were ranked by, on validation images.
        best: Key → value of the best trial.
        conclusions: What the trials support, sentence by sentence.
        page: The HTML page.
    """

    def __init__(self, found: searching.Search, path: Path) -> None:
        self.path, self.figure, self.best = path, found.figure, found.best
        self.conclusions, self.page = found.conclusions, found.page

    def to_table(self) -> Table:
        """Return one row for each trial: its number, state, values and figure on validation images."""
        import csv

        with (self.path / "trials.csv").open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            return Table(list(reader), reader.fieldnames)


def compare(
    recipes: Sequence[str | Path] | Mapping[str, Mapping[str, Any] | str],
    data: Any,
    overrides: Mapping[str, Any] | None = None,
    *,
    images: int | str | None = None,
    minutes: float | None = None,
    seeds: int = 1,
    out: str | Path = "comparison",
    processes: int = 0,
    quick: bool = False,
    progress: bool | Console = True,
) -> Comparison:
    """Train several recipes on the same images with the same budget, measure them, and say what the figures support.

    Each run is a process of its own. A comparison that was interrupted continues when it is called again.

    Args:
        recipes: Names of presets or YAML files. Or a mapping from the name of an arm to a preset, or to overrides with
            the preset under the key `preset`: `{"small": {"preset": "vae", "latent_dim": 8}, "large": "vae"}`.
        data: What `ectype.train` takes.
        overrides: Changes to all recipes.
        images: Budget of each run in images shown.
        minutes: Budget of each run in time. Give one of both.
        seeds: Runs of each arm, with the seeds 0, 1, ...
        out: The directory of the comparison.
        processes: Runs at the same time; 0 leaves two cores to each.
        quick: Measure on at most 1,000 images, without a bound on the likelihood.
        progress: Whether to print progress, or the rich console to print it on.

    Raises:
        RecipeError: An invalid recipe, fewer than two arms, or not exactly one budget.
        DataError: The images cannot be used.
        RunError: `out` holds another comparison, or no run finished.
    """
    arms = [_arm(name, what) for name, what in recipes.items()] if isinstance(recipes, Mapping) else None
    arms = arms or [comparing.Arm(Path(recipe).stem, str(recipe)) for recipe in recipes]
    console = console_for(progress)
    with heartbeat(console):
        found = comparing.compare(
            arms,
            source_text(data),
            out,
            words=_words(overrides or {}),
            images=None if images is None else str(images),
            minutes=minutes,
            seeds=seeds,
            processes=processes,
            quick=quick,
            console=console,
        )
    return Comparison(found)


def study(
    recipe: str | Path,
    values: Mapping[str, Sequence[Any] | tuple[float, float]],
    data: Any,
    overrides: Mapping[str, Any] | None = None,
    *,
    images: int | str | None = None,
    minutes: float | None = None,
    seeds: int = 1,
    trials: int | None = None,
    by: str | None = None,
    storage: str | None = None,
    out: str | Path = "study",
    processes: int = 0,
    quick: bool = False,
    progress: bool | Console = True,
) -> Comparison | Study:
    """Vary one key of a recipe, or search several.

    Args:
        recipe: The name of a preset, or a YAML file.
        values: Key → values to try: `{"latent_dim": [2, 8, 32]}`. In a search (with `trials`) several keys, and a tuple
            of two numbers is a range: `{"latent_dim": (2, 512), "beta": (0.1, 10.0)}`.
        data: What `ectype.train` takes.
        overrides: Changes to all runs.
        images: Budget of each run in images shown.
        minutes: Budget of each run in time. Give one of both.
        seeds: Runs of each value; not in a search.
        trials: Search with this many runs.
        by: In a search, the key of the figure that trials are ranked by.
        storage: In a search, the URL of a database that several machines share.
        out: The directory of the study.
        processes: Runs at the same time; 0 leaves two cores to each.
        quick: Measure on at most 1,000 images, without a bound on the likelihood.
        progress: Whether to print progress, or the rich console to print it on.

    Returns:
        A `Comparison`; with `trials` a `Study`.

    Raises:
        RecipeError: An invalid key or value, several keys without `trials`, or not exactly one budget.
        RunError: `out` holds another study, Optuna is not installed, or no run finished.
    """
    if trials is None and (by or storage):
        raise RecipeError("by and storage belong to a search: give trials=20, or leave them out.")
    if trials is not None and seeds > 1:
        raise RecipeError(f"seeds={seeds}: a search trains each trial once; leave it out, or vary one key.")
    varied = [f"{key}={_range(value, search=trials is not None)}" for key, value in values.items()]
    shared: dict[str, Any] = {
        "images": None if images is None else str(images),
        "minutes": minutes,
        "processes": processes,
        "quick": quick,
        "console": console_for(progress),
    }
    words = [*varied, *_words(overrides or {})]
    if trials is None:
        arms, common = comparing.arms_of(str(recipe), words)
        with heartbeat(shared["console"]):
            return Comparison(comparing.compare(arms, source_text(data), out, words=common, seeds=seeds, **shared))
    knobs, common = searching.knobs_of(words)
    with heartbeat(shared["console"]):
        found = searching.search(
            str(recipe), knobs, source_text(data), out, trials=trials, words=common, by=by, storage=storage, **shared
        )
    return Study(found, Path(out))


def _arm(name: str, what: Mapping[str, Any] | str) -> comparing.Arm:
    if isinstance(what, str):
        return comparing.Arm(name, what)
    if "preset" not in what:
        raise RecipeError(f"arm '{name}' has no recipe: add the key 'preset', such as 'preset': 'vae'.")
    return comparing.Arm(name, str(what["preset"]), tuple(_words({k: v for k, v in what.items() if k != "preset"})))


def _words(changes: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_text(value)}" for key, value in changes.items()]


def _text(value: Any) -> str:
    """Return a value as the command line takes it."""
    import yaml

    return (
        value
        if isinstance(value, str)
        else yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
    )


def _range(value: Sequence[Any] | tuple[float, float], *, search: bool) -> str:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) < 2:
        raise RecipeError(f"{value!r}: give at least two values to try, such as [2, 8, 32].")
    if search and isinstance(value, tuple) and len(value) == 2 and all(isinstance(end, int | float) for end in value):
        return f"{value[0]}..{value[1]}"
    return ",".join(map(_text, value))
