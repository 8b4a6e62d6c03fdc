"""The results of finished runs: figures, findings and a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean

from ectype.analysis.diagnose import check
from ectype.analysis.diagnose.finding import Finding
from ectype.analysis.headline import headline_sentence
from ectype.analysis.open_view import open_view
from ectype.analysis.run_view import RunView
from ectype.config.recipe import data_recipe
from ectype.core.errors import RecipeError, RunError, TrainingError
from ectype.core.images import to_uint8
from ectype.core.outputs import check_output
from ectype.data.prepare import prepare
from ectype.data.preview import save_grid
from ectype.data.sources.walk import resolve_source
from ectype.evaluation.comparison_stats import FigureComparison
from ectype.evaluation.figures import Evaluation
from ectype.runs.json_files import write_json_file
from ectype.runs.run_dir import RunDir

__all__ = [
    "all_findings",
    "comparison_page",
    "diagnose",
    "evaluate",
    "evaluate_on_validation",
    "finding_lines",
    "report",
    "save_evidence",
]


def evaluate(
    run: RunDir,
    source: str | None = None,
    *,
    device: str | None = None,
    likelihood: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure a run's model on images that it was not trained on: its own held-out ones, or another source's.

    The result on its own images is stored in the run. See `open_view` for the arguments and errors.
    """
    return open_view(run, source, device, likelihood, progress=progress).evaluation


def evaluate_on_validation(run: RunDir) -> Evaluation:
    """Return figures on validation images, which may be used for choosing between runs. They are not stored."""
    return open_view(run, split="val").evaluation


def diagnose(what: str, overrides: Sequence[str] = (), *, device: str | None = None) -> list[Finding]:
    """Return the problems found in a run and its images, or in images alone, the most serious first.

    Args:
        what: A run's directory, or any source of images.
        overrides: `key=value` texts that say how images are prepared; for images alone.
        device: See `open_view`.

    Raises:
        RunError: The run has no model.
        DataError: The images cannot be used.
        RecipeError: Overrides were given for a run.
    """
    source = resolve_source(what)
    if (Path(what) / "recipe.yaml").is_file():
        run = RunDir.existing(what)
        if overrides:
            raise RecipeError(
                f"{' '.join(overrides)}: a run keeps its images as they are; leave this out, or give images instead."
            )
        return all_findings(open_view(run, device=device))
    return check.check_data(prepare(data_recipe(source, overrides), describe=True))


def all_findings(view: RunView) -> list[Finding]:
    """Return the findings of an open run and of its images. They are computed once for each view, and stored."""
    found = check.check_view(view)
    with suppress(TrainingError):  # the run of someone else may be read only
        sentence = headline_sentence(view.evaluation, found)
        stored = {"sentence": sentence, "findings": [finding.to_dict() for finding in found]}
        write_json_file(view.run.findings_file, stored)
    return found


def save_evidence(found: Sequence[Finding], out: Path) -> list[Path]:
    """Write the pictures that findings rest on, one file for each row, and return the files."""
    written = []
    for finding in found:
        for what, images in finding.pictures.items():
            name = f"{finding.name} {what}".replace(" ", "-").replace(",", "")
            save_grid(to_uint8(images), out / f"{name}.png", columns=len(images))
            written.append(out / f"{name}.png")
    return written


def finding_lines(found: Sequence[Finding], *, quiet: bool = False) -> list[str]:
    """Return findings as lines for a terminal. With `quiet`, no line is returned if nothing was found."""
    if not found and not quiet:
        return ["no problems were found"]
    return [line for finding in found for line in finding.lines()]


def report(runs: Sequence[RunDir | RunView], out: Path | None = None) -> Path:
    """Write one page about one or more runs and return its path.

    Args:
        runs: Runs, or views of them that are open already.
        out: The file; `report.html` in the run, or next to the first of several runs, if it is not given.

    Raises:
        RunError: There is no model yet, or the file cannot be written, or exists and Ectype did not write it.
    """
    from ectype.analysis.report.page import write_report

    first = runs[0].run if isinstance(runs[0], RunView) else runs[0]
    owned = out is None and len(runs) == 1
    out = out or (first.report if owned else first.path.resolve().parent / "report.html")
    if not owned:
        try:
            check_output(out)
        except OSError as error:
            raise RunError(f"cannot write '{out}' ({error.strerror}): choose another place with --out.") from None
    views = [run if isinstance(run, RunView) else open_view(run) for run in runs]
    return write_report(out, views, owned=owned)


def comparison_page(
    runs: Mapping[str, Sequence[RunDir]],
    found: Sequence[FigureComparison],
    conclusions: Sequence[str],
    *,
    sentence: str = "",
    details: Sequence[str] = (),
    out: Path,
    command: str,
) -> Path:
    """Write one page about runs that were trained to be compared: the conclusions, then the first run of each arm.

    Args:
        runs: Arm → its runs, one for each seed.
        found: The figures of all arms.
        conclusions: What the figures show, sentence by sentence.
        sentence: The most important one; by default, which model is best at what.
        details: Further sentences, which are folded away.
        out: The file.
        command: The command that repeats the comparison.
    """
    from ectype.analysis.report.comparison import comparison_view
    from ectype.analysis.report.frontier import quality_against_time, training_minutes
    from ectype.analysis.report.page import write_report

    views = {arm: open_view(some[0]) for arm, some in runs.items() if some}
    shown = comparison_view(
        views,
        found,
        conclusions,
        sentence=sentence,
        details=details,
        used={
            arm: (mean(map(training_minutes, some)), mean(run.seen() for run in some))
            for arm, some in runs.items()
            if some
        },
        charts=quality_against_time(runs, found),
        command=command,
    )
    return write_report(out, list(views.values()), comparison=shown, owned=True)
