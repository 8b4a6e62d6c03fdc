"""Labels from a CSV file: which of its columns hold the path and the class, and which encoding its text has."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ectype.core.errors import DataError, did_you_mean
from ectype.data.sources.base import natural_sort_key, same_name_key
from ectype.data.sources.walk import check_regular_file

__all__ = ["Labels", "read_labels"]

_PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_id", "img", "name", "id")
_LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "y")
_INDEX_COLUMNS = ("", "unnamed: 0")
"""Names of the column of row numbers that pandas writes."""
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOCAL_ENCODINGS = {"cp1252": "Windows-1252 (Latin-1)", "cp949": "CP949", "cp932": "CP932", "gb18030": "GB 18030"}
"""Encodings that text may have if it is not Unicode. cp1252 is the one that is taken if nothing speaks for another."""
_MAX_COMPARED_NAMES = 100
"""Number of image names that are looked for in a text to find its encoding."""
_MAX_LISTED_COLUMNS = 12


class Labels(NamedTuple):
    """The classes of images."""

    indices: np.ndarray
    """[n] int32 class indices."""
    classes: tuple[str, ...]
    """Class names in natural order."""
    notes: tuple[str, ...] = ()
    """What the user should know about the file, one line each."""


def read_labels(path: str, names: Sequence[str], source: str, columns: Sequence[str] | None = None) -> Labels:
    """Read the class of each image from a CSV file.

    A header that names its columns (path, file, image, id, …; label, class, target, …) is recognized. Without one, the
    first column is the path and the second the label. A path may be the image's path in its source, the same without
    suffix, or its file name with or without suffix if no two images share it. Names are equal in either Unicode form.

    Args:
        path: The CSV file, absolute, relative to the working directory, or relative to the source.
        names: [n] paths of the images in their source.
        source: The source's path.
        columns: The name of the column of labels; or of several that are one-hot, whose names then are the classes.
            None takes the only one that can be meant.

    Raises:
        DataError: The file does not exist, several columns can be meant, a row is too short, or an image has no label
            or several ones.
    """
    text, notes = _read_text(path, source, names)
    rows = _parse(text, path)
    chosen = _choose_columns(rows, path, columns)
    table: dict[str, str] = {}
    conflicts: dict[str, str] = {}
    for row in rows[chosen.has_header :]:
        if len(row) <= max(chosen.path, *chosen.labels):
            shown = f"{len(row)} column" + ("s" if len(row) > 1 else "")
            raise DataError(f"'{path}' has a row of {shown} ({','.join(row)[:60]}): every row needs path,label.")
        key = same_name_key(PurePosixPath(row[chosen.path].strip().replace("\\", "/")).as_posix())
        label = _label(row, chosen, path)
        if table.setdefault(key, label) != label:
            conflicts[key] = f"'{table[key]}' and '{label}'"
    used = [next((key for key in keys if key in table), None) for keys in _unique_keys(names)]
    found = [None if key is None else table[key] for key in used]
    if missing := [name for name, label in zip(names, found, strict=True) if not label]:
        raise DataError(
            f"{len(missing)} of {len(names)} images have no label in '{path}' (first: {missing[0]}): add rows "
            "path,label for them, or remove the images."
        )
    if conflict := next((key for key in used if key in conflicts), None):
        raise DataError(f"'{path}' gives '{conflict}' the labels {conflicts[conflict]}: keep one row for each image.")
    classes = sorted({label for label in found if label}, key=natural_sort_key)
    index = {name: i for i, name in enumerate(classes)}
    indices = np.fromiter((index[label] for label in found if label), np.int32, len(names))
    return Labels(indices, tuple(classes), notes)


def _unique_keys(names: Sequence[str]) -> list[list[str]]:
    """Return the keys by which a row may refer to each image, the most exact first, without ambiguous ones."""
    names = [same_name_key(name) for name in names]
    keys = [[name, _stem(name), name.rpartition("/")[2], _stem(name.rpartition("/")[2])] for name in names]
    counts = Counter(key for options in keys for key in dict.fromkeys(options))
    return [[options[0], *(key for key in options[1:] if counts[key] == 1)] for options in keys]


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix else name


# ── Text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_text(path: str, source: str, names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the text of the file, and notes on its encoding."""
    within_source = Path(source).expanduser() / path
    file_path = Path(path).expanduser()
    check_regular_file(file_path)
    try:
        if not file_path.is_file() and within_source.is_file():
            file_path = within_source
        content = file_path.read_bytes()
        return _decode(content, path, names)
    except FileNotFoundError:
        raise DataError(f"no labels at '{path}': give the path of a CSV file with the columns path,label.") from None
    except (OSError, ValueError) as error:  # a decoding error is a ValueError
        raise DataError(f"'{path}' cannot be read as CSV ({error}): use a text file with rows path,label.") from None


def _decode(content: bytes, path: str, names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:64]:  # UTF-16 without a mark: one byte of each ASCII character is 0
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    if encoding is not None:
        return content.decode(encoding), ()
    try:
        return content.decode("utf-8"), ()
    except UnicodeDecodeError:
        text, encoding = _decode_local(content, names)
    note = f"'{path}' is not UTF-8 and was read as {_LOCAL_ENCODINGS[encoding]}: save it as UTF-8 if names look wrong"
    return text, (note,)


def _decode_local(content: bytes, names: Sequence[str]) -> tuple[str, str]:
    """Return the text in the local encoding in which most of the images' names occur in it, and that encoding."""
    stems = [stem for name in names if not (stem := _stem(name.rpartition("/")[2])).isascii()][:_MAX_COMPARED_NAMES]
    options = []
    for encoding in _LOCAL_ENCODINGS:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            if encoding != "cp1252":
                continue
            text = content.decode("latin-1")  # nearly the same, and each byte has a meaning
        normalized = same_name_key(text)
        options.append((sum(same_name_key(stem) in normalized for stem in stems), text, encoding))
    _, text, encoding = max(options, key=lambda option: option[0])  # the first of equal ones
    return text, encoding


def _parse(text: str, path: str) -> list[list[str]]:
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"'{path}' cannot be read as CSV ({error}): use a text file with rows path,label.") from None
    if not rows:
        raise DataError(f"'{path}' is empty: add rows path,label.")
    return rows


# ── Columns ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Columns(NamedTuple):
    path: int
    labels: list[int]
    """One column, or several that are one-hot."""
    has_header: bool
    names: list[str]


def _choose_columns(rows: list[list[str]], path: str, requested: Sequence[str] | None) -> _Columns:
    names = [same_name_key(cell.strip()) for cell in rows[0]]
    header = [name.lower() for name in names]
    labels = [_find_column(name, names, path) for name in requested or ()]
    path_column = next((header.index(name) for name in _PATH_COLUMNS if name in header), None)
    if path_column in labels:
        path_column = None
    named = [i for i, name in enumerate(header) if name in _LABEL_COLUMNS]
    has_header = bool(labels or named) or path_column is not None
    if not labels:
        labels = named if has_header else [i for i in range(max(map(len, rows))) if i > 0]
        if has_header and not labels:
            others = [i for i, name in enumerate(header) if i != path_column and name not in _INDEX_COLUMNS]
            labels = [i for i in others if header[i] not in _PATH_COLUMNS] or others
        if len(labels) > 1:
            raise _several_columns(rows, labels, path, has_header=has_header)
    if path_column is None:
        path_column = next((i for i in range(len(names)) if i not in labels), 0)
    return _Columns(path_column, labels or [path_column + 1], has_header, names)


def _find_column(requested: str, names: list[str], path: str) -> int:
    wanted = same_name_key(requested.strip())
    for options, name in ((names, wanted), ([name.lower() for name in names], wanted.lower())):
        if name in options:
            return options.index(name)
    raise DataError(f"no column '{requested}' in the first row of '{path}'; {did_you_mean(requested, names)}")


def _several_columns(rows: list[list[str]], labels: list[int], path: str, *, has_header: bool) -> DataError:
    """Return the error for a table in which several columns could hold the label."""
    if not has_header:
        return DataError(
            f"'{path}' has {len(labels) + 1} columns and no first row that names them: add one, such as path,label, "
            "or keep two columns."
        )
    names = [rows[0][i].strip() for i in labels]
    listed = ", ".join(names[:_MAX_LISTED_COLUMNS])
    if len(names) > _MAX_LISTED_COLUMNS:
        listed += f", … ({len(names)} in all)"
    example = names[0]
    hint = ""
    cells = [[row[i] if i < len(row) else "" for i in labels] for row in rows[1:]]
    if all(_binary(cell) is not None for row in cells for cell in row):
        if all(sum(_binary(cell) or 0 for cell in row) == 1 for row in cells):
            hint = f"; they are one-hot, and label_column={','.join(names)} takes all of them as the classes"
        else:
            hint = "; they hold only 0 and 1, but not one 1 in each row, so they are attributes and not classes"
    return DataError(
        f"'{path}' has {len(names)} columns that could be the label ({listed}): choose one, such as "
        f"label_column={example}{hint}."
    )


def _binary(cell: str) -> int | None:
    """Return 1 or 0 for a cell that says yes or no as a number (1 or 0; 1 or -1); None for another one."""
    try:
        return {1.0: 1, 0.0: 0, -1.0: 0}.get(float(cell))
    except ValueError:
        return None


def _label(row: list[str], columns: _Columns, path: str) -> str:
    if len(columns.labels) == 1:
        return same_name_key(row[columns.labels[0]].strip())
    ones = [i for i in columns.labels if _binary(row[i]) == 1]
    if len(ones) != 1 or any(_binary(row[i]) is None for i in columns.labels):
        values = ", ".join(f"{columns.names[i]} {row[i].strip()}" for i in columns.labels[:_MAX_LISTED_COLUMNS])
        raise DataError(
            f"'{path}' is not one-hot at '{row[columns.path].strip()}' ({values}): exactly one of the columns has to "
            "be 1 and the others 0; choose one column with label_column."
        )
    return columns.names[ones[0]]
