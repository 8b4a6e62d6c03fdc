"""Checks of files that others have written, before memory is allocated for what they claim to contain.

The directory of a model may come from anyone:

* Files outside of the directory are not opened, and only regular files are.
* JSON is read with limits on its size and depth.
* The headers of tensors are read by safetensors' own parser, which checks them against the size of the file.
* The tensors are compared with those of the model that the JSON describes, which is built on the device `meta` (without
  memory for its tensors) and within limits.

Only if all of them agree, the model is built and its tensors are read.

These checks of the header of tensors are not made by safetensors (0.8) and are made here: `safetensors.safe_open` would
open a pipe or a device; it parses headers of up to 100 MB, which takes many seconds; it accepts types that no model of
ours has (8-bit and 4-bit floats), any number of dimensions, and dimensions of any size next to one of size 0. If a name
occurs twice, the last one counts, for these checks as for `load_tensors`.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ectype.core.errors import CheckpointError, EctypeError, did_you_mean
from ectype.core.meta_device import meta_device

__all__ = [
    "TensorSpec",
    "bounded_build",
    "check_tensors_match",
    "load_tensors",
    "meta_tensors",
    "path_inside",
    "read_header",
    "read_json",
    "regular_file_size",
    "strict_json",
    "tensor_specs",
]

MAX_JSON_BYTES = 2 * 2**20
"""Enough for twenty thousand classes."""
MAX_JSON_DEPTH = 32
MAX_HEADER_BYTES = 16 * 2**20
"""Enough for a hundred thousand tensors."""
MAX_TENSOR_DIMS = 8
MAX_DIM_SIZE = 2**48
MAX_MODEL_ELEMENTS = 2**31
"""Parameters and buffer elements of a model: 8 GiB in float32."""
MAX_MODEL_PARTS = 10_000
"""Modules and tensors of a model."""
MAX_BUILD_SECONDS = 10.0
"""For building a model on the device `meta`; the largest presets take three seconds."""

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


class TensorSpec(NamedTuple):
    """Type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]


# ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def regular_file_size(file: Path) -> int:
    """Return the size of a regular file in bytes.

    Raises:
        CheckpointError: It does not exist, or it is a pipe, a device or a directory, which are never opened.
    """
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"'{file}' cannot be read ({reason}): it is missing or damaged.") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"'{file}' is not a regular file: copy the model again.")
    return status.st_size


def path_inside(directory: Path, name: object) -> Path:
    """Return the path of a file in a directory.

    A link may lead to another file of the directory or, if the directory is a snapshot in the Hub's cache, to the blobs
    of the same repository, but nowhere else.

    Raises:
        CheckpointError: The name is not that of a file directly in the directory, or a link leads outside.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\:\0"):
        raise CheckpointError(f"'{directory}' names the file {str(name)[:80]!r}, which is not directly in it: refused.")
    root = directory.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    try:
        resolved = (directory / name).resolve()
    except (OSError, RuntimeError):  # links that lead to each other
        raise CheckpointError(f"'{directory / name}' is a link to nowhere: copy the model again.") from None
    if resolved.parent not in roots:
        raise CheckpointError(
            f"'{directory / name}' is a link to outside of '{directory}': replace it by the file itself."
        )
    return directory / name


def read_json(file: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; see `strict_json`.

    Raises:
        CheckpointError: The file is missing, damaged or larger than 2 MiB.
    """
    size = regular_file_size(file)
    if size > MAX_JSON_BYTES:
        raise CheckpointError(f"'{file}' has {size:,} bytes, at most {MAX_JSON_BYTES:,} are allowed: refused.")
    try:
        return strict_json(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"'{file}' cannot be read ({reason}): it is damaged, or not a file of Ectype.") from None


def strict_json(raw: bytes) -> dict[str, Any]:
    """Return the mapping in a JSON text that has one meaning only: no key twice, and every number finite.

    Raises:
        ValueError: Not such a text, or lists and mappings are nested more than 32 deep.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {max(names, key=names.count)[:80]!r} occurs twice")
        return mapping

    def finite(text: str) -> float:
        if not math.isfinite(float(text)):
            raise ValueError(f"the number {text[:40]} is not finite")
        return float(text)

    too_deep = f"nested more than {MAX_JSON_DEPTH} deep"
    try:
        mapping = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError(too_deep) from None
    if not isinstance(mapping, dict):
        raise ValueError("not a mapping")
    level: list[Any] = [mapping]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(too_deep)
    return mapping


# ── Tensors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_header(file: Path) -> dict[str, TensorSpec]:
    """Return the types and shapes of the tensors in a safetensors file, without reading the tensors.

    Raises:
        CheckpointError: The file is missing or damaged, or its header is not allowed; see the module's docstring.
    """
    regular_file_size(file)

    def refuse(reason: str) -> NoReturn:
        raise CheckpointError(f"'{file}' cannot be read ({reason}): it is missing or damaged.")

    specs = {}
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
        if length > MAX_HEADER_BYTES:
            refuse(f"a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,} are allowed")
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (not a mapping)
                tensor = opened.get_slice(name)
                dtype, shape = tensor.get_dtype(), tuple(tensor.get_shape())
                if dtype not in DTYPES:
                    refuse(f"{name[:80]!r} has the type {dtype}, which is not supported")
                if len(shape) > MAX_TENSOR_DIMS or max(shape, default=0) >= MAX_DIM_SIZE:
                    refuse(f"{name[:80]!r} has {len(shape)} dimensions, or a size that is not possible")
                specs[name] = TensorSpec(DTYPES[dtype], shape)
    except (OSError, SafetensorError) as error:
        refuse(_short(error))
    return specs


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU. Its header is checked before memory is allocated.

    Raises:
        CheckpointError: See `read_header`.
    """
    read_header(file)
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"'{file}' cannot be read ({_short(error)}): it is missing or damaged.") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def tensor_specs(module: nn.Module) -> dict[str, TensorSpec]:
    """Return the types and shapes of a module's parameters and buffers."""
    return {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in module.state_dict().items()}


def meta_tensors(specs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
    """Return tensors of these types and shapes on the device `meta`, which take no memory."""
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape) in specs.items()}


def check_tensors_match(file: Path, actual: Mapping[str, TensorSpec], expected: Mapping[str, TensorSpec]) -> None:
    """Check that a file contains exactly the expected tensors.

    Args:
        file: The file, for the message.
        actual: The tensors in the file.
        expected: The tensors of the model.

    Raises:
        CheckpointError: A tensor is missing, has another type or shape, or is not expected.
    """

    def refuse(reason: str) -> NoReturn:
        raise CheckpointError(
            f"the weights in '{file.parent}' do not belong to the model that it describes ({reason})."
        )

    for name in expected:
        if name not in actual:
            refuse(f"{name!r} is missing")
        if actual[name] != expected[name]:
            refuse(f"{name!r} is {_describe(actual[name])} and should be {_describe(expected[name])}")
    if extra := next((name for name in actual if name not in expected), None):
        hint = did_you_mean(extra[:80], list(expected)[:1000])
        refuse(f"the model has no tensor {extra[:80]!r}; {hint}"[:300].rstrip("."))


def _describe(spec: TensorSpec) -> str:
    return f"{str(spec.dtype).removeprefix('torch.')} {list(spec.shape)}"


# ── Models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def bounded_build(what: str, error: type[EctypeError] = CheckpointError) -> Iterator[None]:
    """Build modules on the device `meta`, and stop if they become too large for any real model.

    Modules and tensors are counted when they are added to a module, so that a description of a billion layers is
    refused as fast as one of ten thousand.

    Args:
        what: What describes the model, for the message.
        error: The type of error that is raised.

    Raises:
        EctypeError: The model has too many elements or parts, or building it takes too long.
    """
    # The processor time of this thread, because a busy machine is no fault of the model.
    deadline, this_thread = time.thread_time() + MAX_BUILD_SECONDS, threading.get_ident()
    parts = elements = 0

    def count(_: nn.Module, __: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parts, elements
        if threading.get_ident() != this_thread:
            return
        parts += 1
        elements += part.numel() if isinstance(part, Tensor) else 0
        for exceeded, reason in (
            (elements > MAX_MODEL_ELEMENTS, f"of more than {MAX_MODEL_ELEMENTS:,} elements"),
            (parts > MAX_MODEL_PARTS, f"of more than {MAX_MODEL_PARTS:,} parts"),
            (time.thread_time() > deadline, f"that takes more than {MAX_BUILD_SECONDS:g} seconds to build"),
        ):
            if exceeded:
                raise error(f"{what} describes a model {reason}: refused.")

    with ExitStack() as stack:
        for register in (
            hooks.register_module_module_registration_hook,
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
        ):
            stack.callback(register(count).remove)
        stack.enter_context(meta_device())
        yield
