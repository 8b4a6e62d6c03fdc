"""What an evaluation found: plain numbers that go into a file, a table and a page."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ectype.errors import RunError

__all__ = ["Evaluation", "Figure", "number"]

GROUPS = ("masks", "pictures", "reconstruction", "denoising", "likelihood", "codes")
"""In the order in which they are shown."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number, and what it takes to judge it."""

    name: str
    value: float
    """Not a number where the model gave none that is finite."""
    group: str
    unit: str = ""
    low: float | None = None
    """Of the 95% interval over test images; None where there is none."""
    high: float | None = None
    n: int | None = None
    """Test images that it was computed on."""
    better: str | None = None
    """lower or higher; None where neither is better by itself."""
    beside: dict[str, float] = dataclasses.field(default_factory=dict)
    """The same measure of something simple."""
    note: str = ""
    among: str = ""
    """What must be the same for two of this name to be compared, such as the kind of a density."""

    @property
    def text(self) -> str:
        """The value with its unit, for people."""
        return f"{number(self.value)} {self.unit}".strip()

    @property
    def interval(self) -> str:
        """The interval in words, empty where there is none."""
        if self.low is None or self.high is None or not (math.isfinite(self.low) and math.isfinite(self.high)):
            return ""
        return f"{number(self.low)} to {number(self.high)}"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All figures of one model on one set of test images."""

    density: str
    """explicit bound, implicit, or none."""
    parameters: int
    image_numbers: int
    code_numbers: int | None
    """None where the model has no codes."""
    train_images: int
    test_images: int
    """Used, of those there are."""
    seed: int
    figures: list[Figure]
    series: dict[str, list[float]]
    """Spectra for charts, largest first."""
    cases: dict[str, list[int]]
    """best, median, worst → places in the test split, by squared error."""
    remarks: list[str]
    """What could not be computed, and why."""
    judged: str = "held-out test images"
    """What the test images are."""
    verdict: str = ""
    """On samples, by name; empty where there are none, or too few images to judge by."""

    def __getitem__(self, name: str) -> Figure:
        """A figure by its name.

        Raises:
            KeyError: This model has none of that name.
        """
        if (found := self.get(name)) is None:
            raise KeyError(f"no figure '{name}'; have {', '.join(figure.name for figure in self.figures)}")
        return found

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def get(self, name: str) -> Figure | None:
        """A figure by its name; None where this model has none of it."""
        return next((figure for figure in self.figures if figure.name == name), None)

    @property
    def compression(self) -> float | None:
        """Numbers in an image ÷ numbers in its code; below 1 the code is the larger."""
        return None if self.code_numbers is None else self.image_numbers / self.code_numbers

    def groups(self) -> dict[str, list[Figure]]:
        """Figures by group, in the order in which they are shown."""
        order = [*GROUPS, *dict.fromkeys(f.group for f in self.figures if f.group not in GROUPS)]
        found = {name: [figure for figure in self.figures if figure.group == name] for name in order}
        return {name: figures for name, figures in found.items() if figures}

    def table(self) -> Table:
        """For a terminal."""
        size = f"{self.parameters:,} parameters · density: {self.density}"
        if self.compression is not None:
            size += f" · {self.image_numbers:,} numbers ÷ {self.code_numbers:,} kept = {self.compression:.3g}"
        table = Table(
            title=f"{self.test_images:,} {escape(self.judged)}, seed {self.seed}",
            caption="\n".join([size, *self.remarks]),
            box=box.SIMPLE_HEAD,
            title_justify="left",
            caption_justify="left",
        )
        table.add_column("", overflow="fold", min_width=20)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("95% interval", no_wrap=True)
        table.add_column("beside")
        for figures in self.groups().values():
            for figure in figures:
                beside = "\n".join(f"{name} {number(value)}" for name, value in figure.beside.items())
                table.add_row(figure.name, figure.text, figure.interval, beside)
            table.add_section()
        return table

    def to_json(self) -> str:
        """Strict JSON: what is not a finite number becomes null."""
        return json.dumps(_finite(dataclasses.asdict(self)), ensure_ascii=False, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Back from `to_json`.

        Raises:
            RunError: The text is none.
        """
        try:
            plain = json.loads(text)
            figures = [
                Figure(**{**figure, "value": math.nan if figure["value"] is None else figure["value"]})
                for figure in plain["figures"]
            ]
            return cls(**{**plain, "figures": figures})
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"no evaluation that this version reads ({error}): run `ectype evaluate` again.") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | None) -> str:
    """A figure for people: four significant digits, thousands apart, no exponent between 1e-4 and 1e6."""
    if value is None or not math.isfinite(value):
        return "not a number"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", "−")
    size = abs(value)
    if not 1e-4 <= size < 1e6:
        return f"{value:.3e}".replace("-", "−")
    decimals = max(0, 3 - math.floor(math.log10(size)))
    return f"{value:,.{decimals}f}".replace("-", "−")
