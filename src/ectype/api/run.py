"""A run in Python: its model, images, figures, findings and report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from ectype.analysis import results
from ectype.analysis.diagnose.finding import Finding
from ectype.analysis.open_view import OpenData, open_view
from ectype.analysis.run_view import RunView
from ectype.api import inference
from ectype.api.images import ImageBatch
from ectype.config.recipe import Recipe
from ectype.core.console import ActivityConsole
from ectype.core.errors import RunError
from ectype.core.escape import for_html
from ectype.core.table import Table
from ectype.data.sources.memory import source_text
from ectype.evaluation.figures import Evaluation
from ectype.evaluation.monitor import best_check
from ectype.evaluation.registered import metric_digests
from ectype.models.base import Model
from ectype.runs.load import load, open_data, ship_checkpoint
from ectype.runs.run_dir import RunDir

__all__ = ["Run", "as_run", "open_run", "progress_of"]


class Run:
    """A training run on disk. `ectype.train` and `ectype.open_run` return it.

    Everything is loaded when it is first used, and at most once.

    Attributes:
        path: The run's directory.

    >>> import ectype
    >>> small = {"size": 8, "latent_dim": 8}
    >>> run = ectype.train("ae-linear", "digits", small, images=2000, out="runs/doc", progress=False)
    >>> run.state
    'finished'
    >>> run.images("test").shape[1:]
    torch.Size([1, 8, 8])
    """

    def __init__(self, path: str | Path, *, console: Console | None = None, opener: OpenData = open_data) -> None:
        self.directory = RunDir.existing(path)
        self.path = self.directory.path
        self._console = console
        self._opener = opener
        self._view: RunView | None = None
        self._model: Model | None = None
        self._measured: dict[str, str] = {}

    # ── What it is ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.directory.name

    @property
    def recipe(self) -> Recipe:
        """The recipe that the selected weights were trained with."""
        return self.directory.selected_attempt.recipe

    @property
    def state(self) -> str:
        """`finished`, `stopped early`, `unfinished`, `failed`, or the verdict that ended the run."""
        return self.directory.state()

    @property
    def summary(self) -> dict[str, Any]:
        """How the run ended: state, reason, images seen, seconds, the selected step. Empty while it is unfinished."""
        return self.directory.summary()

    @property
    def metrics(self) -> Table:
        """All logged training metrics and checks, one row each, in order.

        The column `kind` is `train` or `check`; `seen` counts images, `step` counts updates.
        """
        return Table(self.directory.metrics())

    # ── Model and images ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def model(self) -> Model:
        """The model with the selected weights, in evaluation mode; see `ectype.load`."""
        if self._model is None:
            self._model = load(self.path)
        return self._model

    def images(self, split: Literal["train", "val", "test"] = "test", n: int | None = None) -> ImageBatch:
        """Return images of a split as the model sees them, not augmented.

        Args:
            split: `train`, `val` or `test`.
            n: The first n images; all of them if not given (each takes 4 bytes per channel and pixel).

        Returns:
            [n, c, h, w] in [0, 1].

        Raises:
            DataError: The split is empty, or the images are gone.
        """
        store = self._opener(self.recipe.data)[1]
        images = store.split(split)
        return ImageBatch(images.batch(torch.arange(min(len(images), n or len(images)))).image)

    def labels(self, split: Literal["train", "val", "test"] = "test", n: int | None = None) -> list[str] | None:
        """Return the class names of the same images; None if there are no classes."""
        store = self._opener(self.recipe.data)[1]
        labels = store.split(split).labels
        return None if labels is None else [store.info.classes[int(index)] for index in labels[: n or len(labels)]]

    # ── Results ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def view(self) -> RunView:
        """Open model, images and figures for analysis, once; again if a metric was registered since."""
        digests = metric_digests()
        if self._view is None or not digests.items() <= self._measured.items():
            with progress_of(self._console, "measuring") as progress:
                self._view = open_view(self.directory, progress=progress, opener=self._opener)
            self._measured = digests
        return self._view

    def evaluate(self, data: Any = None, *, likelihood: int | None = None, device: str | None = None) -> Evaluation:
        """Measure the model on images that it was not trained on.

        Args:
            data: Other images, as `ectype.train` takes them; the run's own held-out ones if not given. The images in
                memory that the run was trained on stand for its own, and are put into the cache again.
            likelihood: Draws of the importance-weighted bound, computed on all test images; a quick bound on some of
                them if not given.
            device: See `ectype.train`.

        Returns:
            Figures with 95% intervals and baselines; see `Evaluation.to_table`.

        Raises:
            RunError: The run has no model yet.
            DataError: The images cannot be used.
        """
        if data is None and likelihood is None and device is None:
            return self.view().evaluation
        with progress_of(self._console, "measuring") as progress:
            return results.evaluate(
                self.directory,
                None if data is None else source_text(data),
                device=device,
                likelihood=likelihood,
                progress=progress,
            )

    def findings(self) -> list[Finding]:
        """Return the problems found in the run and its images, the most serious first, each with advice."""
        with progress_of(self._console, "looking for problems"):
            return self.view().once("all findings", lambda: results.all_findings(self.view()))

    def report(self, out: str | Path | None = None) -> Path:
        """Write one self-contained HTML page, and return its path.

        Args:
            out: The file; `report.html` in the run's directory if not given.
        """
        view = self.view()
        with progress_of(self._console, "writing the report"):
            return results.report([view], None if out is None else Path(out))

    def keep(self, step: int) -> None:
        """Select the weights of another step that has a checkpoint.

        Raises:
            CheckpointError: There is no such checkpoint, or it is damaged.
        """
        ship_checkpoint(self.directory, step)
        self._view = self._model = None

    # ── Use ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def sample(self, n: int = 16, **options: Any) -> ImageBatch:
        """Generate images; see `ectype.sample` for the options."""
        return inference.sample(self, n, **options)

    def reconstruct(self, images: Any, *args: Any, **options: Any) -> ImageBatch | Path:
        """Encode and decode images; see `ectype.reconstruct`."""
        return inference.reconstruct(self, images, *args, **options)

    def encode(self, images: Any, **options: Any) -> Any:
        """Encode images; see `ectype.encode`."""
        return inference.encode(self, images, **options)

    def decode(self, code: Any, *args: Any, **options: Any) -> ImageBatch | Path:
        """Turn codes into images; see `ectype.decode`."""
        return inference.decode(self, code, *args, **options)

    def translate(self, images: Any, *args: Any, **options: Any) -> Any:
        """Predict masks, translated images or restored images; see `ectype.translate`."""
        return inference.translate(self, images, *args, **options)

    def score(self, images: Any, **options: Any) -> Table:
        """Measure how odd images are; see `ectype.score`."""
        return inference.score(self, images, **options)

    def nearest(self, images: Any, source: str | Path, **options: Any) -> Table:
        """Find the images whose codes are nearest; see `ectype.nearest`."""
        return inference.nearest(self, images, source, **options)

    # ── Notebook ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def __repr__(self) -> str:
        return f"Run('{self.path}', {self.state}, {self.directory.seen():,} images seen)"

    def _repr_html_(self) -> str:
        facts = {
            "recipe": self.recipe.about.name,
            "data": self.recipe.data.source or "",
            "state": f"{self.state}: {self.summary.get('reason', '')}" if self.summary else self.state,
            "images seen": f"{self.directory.seen():,}",
            "best check": best_check(self.directory),
        }
        rows = "".join(f"<tr><th>{key}</th><td>{for_html(value)}</td></tr>" for key, value in facts.items())
        pictures = sorted(self.directory.samples.glob("*.png"), key=lambda file: file.name.rpartition("-")[2])
        newest = pictures[-1] if pictures else None
        shown = ""
        if newest is not None:
            import base64

            kind = newest.name.rpartition("-")[0]
            data = base64.b64encode(newest.read_bytes()).decode()
            shown = f'<p>{for_html(kind)}, newest check</p><img src="data:image/png;base64,{data}">'
        return f"<b>{for_html(str(self.path))}</b><table>{rows}</table>{shown}"


def open_run(path: str | Path) -> Run:
    """Open a run that was started before.

    Raises:
        RunError: There is no run at `path`.
    """
    return Run(path)


def as_run(run: str | Path | Run | RunDir) -> Run:
    """Return a run, given one or its path."""
    if isinstance(run, Run):
        return run
    if isinstance(run, str | Path | RunDir):
        return Run(run.path if isinstance(run, RunDir) else run)
    raise RunError(f"{type(run).__name__} is not a run: give what `ectype.train` returned, or the path of a run.")


@contextmanager
def progress_of(console: Console | None, activity: str) -> Iterator[Callable[[str], None] | None]:
    """Show an activity on a console while the block runs; yields a function that says what is done next."""
    if not isinstance(console, ActivityConsole):
        yield None
        return
    with console.spinner(activity):
        yield lambda what: console.doing(f"{activity} {what}")
