"""Files of codes: Parquet files, NumPy archives or CSV with paths, labels, splits and codes."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from ectype.core.errors import DataError
from ectype.core.escape import write_csv
from ectype.data.preview import writing_file
from ectype.data.sources.walk import check_regular_file

__all__ = ["read_codes", "write_codes"]


def write_codes(
    out: Path, paths: Sequence[str], labels: Sequence[str | None], splits: Sequence[str], code: Tensor
) -> None:
    """Write codes to a `.parquet` file, with the shape of a code in its metadata, to an `.npz` or to a `.csv` file.

    CSV has one column for each dimension, z0, z1, …; the others keep a code together.

    Args:
        out: The file.
        paths: [n] path of each image.
        labels: [n] class name of each image, None for images without one.
        splits: [n] split of each image.
        code: [n, *shape of a code].

    Raises:
        DataError: The file cannot be written.
    """
    if out.suffix.lower() == ".csv":
        flat = code.flatten(1).tolist()
        headings = ["path", "label", "split", *(f"z{i}" for i in range(code.flatten(1).shape[1]))]
        rows = ([*texts, *values] for *texts, values in zip(paths, labels, splits, flat, strict=True))
        with writing_file(out) as scratch, scratch.open("w", newline="", encoding="utf-8") as target:
            write_csv(target, chain([headings], rows))
        return
    with writing_file(out) as scratch, scratch.open("wb") as file:
        if out.suffix.lower() == ".npz":
            label = np.array([label or "" for label in labels])
            np.savez_compressed(file, path=np.array(paths), label=label, split=np.array(splits), code=code.numpy())
        else:
            _write_parquet(file, paths, labels, splits, code)


def _write_parquet(
    out: IO[bytes], paths: Sequence[str], labels: Sequence[str | None], splits: Sequence[str], code: Tensor
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = code.flatten(1).numpy()
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    # Parquet stores valid UTF-8 only, which the bytes of a file name need not be.
    valid_paths = [path.encode(errors="surrogateescape").decode(errors="replace") for path in paths]
    label = pa.array(labels, type=pa.string())
    table = pa.table({"path": valid_paths, "label": label, "split": splits, "code": column})
    shape = ",".join(map(str, code.shape[1:]))
    pq.write_table(table.replace_schema_metadata({"ectype.code_shape": shape}), out)


def read_codes(file: Path) -> tuple[list[str], np.ndarray]:
    """Read paths and codes from a file that `write_codes` wrote, or from any file with a column or array `code`, or
    columns z0, z1, … in CSV.

    Returns:
        The paths, or row numbers if the file has no paths; and the codes [n, d] or [n, *shape of a code].

    Raises:
        DataError: The file has no codes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    check_regular_file(file)
    try:
        if file.suffix.lower() == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                code = archive["code"]
                names = archive["path"] if "path" in archive else range(len(code))
        elif file.suffix.lower() == ".csv":
            table = csv.read_csv(file)
            columns = [name for name in table.column_names if re.fullmatch(r"z\d+", name)]
            code = np.stack([table.column(name).to_numpy() for name in columns], axis=1)
            names = table.column("path").to_pylist() if "path" in table.column_names else range(len(code))
        else:
            table = pq.read_table(file)
            column = table.column("code").combine_chunks()
            code = np.stack(column.to_numpy(zero_copy_only=False)) if len(column) else np.zeros((0, 0))
            names = table.column("path").to_pylist() if "path" in table.column_names else range(len(code))
        paths = [str(name) for name in names]
        if code.ndim < 2 or code.dtype.kind not in "iuf":
            raise ValueError(f"its column code has type {code.dtype} and shape {list(code.shape)}")
        if len(paths) != len(code):
            raise ValueError(f"it has {len(paths)} paths but {len(code)} codes")
        if not np.isfinite(code).all():
            raise ValueError("it holds codes that are NaN or infinite")
        return paths, code
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot read codes from '{file}' ({reason}): use a file written by `ectype encode`.") from None
