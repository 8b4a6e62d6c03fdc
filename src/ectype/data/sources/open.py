"""The factory of sources: opens the `Source` for what the user wrote.

The libraries that a kind of source needs are imported when a source of that kind is opened.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from ectype.core.errors import DataError, did_you_mean
from ectype.data.sources.base import IMAGE_SUFFIXES, Source
from ectype.data.sources.folder import FolderSource
from ectype.data.sources.walk import check_path_given, check_regular_file, path_exists

__all__ = ["open_source"]

MAX_SCANNED_NAMES = 1000
"""Names in a folder that are compared with a misspelled one."""
_COMMON_FORMATS = "JPEG, PNG, WebP, TIFF, GIF or BMP"


def open_source(text: str, *, zip_encoding: str | None = None) -> Source:
    """Open a source of images.

    Args:
        text: `digits` (built in), `hf:user/name[:config]`, `torchvision:Name`, `memory:…` (images registered from
            Python), or the path of a folder, a zip or tar, an IDX file or a folder of them, an `.npz`, `.npy` or
            `.parquet` file, or a folder of Parquet files. For tables, `#image_column[,label_column]` may be appended.
        zip_encoding: The encoding of names in a zip file that are not marked as UTF-8; see `DataConfig`.

    Raises:
        DataError: The path does not exist, or holds nothing that can be read as images.
    """
    if text == "digits":
        from ectype.data.sources.builtin import digits

        return digits()
    if text.startswith("hf:"):
        from ectype.data.sources.parquet import HubSource

        return HubSource(text)
    if text.startswith("torchvision:"):
        from ectype.data.sources.builtin import TorchvisionSource

        return TorchvisionSource(text)
    if text.startswith("memory:"):
        from ectype.data.sources.memory import MemorySource

        return MemorySource(text)
    check_path_given(text)
    path = Path(text).expanduser()
    columns = ""
    if not path_exists(path) and "#" in text:
        without_columns, _, columns = text.rpartition("#")
        path = Path(without_columns).expanduser()
    if not path_exists(path):
        raise DataError(_missing_message(text, path))
    check_regular_file(path)
    if path.is_dir():
        return _open_folder(text, path, columns)
    return _open_file(text, path, columns, zip_encoding)


def _missing_message(text: str, path: Path) -> str:
    parent = path.parent
    if not path_exists(parent) or not parent.is_dir():
        return f"no images at '{text}': there is no folder '{parent}' either; check the path."
    try:
        entries = itertools.islice(os.scandir(parent), MAX_SCANNED_NAMES)
        options = [entry.name for entry in entries if not entry.name.startswith(".")]
    except OSError:
        options = []
    hint = did_you_mean(path.name, [*options, "digits"])
    if not hint.startswith("did"):
        hint = "give a folder, archive or array file, `hf:user/name`, `torchvision:Name`, or `digits`."
    return f"no images at '{text}': there is no such file or folder; {hint}"


def _open_folder(text: str, path: Path, columns: str) -> Source:
    try:
        file_names = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
    except PermissionError:
        raise DataError(f"no permission to read folder '{text}': change its permissions, or move it.") from None
    if any(re.search(r"idx3[-.]?ubyte", name) for name in file_names):
        from ectype.data.sources.idx import open_idx

        return open_idx(text, path)
    source = FolderSource(text, path)
    if not source.names and source.skipped[".parquet"]:
        from ectype.data.sources.parquet import ParquetSource

        return ParquetSource(text, path, columns)
    if not source.names and not source.refused:
        suffixes = ", ".join(f"{count} {suffix}" for suffix, count in source.skipped.most_common(3))
        found = f"contains only other files ({suffixes})" if suffixes else "is empty"
        raise DataError(f"no images in '{text}': the folder {found}; give a folder of {_COMMON_FORMATS} files.")
    return source


def _open_file(text: str, path: Path, columns: str, zip_encoding: str | None) -> Source:
    if not path.is_file():  # a pipe would be waited for, a device read without end
        raise DataError(f"'{text}' is neither a folder nor a regular file: copy the images to one.")
    name = path.name.lower()
    if name.endswith(".zip"):
        from ectype.data.sources.archive import ZipSource

        return ZipSource(text, path, zip_encoding)
    if re.search(r"\.(tar(\.(gz|bz2|xz))?|tgz|tbz2?|txz)$", name):
        from ectype.data.sources.archive import TarSource

        return TarSource(text, path)
    if name.endswith((".npz", ".npy")):
        from ectype.data.sources.npy import open_numpy

        return open_numpy(text, path)
    if name.endswith(".parquet"):
        from ectype.data.sources.parquet import ParquetSource

        return ParquetSource(text, path, columns)
    if re.search(r"idx[13][-.]?ubyte", name):
        from ectype.data.sources.idx import open_idx

        return open_idx(text, path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError(f"'{text}' is a single image: give a folder of images.")
    raise DataError(
        f"'{text}' is not a supported file type: give a folder, .zip, .tar, .npz, .npy, .parquet or IDX file."
    )
