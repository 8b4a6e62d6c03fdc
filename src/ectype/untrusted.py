"""Checks on files that others made, before anything is allocated for what they claim to hold.

A directory with a model may come from anyone. Its JSON is read with a limit on size and depth; the header of its
tensors is compared with the model that the JSON names, built without memory for its numbers and within limits; files
outside of the directory are not looked at. Only what agrees is then built and read.
"""

from __future__ import annotations

import json
import math
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ectype.errors import CheckpointError, did_you_mean

__all__ = [
    "Entry",
    "bounded",
    "check_same",
    "entries_of",
    "header",
    "inside",
    "like",
    "load_tensors",
    "plain_file",
    "read_json",
    "strict_json",
]

JSON = 2 * 2**20
"""Bytes of a description, at most; twenty thousand classes fit."""
DEPTH = 32
"""Lists and mappings inside of each other, at most."""
HEADER = 16 * 2**20
"""Bytes of a header of tensors, at most; a hundred thousand tensors fit."""
AXES = 8
NUMBERS = 2**31
"""Numbers in a model, at most: 8 GiB of float32."""
PARTS = 10_000
"""Modules and tensors in a model, at most."""
SECONDS = 10.0
"""For naming a model's tensors; the largest presets take three of them."""

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class Entry(NamedTuple):
    """What a header says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]


# ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_file(file: Path) -> int:
    """Bytes of a file that is a plain one. Raises `CheckpointError`: a pipe or a device is never opened."""
    try:
        found = file.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"'{file}' cannot be read ({reason}): it is missing or damaged.") from None
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"'{file}' is no plain file: copy the model anew.")
    return found.st_size


def inside(place: Path, name: object) -> Path:
    """A file of a directory by its name.

    A link may lead to another file of the directory or, where the directory is a snapshot in the Hub's cache, to the
    blobs of the same repository, and nowhere else.

    Raises:
        CheckpointError: The name is not that of a file right inside, or a link leads outside.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\:\0"):
        raise CheckpointError(f"'{place}' names the file {str(name)[:80]!r}, which is not right inside of it: refused.")
    root = place.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    try:
        found = (place / name).resolve()
    except (OSError, RuntimeError):  # links that lead to each other
        raise CheckpointError(f"'{place / name}' is a link to nowhere: copy the model anew.") from None
    if found.parent not in roots:
        raise CheckpointError(f"'{place / name}' is a link to outside of '{place}': put the file itself there.")
    return place / name


def read_json(file: Path) -> dict[str, Any]:
    """A description: a mapping, each key once, every number finite.

    Raises:
        CheckpointError: It is none, larger than 2 MiB, or nested more than 32 deep.
    """
    size = plain_file(file)
    if size > JSON:
        raise CheckpointError(f"'{file}' has {size:,} bytes, a description has at most {JSON:,}: it is none of ours.")
    try:
        found = strict_json(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"'{file}' cannot be read ({reason}): it is damaged, or none of ours.") from None
    return found


def strict_json(raw: bytes) -> dict[str, Any]:
    """A mapping from JSON that has one meaning only. Raises `ValueError`."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {max(names, key=names.count)[:80]!r} stands there twice")
        return found

    def finite(text: str) -> float:
        if not math.isfinite(float(text)):
            raise ValueError(f"the number {text[:40]} is not finite")
        return float(text)

    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError(f"nested too deep, {DEPTH} is the most") from None
    if not isinstance(found, dict):
        raise ValueError("it is no mapping")
    level: list[Any] = [found]
    for _ in range(DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"nested too deep, {DEPTH} is the most")
    return found


# ── Tensors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def header(file: Path) -> dict[str, Entry]:
    """What a file of tensors says it holds, read without the tensors themselves.

    The layout is that of https://github.com/huggingface/safetensors: eight bytes with the length of the header, the
    header, then all tensors without gaps to the end of the file.

    Raises:
        CheckpointError: It is none, or it holds other than it says.
    """
    size = plain_file(file)

    def wrong(reason: str) -> NoReturn:
        raise CheckpointError(f"'{file}' cannot be read ({reason}): it is missing or damaged.")

    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 10 or length > size - 8:
                wrong(f"a header of {length:,} bytes in a file of {size:,}")
            if length > HEADER:
                wrong(f"a header of {length:,} bytes, {HEADER:,} is the most")
            said = strict_json(opened.read(length))
    except (OSError, ValueError) as error:
        wrong(str(error).splitlines()[0])
    said.pop("__metadata__", None)
    found, parts = {}, []
    for name, entry in said.items():
        shown = repr(name[:80])
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            wrong(f"{shown} is described by other than dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            wrong(f"{shown} is of the unknown type {str(dtype)[:40]!r}")
        if not _counts(shape) or len(shape) > AXES or not _counts(offsets) or len(offsets) != 2:
            wrong(f"{shown} has no shape of whole numbers, {AXES} at most")
        takes = math.prod(shape) * DTYPES[dtype].itemsize
        if offsets[1] - offsets[0] != takes:
            wrong(f"{shown} takes {takes:,} bytes by its shape and {offsets[1] - offsets[0]:,} by its place")
        parts.append((offsets[0], offsets[1]))
        found[name] = Entry(DTYPES[dtype], tuple(shape))
    end = 0
    for begin, finish in sorted(parts):
        if begin != end:
            wrong("its tensors overlap, or leave gaps")
        end = finish
    if end != size - 8 - length:
        wrong(f"its tensors take {end:,} bytes, and {size - 8 - length:,} are there")
    return found


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**48 for number in value)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, on the CPU; nothing is allocated before its header was checked."""
    header(file)
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"'{file}' cannot be read ({error}): it is missing or damaged.") from None


def entries_of(module: nn.Module) -> dict[str, Entry]:
    """What a header of a module's tensors would say."""
    return {name: Entry(value.dtype, tuple(value.shape)) for name, value in module.state_dict().items()}


def like(entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Tensors as a header describes them that hold no numbers."""
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape) in entries.items()}


def check_same(file: Path, held: Mapping[str, Entry], wanted: Mapping[str, Entry]) -> None:
    """Raise `CheckpointError` unless a file's tensors are those wanted: in name, type and shape, none more or less."""

    def wrong(reason: str) -> NoReturn:
        raise CheckpointError(f"the weights in '{file.parent}' are not of the model that it names ({reason}).")

    for name in wanted:
        if name not in held:
            wrong(f"{name!r} is missing")
        if held[name] != wanted[name]:
            theirs, ours = held[name], wanted[name]
            wrong(f"{name!r} is {_said(theirs)}, and should be {_said(ours)}")
    if more := next((name for name in held if name not in wanted), None):
        wrong(f"nothing is called {more[:80]!r}; {did_you_mean(more[:80], list(wanted)[:1000])}"[:300].rstrip("."))


def _said(entry: Entry) -> str:
    return f"{str(entry.dtype).removeprefix('torch.')} {list(entry.shape)}"


# ── Models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def bounded(place: Path) -> Iterator[None]:
    """Build modules that have shapes and no numbers, and stop where they become absurd.

    Every part that a module is given is counted as it is given, so that a description of a billion layers costs as
    little as that of ten thousand.

    Raises:
        CheckpointError: More parts or numbers than any model has, or more time than naming them takes.
    """
    until, parts, numbers, here = time.monotonic() + SECONDS, 0, 0, threading.get_ident()

    def count(_: nn.Module, __: str, given: nn.Module | Tensor | None) -> None:
        nonlocal parts, numbers
        if threading.get_ident() != here:
            return
        parts += 1
        numbers += given.numel() if isinstance(given, Tensor) else 0
        if numbers > NUMBERS:
            raise CheckpointError(f"'{place}' names a model of more than {NUMBERS:,} numbers: refused.")
        if parts > PARTS or time.monotonic() > until:
            raise CheckpointError(f"'{place}' names a model of more parts than {PARTS:,}: refused.")

    with ExitStack() as stack:
        for register in (
            hooks.register_module_module_registration_hook,
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
        ):
            stack.callback(register(count).remove)
        stack.enter_context(torch.device("meta"))
        yield
