"""Results of an evaluation: figures with intervals and baselines, as a table, as JSON and for a report."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ectype.core import table as results_table
from ectype.core.errors import RunError, did_you_mean
from ectype.core.escape import for_json, for_terminal
from ectype.evaluation.figure_names import clip_to_range, display_name, is_key, metric_of
from ectype.evaluation.metrics.intervals import mean_interval

__all__ = ["Evaluation", "Figure", "format_number", "mean_figure", "plain_text"]

GROUP_ORDER = ("masks", "pictures", "reconstruction", "denoising", "likelihood", "codes")
"""Groups of figures in the order in which they are shown; further groups follow."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured value with its interval, unit and baselines.

    Attributes:
        key: Stable snake_case identifier, such as `psnr`; the only thing that code compares.
        name: Text for people; the display name of the key where none is given.
        value: Not a number where the model gave no finite one.
        group: The part of a table that the figure is shown in.
        unit: Such as dB; empty where there is none.
        low: Lower end of the 95% interval over test images; None where there is no interval. The interval of a metric
            that lies in [0, 1] by its definition is clipped to it.
        high: Upper end of that interval.
        n: Test images that the value was computed on.
        better: Direction that is good; None where neither is better by itself.
        baselines: Key of a baseline → the same metric of it.
        note: How the value was computed.
        comparable_within: What must be equal for two figures of one key to be compared, such as the kind of a density.
    """

    key: str
    name: str = dataclasses.field(default="", kw_only=True)
    value: float
    group: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    better: Literal["lower", "higher"] | None = None
    baselines: dict[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""
    comparable_within: str = ""

    def __post_init__(self) -> None:
        if not is_key(self.key):
            raise ValueError(f"'{self.key}' is no key of a figure: use lower-case words with underscores.")
        if self.low is not None and self.high is not None:
            for name, end in zip(("low", "high"), clip_to_range(self.key, self.low, self.high), strict=True):
                object.__setattr__(self, name, end)
        if not self.name:
            object.__setattr__(self, "name", display_name(self.key))

    @property
    def text(self) -> str:
        """The value with its unit."""
        return f"{format_number(self.value)} {self.unit}".strip()

    @property
    def named_baselines(self) -> dict[str, float]:
        """Display name of each baseline → its value."""
        return {display_name(key): value for key, value in self.baselines.items()}

    @property
    def interval(self) -> str:
        """The 95% interval as text; empty where there is none."""
        if self.low is None or self.high is None or not (math.isfinite(self.low) and math.isfinite(self.high)):
            return ""
        return f"{format_number(self.low)} to {format_number(self.high)}"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All figures of one model on one set of test images.

    Attributes:
        density: Kind of density over images: explicit bound, implicit, or none.
        parameters: Number of parameters of the model.
        image_elements: Elements of an image, channels × height × width.
        code_elements: Elements of a code; None where the model has no codes.
        train_images: Number of training images.
        test_images: Number of test images that were used.
        seed: Seed of the run.
        figures: In the order in which they were computed; keys are unique.
        series: Key → spectrum for a chart, largest value first, or a flattened matrix.
        cases: best, median and worst → indices in the test split, by squared error or Dice.
        remarks: What could not be computed and why, and the verdict on samples.
        test_set: Description of the test images.
        verdict: Name of the verdict on samples; empty where there are no samples, or too few images.
        verdict_evidence: What the verdict is based on.
    """

    density: str
    parameters: int
    image_elements: int
    code_elements: int | None
    train_images: int
    test_images: int
    seed: int
    figures: list[Figure]
    series: dict[str, list[float]]
    cases: dict[str, list[int]]
    remarks: list[str]
    test_set: str = "held-out test images"
    verdict: str = ""
    verdict_evidence: str = ""

    def __getitem__(self, key: str) -> Figure:
        """Return a figure by its key.

        Raises:
            KeyError: This model has no such figure.
        """
        if (found := self.get(key)) is None:
            raise KeyError(f"no figure '{key}'; {did_you_mean(key, [figure.key for figure in self.figures])}")
        return found

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def get(self, key: str) -> Figure | None:
        """Return a figure by its key; None where this model has no such figure."""
        return next((figure for figure in self.figures if figure.key == key), None)

    def first_of(self, *metrics: str) -> Figure | None:
        """Return the first figure of the first of these metrics that there is, in any feature space.

        Args:
            metrics: As `metric_of` returns them: `fd` stands for every Fréchet distance, FID included.
        """
        found = (figure for metric in metrics for figure in self.figures if metric_of(figure.key) == metric)
        return next(found, None)

    @property
    def compression(self) -> float | None:
        """Elements of an image ÷ elements of its code; below 1 the code is the larger."""
        return None if self.code_elements is None else self.image_elements / self.code_elements

    def groups(self) -> dict[str, list[Figure]]:
        """Return group → figures, in the order in which groups are shown."""
        order = [*GROUP_ORDER, *dict.fromkeys(f.group for f in self.figures if f.group not in GROUP_ORDER)]
        found = {name: [figure for figure in self.figures if figure.group == name] for name in order}
        return {name: figures for name, figures in found.items() if figures}

    def table(self) -> Table:
        """Return a table for a terminal."""
        size = f"{self.parameters:,} parameters · density: {self.density}"
        if self.compression is not None:
            size += f" · compression: {self.image_elements:,} ÷ {self.code_elements:,} = {self.compression:.3g}"
        table = Table(
            title=plain_text(f"{self.test_images:,} {self.test_set}, seed {self.seed}", "table.title"),
            caption=plain_text("\n".join([size, *self.remarks]), "table.caption"),
            box=box.SIMPLE_HEAD,
            title_justify="left",
            caption_justify="left",
        )
        table.add_column("", overflow="fold", min_width=20)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("95% interval", no_wrap=True)
        table.add_column("baselines")
        for figures in self.groups().values():
            for figure in figures:
                baselines = "\n".join(
                    f"{name} {format_number(value)}" for name, value in figure.named_baselines.items()
                )
                table.add_row(*map(plain_text, (figure.name, figure.text, figure.interval, baselines)))
            table.add_section()
        return table

    def to_table(self) -> results_table.Table:
        """Return all figures as a table: key, name, value, unit, low, high, n, better, baselines, note."""
        rows = [
            {
                "key": figure.key,
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "low": figure.low,
                "high": figure.high,
                "n": figure.n,
                "better": figure.better,
                "baselines": "; ".join(
                    f"{name} {format_number(value)}" for name, value in figure.named_baselines.items()
                ),
                "note": figure.note,
            }
            for figure in self.figures
        ]
        return results_table.Table(rows)

    def to_pandas(self) -> Any:
        """Return the figures as a `pandas.DataFrame`; see `to_table`."""
        return self.to_table().to_pandas()

    def to_csv(self, file: str | Path | None = None) -> str:
        """Return the figures as CSV, and write them to `file` if one is given."""
        return self.to_table().to_csv(file)

    def to_latex(self, file: str | Path | None = None) -> str:
        """Return name, value with 95% interval, and baselines as a LaTeX table; write it to `file` if one is given."""
        rows = [
            {
                "figure": figure.name,
                "value": figure.text,
                "95% interval": figure.interval,
                "baselines": "; ".join(
                    f"{name} {format_number(value)}" for name, value in figure.named_baselines.items()
                ),
            }
            for figure in self.figures
        ]
        return results_table.Table(rows).to_latex(file)

    def _repr_html_(self) -> str:
        return self.to_table()._repr_html_()

    def to_json(self) -> str:
        """Return strict JSON, in which a number that is not finite is null."""
        return for_json(json.dumps(_finite(dataclasses.asdict(self)), ensure_ascii=False, indent=1, allow_nan=False))

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Return the evaluation that `to_json` wrote.

        Raises:
            RunError: The text is no evaluation that this version can read.
        """
        try:
            plain = json.loads(text)
            figures = [
                Figure(**{**figure, "value": math.nan if figure["value"] is None else figure["value"]})
                for figure in plain["figures"]
            ]
            return cls(**{**plain, "figures": figures})
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"cannot read the stored evaluation ({error}): run `ectype evaluate` again.") from None


def plain_text(text: str, style: str = "") -> Text:
    """Return text for a table on any terminal: no markup in it is interpreted, no control character passes."""
    return Text(for_terminal(text), style)


def mean_figure(key: str, values: Float[Tensor, " n"], group: str, **fields: Any) -> Figure:
    """Return the mean over test images as a figure, with its 95% interval.

    Args:
        key: Key of the figure.
        values: One value for each test image.
        group: Group of the figure.
        fields: Further fields of `Figure`.
    """
    low, high = mean_interval(values)
    return Figure(key, float(values.double().mean()), group, low=low, high=high, n=len(values), **fields)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_number(value: float | None) -> str:
    """Format a number with four significant digits, thousands separators, and no exponent between 1e-4 and 1e6.

    >>> format_number(23.12345), format_number(-1234567), format_number(None)
    ('23.12', '−1,234,567', 'not a number')
    """
    if value is None or not math.isfinite(value):
        return "not a number"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", "−")
    size = abs(value)
    if not 1e-4 <= size < 1e6:
        return f"{value:.3e}".replace("-", "−")
    decimals = max(0, 3 - math.floor(math.log10(size)))
    return f"{value:,.{decimals}f}".replace("-", "−")
