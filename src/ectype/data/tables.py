"""Images in Parquet files, local or from the Hugging Face Hub: encoded images in a column, labels in another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ectype.data.names import Numbered
from ectype.data.raw import Raw, Unreadable
from ectype.data.sources import MAGIC, NONE, SPLITS, Listing, Source, natural, signature_of
from ectype.errors import DataError, did_you_mean

__all__ = ["HubSource", "ParquetSource"]

_BATCH = 256
_LABEL_NAMES = ("label", "labels", "class", "target")


class _Columns(NamedTuple):
    image: str
    label: str | None = None
    classes: tuple[str, ...] | None = None


def _choose(text: str, what: str, options: Sequence[str], wanted: str, names: Sequence[str]) -> str | None:
    """The one column of a kind, or the one asked for."""
    if wanted:
        if wanted not in names:
            raise DataError(f"no column '{wanted}' in '{text}'; {did_you_mean(wanted, names)}")
        return wanted
    if len(options) > 1:
        raise DataError(
            f"'{text}' has several {what} columns ({', '.join(options)}): choose by #image_column,label_column "
            "behind it."
        )
    return options[0] if options else None


def _find_columns(text: str, schema: pa.Schema, features: Mapping[str, Any], wanted: str, first: Any) -> _Columns:
    """Which columns hold images and labels.

    Hugging Face's own description decides where there is one. Else an image is a struct with `bytes`, or binary that
    begins as an image does; a label is a column of whole numbers or text that is called so.
    """
    want_image, _, want_label = wanted.partition(",")
    images = [name for name in schema.names if _kind(features, name) == "Image"]
    if not images:
        for field in schema:
            if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
                images.append(field.name)
            elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
                value = first(field.name)
                if value and MAGIC.match(value[:16]):
                    images.append(field.name)
    image = _choose(text, "image", images, want_image, schema.names)
    if image is None:
        raise DataError(f"no column of images in '{text}' (it has {', '.join(schema.names)}): name one behind #.")
    labels = [name for name in schema.names if _kind(features, name) == "ClassLabel"]
    if not labels:
        labels = [field.name for field in schema if field.name.lower() in _LABEL_NAMES and _countable(field.type)]
    label = _choose(text, "label", labels, want_label, schema.names)
    names = _names(features, label) if label else None
    return _Columns(image, label, tuple(names) if names else None)


def _countable(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _kind(features: Mapping[str, Any], name: str) -> str:
    feature = features.get(name)
    return feature.get("_type", "") if isinstance(feature, Mapping) else type(feature).__name__


def _names(features: Mapping[str, Any], name: str) -> Sequence[str] | None:
    feature = features.get(name)
    return feature.get("names") if isinstance(feature, Mapping) else getattr(feature, "names", None)


def _content(value: Any) -> Raw:
    """An image cell: a struct of bytes and path, or plain bytes."""
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        return (
            content
            if content is not None
            else str(path)
            if path and Path(path).is_file()
            else Unreadable("missing in the table")
        )
    return value if value is not None else Unreadable("missing in the table")


class _TableSource(Source):
    """Images in tables that are read in batches; subclasses say where the batches come from."""

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
        names = Numbered(self._counts)
        if not len(names):
            raise DataError(f"no images in '{self.text}': it has no rows.")
        codes = [SPLITS.get(name.lower().split("/")[-1].split("-")[0], NONE) for name, _ in self._counts]
        sides = np.concatenate([np.full(rows, c, np.uint8) for c, (_, rows) in zip(codes, self._counts, strict=True)])
        labels, classes = self._labels(columns)
        return Listing(names, sides, labels, classes)

    def _labels(self, columns: _Columns) -> tuple[np.ndarray | None, tuple[str, ...]]:
        if columns.label is None:
            return None, ()
        values = [value for batch in self._batches(columns.label) for value in batch]
        if any(value is None or value == -1 for value in values):  # a test set whose labels are kept secret
            return None, ()
        classes = columns.classes or tuple(sorted({str(value) for value in values}, key=natural))
        if columns.classes is None:
            number = {name: i for i, name in enumerate(classes)}
            values = [number[str(value)] for value in values]
        return (np.asarray(values, np.int32), classes) if len(classes) > 1 else (None, ())

    def read(self) -> Iterator[Raw]:
        for batch in self._batches(self._columns().image):
            yield from map(_content, batch)


class ParquetSource(_TableSource):
    """A Parquet file, or a folder of them whose names (`train-00000-of-00004.parquet`) or folders say the split."""

    def __init__(self, text: str, path: Path, columns: str = "") -> None:
        paths = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        root = path if path.is_dir() else path.parent
        self._wanted = columns
        self._paths = [p for p in paths if not p.name.startswith(".")]
        entries, counts = [], []
        for file in self._paths:
            relative = file.relative_to(root)
            *folders, _ = relative.parts
            # The innermost folder that names a split says it: other folders, such as configurations, may lie around it.
            place = next((i for i in reversed(range(len(folders))) if folders[i].lower() in SPLITS), None)
            if place is None:
                name = relative.with_suffix("").as_posix()
            else:
                around = folders[:place] + folders[place + 1 :]
                name = "/".join([*around, f"{folders[place].lower()}-{relative.stem}"])
            try:
                counts.append((name, pq.read_metadata(file).num_rows))
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(
                    f"'{file}' is no Parquet file ({' '.join(str(error).split())}): fetch it again."
                ) from None
            stat = file.stat()
            entries.append((relative.as_posix(), stat.st_size, stat.st_mtime_ns))
        super().__init__(text, f"{path.resolve()}#{columns}", signature_of(entries), counts)

    def _columns(self) -> _Columns:
        with pq.ParquetFile(self._paths[0]) as file:
            schema = file.schema_arrow
            described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
            features = described.get("info", {}).get("features", {})

            def first(column: str) -> Any:
                rows = next(file.iter_batches(1, columns=[column]), None)
                return rows.column(0)[0].as_py() if rows is not None and rows.num_rows else None

            return _find_columns(self.text, schema, features, self._wanted, first)

    def _batches(self, column: str) -> Iterator[Sequence[Any]]:
        for path in self._paths:
            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(_BATCH, columns=[column]):
                        yield batch.column(0).to_pylist()
            except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError, OSError) as error:
                reason = " ".join(str(error).split())
                raise DataError(f"'{path}' is damaged, or not of one kind with the others ({reason}).") from None


class HubSource(_TableSource):
    """A data set of the Hugging Face Hub: `hf:user/name[:config][#image_column[,label_column]]`."""

    def __init__(self, text: str) -> None:
        body, _, self._wanted = text.removeprefix("hf:").partition("#")
        name, _, config = body.partition(":")
        if not name:
            raise DataError(f"'{text}' names no data set: write hf:user/name, as in hf:korexyz/celeba-hq-256x256.")
        try:
            import datasets
        except ImportError:
            raise DataError(f"'{text}' needs the package datasets: pip install 'ectype[hf]'.") from None
        try:
            loaded: Any = datasets.load_dataset(name, config or None)
        except Exception as error:  # the Hub's own errors, of several packages and versions
            raise DataError(_hub_error(text, name, error)) from None
        self._tables: dict[str, Any] = dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}
        marks = [(split, len(t), int(str(getattr(t, "_fingerprint", "0")), 16)) for split, t in self._tables.items()]
        super().__init__(text, text, signature_of(marks), [(split, len(t)) for split, t in self._tables.items()])

    def _columns(self) -> _Columns:
        table = next(iter(self._tables.values()))
        schema = table.features.arrow_schema

        def first(column: str) -> Any:
            return table.with_format("arrow")[:1].column(column)[0].as_py() if len(table) else None

        return _find_columns(self.text, schema, table.features, self._wanted, first)

    def _batches(self, column: str) -> Iterator[Sequence[Any]]:
        for table in self._tables.values():
            # Arrow's own values: the library would decode each image here, one by one, in this process.
            for batch in table.select_columns([column]).with_format("arrow").iter(_BATCH):
                yield batch.column(0).to_pylist()


def _hub_error(text: str, name: str, error: Exception) -> str:
    kind, reason = type(error).__name__, " ".join(str(error).split())
    if "Config name is missing" in reason or "BuilderConfig" in reason:
        return f"'{text}' needs a configuration ({reason[:300]}): write hf:{name}:CONFIG."
    if "NotFound" in kind or "Gated" in kind:
        return (
            f"'{text}' is not on the Hugging Face Hub, or may not be read ({reason[:200]}): check the name, and the "
            "network; log in if it is private."
        )
    return (
        f"'{text}' could not be fetched ({kind}: {reason[:200]}): connect to the network, "
        "or give the path of Parquet files fetched elsewhere."
    )
