"""Files of codes: Parquet or NumPy archives of paths, labels, splits and codes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from ectype.data.preview import writing
from ectype.errors import DataError

__all__ = ["read_codes", "write_codes"]


def write_codes(
    out: Path, paths: Sequence[str], labels: Sequence[str | None], splits: Sequence[str], code: Tensor
) -> None:
    """Write codes [n, *code] as `.parquet`, with a code's shape in the metadata, or `.npz`.

    Raises:
        DataError: It cannot be written.
    """
    with writing(out), out.open("wb") as file:
        if out.suffix.lower() == ".npz":
            named = np.array([label or "" for label in labels])
            np.savez_compressed(file, path=np.array(paths), label=named, split=np.array(splits), code=code.numpy())
        else:
            _write_parquet(file, paths, labels, splits, code)


def _write_parquet(
    out: IO[bytes], paths: Sequence[str], labels: Sequence[str | None], splits: Sequence[str], code: Tensor
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = code.flatten(1).numpy()
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    names = pa.array(labels, type=pa.string())
    # A name that is no UTF-8 has no place in such a file as it is.
    plain = [path.encode(errors="surrogateescape").decode(errors="replace") for path in paths]
    table = pa.table({"path": plain, "label": names, "split": splits, "code": column})
    shape = ",".join(map(str, code.shape[1:]))
    pq.write_table(table.replace_schema_metadata({"ectype.code_shape": shape}), out)


def read_codes(file: Path) -> tuple[list[str], np.ndarray]:
    """Paths and codes [n, d] or [n, *code]; numbers as paths where there are none. Only `code` is needed.

    Raises:
        DataError: It holds no codes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix.lower() == ".npz":
            with np.load(file, allow_pickle=False) as held:
                code = held["code"]
                names = held["path"] if "path" in held else range(len(code))
        else:
            table = pq.read_table(file)
            column = table.column("code").combine_chunks()
            code = np.stack(column.to_numpy(zero_copy_only=False)) if len(column) else np.zeros((0, 0))
            names = table.column("path").to_pylist() if "path" in table.column_names else range(len(code))
        paths = [str(name) for name in names]
        if code.ndim < 2 or code.dtype.kind not in "iuf":
            raise ValueError(f"its column code is {code.dtype} of shape {list(code.shape)}")
        if len(paths) != len(code):
            raise ValueError(f"{len(paths)} paths beside {len(code)} codes")
        return paths, code
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"'{file}' holds no codes ({reason}): give a file that `ectype encode` wrote.") from None
