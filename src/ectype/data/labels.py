"""Labels from a CSV file with the columns path and label."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ectype.core.errors import DataError
from ectype.data.sources.base import natural_sort_key

__all__ = ["read_labels"]

_PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_id", "img", "name", "id")
_LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "y")
_SNIFFED_CHARACTERS = 4096
"""Characters at the start of a file in which the delimiter is looked for."""


def read_labels(path: str, names: Sequence[str], source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read the class of each image from a CSV file.

    A header that names its columns (path, file, image, id, …; label, class, target, …) is recognized. Without one, the
    first column is the path and the second the label. A path may be the image's path in its source, the same without
    suffix, or its file name with or without suffix if no two images share it.

    Args:
        path: The CSV file, absolute, relative to the working directory, or relative to the source.
        names: [n] paths of the images in their source.
        source: The source's path.

    Returns:
        Class indices [n] int32, and the class names in natural order.

    Raises:
        DataError: The file does not exist, a row does not have two columns, or an image has no label.
    """
    table: dict[str, str] = {}
    for row in _read_rows(path, source):
        table[PurePosixPath(row[0].strip().replace("\\", "/")).as_posix()] = row[1].strip()
    found = [next((table[key] for key in keys if key in table), None) for keys in _unique_keys(names)]
    if missing := [name for name, label in zip(names, found, strict=True) if not label]:
        raise DataError(
            f"{len(missing)} of {len(names)} images have no label in '{path}' (first: {missing[0]}): add rows "
            "path,label for them, or remove the images."
        )
    classes = sorted({label for label in found if label}, key=natural_sort_key)
    index = {name: i for i, name in enumerate(classes)}
    return np.fromiter((index[label] for label in found if label), np.int32, len(names)), tuple(classes)


def _unique_keys(names: Sequence[str]) -> list[list[str]]:
    """Return the keys by which a row may refer to each image, the most exact first, without ambiguous ones."""
    keys = [[name, _stem(name), name.rpartition("/")[2], _stem(name.rpartition("/")[2])] for name in names]
    counts = Counter(key for options in keys for key in dict.fromkeys(options))
    return [[options[0], *(key for key in options[1:] if counts[key] == 1)] for options in keys]


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix else name


def _read_rows(path: str, source: str) -> list[list[str]]:
    """Return [path, label] of each row."""
    within_source = Path(source).expanduser() / path
    file_path = Path(path).expanduser()
    if not file_path.is_file() and within_source.is_file():
        file_path = within_source
    if file_path.exists() and not file_path.is_file():
        raise DataError(f"'{path}' is not a file: give the path of a CSV file with the columns path,label.")
    try:
        with open(file_path, encoding="utf-8-sig", newline="") as file:
            sample = file.read(_SNIFFED_CHARACTERS)
            file.seek(0)
            delimiter = max(",;\t", key=sample.split("\n")[0].count)
            rows = [row for row in csv.reader(file, delimiter=delimiter) if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise DataError(f"no labels at '{path}': give the path of a CSV file with the columns path,label.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' cannot be read as CSV ({error}): use a text file with rows path,label.") from None
    if not rows:
        raise DataError(f"'{path}' is empty: add rows path,label.")
    header = [cell.strip().lower() for cell in rows[0]]
    path_column = next((header.index(name) for name in _PATH_COLUMNS if name in header), None)
    label_column = next((header.index(name) for name in _LABEL_COLUMNS if name in header), None)
    if path_column is not None or label_column is not None:
        rows = rows[1:]
    first = path_column if path_column is not None else 1 if label_column == 0 else 0
    second = label_column if label_column is not None else 0 if first == 1 else 1
    if short := next((row for row in rows if len(row) <= max(first, second)), None):
        columns = f"{len(short)} column" + ("s" if len(short) > 1 else "")
        raise DataError(f"'{path}' has a row of {columns} ({','.join(short)[:60]}): every row needs path,label.")
    return [[row[first], row[second]] for row in rows]
