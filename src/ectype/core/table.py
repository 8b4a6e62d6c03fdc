"""Tables of results: shown in a notebook, written as CSV or LaTeX, or turned into a pandas DataFrame."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ectype.core.errors import DataError, RecipeError, did_you_mean
from ectype.core.escape import for_html, for_latex, write_csv
from ectype.core.optional import optional_import
from ectype.core.outputs import output_file

__all__ = ["Table"]

MAX_HTML_ROWS = 60


class Table(Sequence[Mapping[str, Any]]):
    """Rows with named columns. A missing value is None.

    >>> table = Table([{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    >>> table["loss"]
    [0.5, 0.25]
    >>> len(table), table.columns
    (2, ['step', 'loss'])
    >>> print(table.to_csv(), end="")
    step,loss
    1,0.5
    2,0.25
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
        self.rows = [dict(row) for row in rows]
        self.columns = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, key: Any) -> Any:
        """Return a column by its name, or a row by its position."""
        if not isinstance(key, str):
            return self.rows[key]
        if key not in self.columns:
            raise RecipeError(f"no column '{key}'; {did_you_mean(key, self.columns)}")
        return [row.get(key) for row in self.rows]

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`. Raises `ModelError` if pandas is not installed."""
        pandas = optional_import("pandas", "pandas", "a data frame")
        return pandas.DataFrame(self.rows, columns=self.columns)

    def to_csv(self, file: str | Path | None = None) -> str:
        """Return the table as CSV, and write it to `file` if one is given.

        Raises:
            DataError: The file cannot be written, or exists and Ectype did not write it.
        """
        text = io.StringIO()
        write_csv(text, [self.columns, *([row.get(key) for key in self.columns] for row in self.rows)], line_end="\n")
        return _written(text.getvalue(), file)

    def to_latex(self, file: str | Path | None = None) -> str:
        """Return the table as a LaTeX `tabular` with booktabs rules, and write it to `file` if one is given.

        Floats are written with four significant digits, text is escaped.

        Raises:
            DataError: See `to_csv`.
        """
        numeric = [all(isinstance(row.get(column), int | float | None) for row in self.rows) for column in self.columns]
        lines = [
            f"\\begin{{tabular}}{{{''.join('r' if each else 'l' for each in numeric)}}}",
            "\\toprule",
            " & ".join(map(_latex, self.columns)) + r" \\",
            "\\midrule",
            *(" & ".join(_latex(row.get(column)) for column in self.columns) + r" \\" for row in self.rows),
            "\\bottomrule",
            "\\end{tabular}",
        ]
        return _written("\n".join(lines) + "\n", file)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{for_html(column)}</th>" for column in self.columns)
        shown = self.rows[:MAX_HTML_ROWS]
        body = "".join(
            "<tr>" + "".join(f"<td>{for_html(_text(row.get(column)))}</td>" for column in self.columns) + "</tr>"
            for row in shown
        )
        rest = f"<p>{len(self.rows) - len(shown):,} more rows</p>" if len(shown) < len(self.rows) else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"

    def __repr__(self) -> str:
        return f"Table({len(self.rows)} rows: {', '.join(self.columns)})"


def _written(text: str, file: str | Path | None) -> str:
    if file is not None:
        try:
            with output_file(Path(file)) as scratch:
                scratch.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write '{file}' ({error.strerror}): choose another path.") from None
    return text


def _text(value: Any) -> str:
    """Return a value for people: floats with four significant digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return str(value)


def _latex(value: Any) -> str:
    return for_latex(_text(value))
