"""Images in Parquet files, local or from the Hugging Face Hub: one column of encoded images, another of labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ectype.core.errors import DataError, did_you_mean
from ectype.core.optional import optional_import
from ectype.data.packed_strings import NumberedStrings
from ectype.data.raw_image import Raw, Unreadable
from ectype.data.sources.base import (
    IMAGE_MAGIC,
    MAGIC_BYTES,
    SPLIT_FOLDERS,
    UNASSIGNED,
    Listing,
    Source,
    natural_sort_key,
    same_name_key,
    signature_of,
)
from ectype.data.sources.walk import walk_files

__all__ = ["HubSource", "ParquetSource"]

_ROWS_PER_BATCH = 256
_LABEL_NAMES = ("label", "labels", "class", "target")


class _Columns(NamedTuple):
    image: str
    label: str | None = None
    classes: tuple[str, ...] | None = None


def _choose_column(text: str, kind: str, options: Sequence[str], requested: str, names: Sequence[str]) -> str | None:
    """Return the requested column, or else the only one of its kind; None if there is none."""
    if requested:
        if requested not in names:
            raise DataError(f"no column '{requested}' in '{text}'; {did_you_mean(requested, names)}")
        return requested
    if len(options) > 1:
        raise DataError(
            f"'{text}' has several {kind} columns ({', '.join(options)}): append #image_column,label_column to choose."
        )
    return options[0] if options else None


def _find_columns(
    text: str, schema: pa.Schema, features: Mapping[str, Any], requested: str, first_value: Callable[[str], Any]
) -> _Columns:
    """Find the columns of images and labels.

    Hugging Face's own description of the columns decides, if there is one. Otherwise an image is a struct with
    `bytes`, or binary with the first bytes of an image file; a label is a column of integers or text with such a name.

    Args:
        text: The source as the user wrote it.
        schema: Names and types of the columns.
        features: Hugging Face's description by column name; may be empty.
        requested: `image_column[,label_column]` as the user wrote it, or empty.
        first_value: Returns the first value of a column.
    """
    requested_image, _, requested_label = requested.partition(",")
    images = [name for name in schema.names if _feature_type(features, name) == "Image"]
    if not images:
        for field in schema:
            if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
                images.append(field.name)
            elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
                value = first_value(field.name)
                if value and IMAGE_MAGIC.match(value[:MAGIC_BYTES]):
                    images.append(field.name)
    image = _choose_column(text, "image", images, requested_image, schema.names)
    if image is None:
        raise DataError(f"no column of images in '{text}' (it has {', '.join(schema.names)}): append #image_column.")
    labels = [name for name in schema.names if _feature_type(features, name) == "ClassLabel"]
    if not labels:
        labels = [field.name for field in schema if field.name.lower() in _LABEL_NAMES and _is_label_type(field.type)]
    label = _choose_column(text, "label", labels, requested_label, schema.names)
    classes = _class_names(features, label) if label else None
    return _Columns(image, label, tuple(classes) if classes else None)


def _is_label_type(data_type: pa.DataType) -> bool:
    return pa.types.is_integer(data_type) or pa.types.is_string(data_type) or pa.types.is_large_string(data_type)


def _feature_type(features: Mapping[str, Any], name: str) -> str:
    feature = features.get(name)
    return feature.get("_type", "") if isinstance(feature, Mapping) else type(feature).__name__


def _class_names(features: Mapping[str, Any], name: str) -> Sequence[str] | None:
    feature = features.get(name)
    return feature.get("names") if isinstance(feature, Mapping) else getattr(feature, "names", None)


def _cell_content(value: Any) -> Raw:
    """Return the image in a cell: a struct of bytes and path, or plain bytes."""
    path = None
    if isinstance(value, Mapping):
        value, path = value.get("bytes"), value.get("path")
    if value is not None:
        return value
    return str(path) if path and Path(path).is_file() else Unreadable("missing in the table")


class _TableSource(Source):
    """Images in tables that are read in batches. Subclasses read the batches."""

    def __init__(self, text: str, location: str, signature: str, counts: Sequence[tuple[str, int]]) -> None:
        super().__init__(text, location, signature)
        self._counts = counts
        """Name and number of rows of each table."""

    def _columns(self) -> _Columns:
        raise NotImplementedError

    def _batches(self, column: str) -> Iterator[Sequence[Any]]:
        raise NotImplementedError

    def listing(self) -> Listing:
        columns = self._columns()
        names = NumberedStrings(self._counts)
        if not len(names):
            raise DataError(f"no images in '{self.text}': it has no rows.")
        ids = [_split_id(name) for name, _ in self._counts]
        split_ids = np.concatenate(
            [np.full(num_rows, i, np.uint8) for i, (_, num_rows) in zip(ids, self._counts, strict=True)]
        )
        labels, classes, why_unused = self._labels(columns)
        notes = (f"labels are not used: {why_unused}",) if why_unused else ()
        return Listing(names, split_ids, labels, classes, notes=notes)

    def _labels(self, columns: _Columns) -> tuple[np.ndarray | None, tuple[str, ...], str]:
        """Return class indices, class names, and why labels that are there are not used."""
        if columns.label is None:
            return None, (), ""
        values = [value for batch in self._batches(columns.label) for value in batch]
        # In a test set whose labels are not published, they are -1.
        if unknown := sum(value is None or value == -1 for value in values):
            return None, (), f"{unknown:,} of {len(values):,} in the column {columns.label} are empty or -1"
        classes = columns.classes
        if classes is None:
            values = [same_name_key(str(value)) for value in values]
            classes = tuple(sorted(set(values), key=natural_sort_key))
            index = {name: i for i, name in enumerate(classes)}
            values = [index[value] for value in values]
        if len(classes) < 2:
            return None, (), f"all images have the same one, {', '.join(classes)}"
        return np.asarray(values, np.int32), classes, ""

    def read(self) -> Iterator[Raw]:
        for batch in self._batches(self._columns().image):
            yield from map(_cell_content, batch)


def _split_id(table: str) -> int:
    """Return the split of a table called like `train`, `folder/train-00000` or `train-00000-of-00004`."""
    return SPLIT_FOLDERS.get(table.lower().split("/")[-1].split("-")[0], UNASSIGNED)


class ParquetSource(_TableSource):
    """A Parquet file, or a folder of them. The split is read from names (`train-00000-of-00004.parquet`) or folders."""

    def __init__(self, text: str, path: Path, columns: str = "") -> None:
        root = path if path.is_dir() else path.parent
        names = sorted(name for name, _, special in walk_files(path) if not special) if path.is_dir() else [path.name]
        self._requested = columns
        self._paths = [root / name for name in names if name.endswith(".parquet") or not path.is_dir()]
        entries, counts = [], []
        for file in self._paths:
            relative = file.relative_to(root)
            try:
                counts.append((_table_name(relative), pq.read_metadata(file).num_rows))
            except (pa.ArrowInvalid, OSError) as error:
                reason = " ".join(str(error).split())
                raise DataError(f"'{file}' is not a Parquet file ({reason}): download it again.") from None
            stat = file.stat()
            entries.append((relative.as_posix(), stat.st_size, stat.st_mtime_ns))
        super().__init__(text, f"{path.resolve()}#{columns}", signature_of(entries), counts)

    def _columns(self) -> _Columns:
        with pq.ParquetFile(self._paths[0]) as file:
            schema = file.schema_arrow
            description = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
            features = description.get("info", {}).get("features", {})

            def first_value(column: str) -> Any:
                rows = next(file.iter_batches(1, columns=[column]), None)
                return rows.column(0)[0].as_py() if rows is not None and rows.num_rows else None

            return _find_columns(self.text, schema, features, self._requested, first_value)

    def _batches(self, column: str) -> Iterator[Sequence[Any]]:
        for path in self._paths:
            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(_ROWS_PER_BATCH, columns=[column]):
                        yield batch.column(0).to_pylist()
            except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError, OSError) as error:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"'{path}' is damaged, or has other columns than the other files ({reason}): download it again."
                ) from None


def _table_name(path: Path) -> str:
    """Return the name of a file's rows, with the innermost folder that names a split as the start of the last part.

    Other folders, such as configurations, may lie above and below that folder.
    """
    *folders, _ = path.parts
    level = next((i for i in reversed(range(len(folders))) if folders[i].lower() in SPLIT_FOLDERS), None)
    if level is None:
        return path.with_suffix("").as_posix()
    return "/".join([*folders[:level], *folders[level + 1 :], f"{folders[level].lower()}-{path.stem}"])


class HubSource(_TableSource):
    """A dataset of the Hugging Face Hub: `hf:user/name[:config][#image_column[,label_column]]`."""

    def __init__(self, text: str) -> None:
        body, _, self._requested = text.removeprefix("hf:").partition("#")
        name, _, config = body.partition(":")
        if not name:
            raise DataError(f"'{text}' names no dataset: write hf:user/name, as in hf:korexyz/celeba-hq-256x256.")
        datasets = optional_import("datasets", "hf", f"'{text}'", library="the package datasets", error=DataError)
        try:
            loaded: Any = datasets.load_dataset(name, config or None)
        except Exception as error:  # errors of several packages and versions
            raise DataError(_hub_message(text, name, error)) from None
        self._tables: dict[str, Any] = dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}
        entries = [(split, len(t), int(str(getattr(t, "_fingerprint", "0")), 16)) for split, t in self._tables.items()]
        super().__init__(text, text, signature_of(entries), [(split, len(t)) for split, t in self._tables.items()])

    def _columns(self) -> _Columns:
        table = next(iter(self._tables.values()))
        schema = table.features.arrow_schema

        def first_value(column: str) -> Any:
            return table.with_format("arrow")[:1].column(column)[0].as_py() if len(table) else None

        return _find_columns(self.text, schema, table.features, self._requested, first_value)

    def _batches(self, column: str) -> Iterator[Sequence[Any]]:
        for table in self._tables.values():
            # In Arrow's format: the library would otherwise decode each image in this process.
            for batch in table.select_columns([column]).with_format("arrow").iter(_ROWS_PER_BATCH):
                yield batch.column(0).to_pylist()


def _hub_message(text: str, name: str, error: Exception) -> str:
    error_type, reason = type(error).__name__, " ".join(str(error).split())
    if "Config name is missing" in reason or "BuilderConfig" in reason:
        return f"'{text}' needs a configuration ({reason[:300]}): write hf:{name}:CONFIG."
    if "NotFound" in error_type or "Gated" in error_type:
        return (
            f"'{text}' is not on the Hugging Face Hub, or is private ({reason[:200]}): check the name and the network, "
            "or log in."
        )
    return (
        f"'{text}' could not be downloaded ({error_type}: {reason[:200]}): connect to the network, or give the path of "
        "local Parquet files."
    )
