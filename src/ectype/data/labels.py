"""Labels from a CSV file of path,label."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ectype.data.sources import natural
from ectype.errors import DataError

__all__ = ["read_labels"]

_PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_id", "img", "name", "id")
_LABELS = ("label", "labels", "class", "category", "target", "y")


def read_labels(path: str, names: Sequence[str], source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices [n] of the named images, and the classes in natural order.

    A header that names its columns (path, file, image, id…; label, class, target…) is understood; else the first column
    is the path and the second the label. A path may be the image's path in its source, the same without suffix, or its
    file name with or without suffix where no two images share it.

    Raises:
        DataError: No such file, no two columns, or images without a label.
    """
    rows = _rows(path, source)
    keys = _unique_keys(names)
    table: dict[str, str] = {}
    for row in rows:
        table[PurePosixPath(row[0].strip().replace("\\", "/")).as_posix()] = row[1].strip()
    found = [next((table[key] for key in options if key in table), None) for options in keys]
    if missing := [name for name, label in zip(names, found, strict=True) if not label]:
        raise DataError(
            f"{len(missing)} of {len(names)} images have no label in '{path}' (first: {missing[0]}): add rows "
            "path,label for them, or remove the images."
        )
    classes = sorted({label for label in found if label}, key=natural)
    number = {name: i for i, name in enumerate(classes)}
    return np.fromiter((number[label] for label in found if label), np.int32, len(names)), tuple(classes)


def _unique_keys(names: Sequence[str]) -> list[list[str]]:
    """What a row may call each image, most exact first, less what could be another image too."""
    keys = [[name, _stem(name), name.rpartition("/")[2], _stem(name.rpartition("/")[2])] for name in names]
    seen = Counter(key for options in keys for key in dict.fromkeys(options))
    return [[options[0], *(key for key in options[1:] if seen[key] == 1)] for options in keys]


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix else name


def _rows(path: str, source: str) -> list[list[str]]:
    """Pairs of path and label."""
    inside = Path(source).expanduser() / path
    place = Path(path).expanduser()
    place = place if place.is_file() or not inside.is_file() else inside
    try:
        with open(place, encoding="utf-8-sig", newline="") as file:
            sample = file.read(4096)
            file.seek(0)
            delimiter = max(",;\t", key=sample.split("\n")[0].count)
            rows = [row for row in csv.reader(file, delimiter=delimiter) if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise DataError(f"no labels at '{path}': give the path of a CSV file of path,label.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' cannot be read as CSV ({error}): give a text file of path,label.") from None
    if not rows:
        raise DataError(f"'{path}' is empty: it should hold rows of path,label.")
    header = [cell.strip().lower() for cell in rows[0]]
    paths = next((header.index(name) for name in _PATHS if name in header), None)
    labels = next((header.index(name) for name in _LABELS if name in header), None)
    if paths is not None or labels is not None:
        rows = rows[1:]
    first = paths if paths is not None else 1 if labels == 0 else 0
    second = labels if labels is not None else 0 if first == 1 else 1
    if short := next((row for row in rows if len(row) <= max(first, second)), None):
        raise DataError(f"'{path}' has a row of {len(short)} columns ({','.join(short)[:60]}): each needs path,label.")
    return [[row[first], row[second]] for row in rows]
