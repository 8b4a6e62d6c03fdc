"""Images in IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ectype.core.errors import DataError
from ectype.data.sources.array import (
    DAMAGE_ERRORS,
    MAX_DEFLATE_RATIO,
    ArrayPart,
    ArraySource,
    BinaryFile,
    block_reader,
    check_promised_size,
    split_id_from_name,
)
from ectype.data.sources.base import TEST, UNASSIGNED, signature_of_files

__all__ = ["open_idx"]


def open_idx(text: str, path: Path) -> ArraySource:
    """Open an IDX file of images, or a folder of them. Label files are found next to them.

    Args:
        text: The source as the user wrote it.
        path: The file or folder.

    Raises:
        DataError: The folder has no images, a file is damaged, or the number of labels does not match.
    """
    if path.is_dir():
        found = sorted(file for file in path.glob("[!.]*idx[34]*ubyte*") if file.is_file())
        # MNIST is often unpacked next to its archives: only one of the two is read.
        paths = [p for p in found if not (p.suffix == ".gz" and p.with_suffix("") in found)]
    elif "idx1" in path.name:
        raise DataError(f"'{text}' holds labels: give the file of images next to it, or their folder.")
    else:
        paths = [path]
    paths.sort(key=lambda p: split_id_from_name(p.name) or TEST + 1)
    split_ids = [split_id_from_name(p.name) if len(paths) > 1 else UNASSIGNED for p in paths]
    parts = [_part(p, split_id) for p, split_id in zip(paths, split_ids, strict=True)]
    files = [*paths, *filter(None, map(_label_path, paths))]
    return ArraySource(text, str(path.resolve()), signature_of_files(files), parts)


def _open_file(path: Path) -> BinaryFile:
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else open(path, "rb")


def _shape(path: Path) -> tuple[int, ...]:
    """Read the shape of the array in an IDX file of bytes."""
    try:
        with _open_file(path) as file:
            magic = file.read(4)
            if len(magic) == 4 and magic[:3] == b"\0\0\x08" and magic[3] in (1, 3, 4):
                sizes = file.read(4 * magic[3])
                if len(sizes) == 4 * magic[3]:
                    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
                    ratio = MAX_DEFLATE_RATIO if isinstance(file, gzip.GzipFile) else 1
                    check_promised_size(shape, np.dtype(np.uint8), ratio * path.stat().st_size)
                    return shape
    except (*DAMAGE_ERRORS, OSError) as error:
        raise DataError(f"IDX file '{path}' is damaged ({error}): download it again.") from None
    raise DataError(f"'{path}' is not an IDX file of bytes: it should begin with 00 00 08; download it again.")


def _part(path: Path, split_id: int) -> ArrayPart:
    shape = _shape(path)
    read_blocks = block_reader(lambda: _open_file(path), 4 + 4 * len(shape), shape, np.dtype(np.uint8))
    stem = re.sub(r"[-_.]?images[-_.]?idx\d[-.]?ubyte.*$", "", path.name)
    return ArrayPart(stem or path.name, shape, read_blocks, _labels(path, shape[0]), split_id)


def _label_path(path: Path) -> Path | None:
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    stem = name.removesuffix(".gz")
    options = (stem, stem + ".gz")
    return next((path.with_name(o) for o in options if o != path.name and path.with_name(o).is_file()), None)


def _labels(path: Path, count: int) -> Callable[[], np.ndarray] | None:
    label_path = _label_path(path)
    if label_path is None:
        return None
    (length,) = shape = _shape(label_path)
    if length != count:
        raise DataError(
            f"'{label_path.name}' has {length} labels for {count} images in '{path.name}': download both again."
        )
    read_blocks = block_reader(lambda: _open_file(label_path), 8, shape, np.dtype(np.uint8))
    return lambda: next(read_blocks(max(count, 1)), np.empty(0, np.uint8))
