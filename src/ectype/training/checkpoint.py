"""Checkpoints: tensors as safetensors, everything else as JSON, a manifest of hashes, and a rename that commits them.

A checkpoint is written beside its place, flushed to the disk, and only then given its name; older ones go after that.
Whatever moment the power fails at, the newest checkpoint whose manifest verifies is whole. There is no pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ectype.errors import CheckpointError, TrainingError
from ectype.untrusted import inside, load_tensors, read_json

__all__ = [
    "committed",
    "latest",
    "load_json",
    "load_state",
    "load_tensors",
    "places",
    "prune",
    "save",
    "step_of",
    "verify",
]

MANIFEST = "manifest.json"
STATE = "state.json"


def _flush(path: Path) -> None:
    """Have a file, or a directory's list of names, reach the disk; Windows cannot open directories for that."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def committed(target: Path) -> Iterator[Path]:
    """A directory to fill that gets its name only when all of it is on the disk.

    Raises:
        TrainingError: There is no room, or it may not be written; what was there before stays.
    """
    scratch = target.with_name(f"{target.name}.tmp")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        files = [path for path in sorted(scratch.iterdir()) if path.is_file()]
        for path in files:
            _flush(path)
        manifest = scratch / MANIFEST
        manifest.write_text(json.dumps({path.name: _digest(path) for path in files}, indent=1))
        _flush(manifest)
        _flush(scratch)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
        _flush(target.parent)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise TrainingError(
            f"cannot save '{target}' ({error.strerror or error}): make room or give another --out; "
            "what was saved before is intact, and the same command with --resume goes on from there."
        ) from None
    except SafetensorError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise TrainingError(
            f"cannot save '{target}' ({error}): make room; what was saved before is intact, "
            "and the same command with --resume goes on from there."
        ) from None
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def save(target: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Commit one checkpoint: a safetensors file per name, and the state as JSON.

    Raises:
        TrainingError: See `committed`.
    """
    with committed(target) as scratch:
        for name, group in tensors.items():
            # Copies: the format refuses tensors that share memory, as tied weights do.
            held = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in group.items()}
            save_file(held, scratch / f"{name}.safetensors")
        (scratch / STATE).write_text(json.dumps(state, indent=1, allow_nan=True))


def verify(place: Path) -> bool:
    """Whether a checkpoint is whole: every file of its manifest there, with its hash.

    Raises:
        CheckpointError: The manifest names a file outside of the checkpoint.
    """
    try:
        manifest = read_json(inside(place, MANIFEST))
    except CheckpointError:
        return False
    files = [(inside(place, name), digest) for name, digest in manifest.items()]
    try:
        return all(file.is_file() and _digest(file) == digest for file, digest in files)
    except OSError:
        return False


def step_of(place: Path) -> int:
    """The step in a checkpoint's name."""
    return int(place.name.removeprefix("step-"))


def places(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest first, whole or not."""
    return sorted((path for path in directory.glob("step-*") if path.name.removeprefix("step-").isdigit()), key=step_of)


def latest(directory: Path) -> Path | None:
    """The newest whole checkpoint."""
    return next((place for place in reversed(places(directory)) if verify(place)), None)


def load_state(place: Path) -> dict[str, Any]:
    """What a checkpoint says beside its tensors."""
    return load_json(place / STATE)


def load_json(file: Path) -> dict[str, Any]:
    """A file of JSON, as it was written."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{file}' cannot be read ({error}): it is missing or damaged.") from None


def prune(directory: Path, *, last: int, kept: Collection[int], every: int | None) -> None:
    """Remove checkpoints that the keep policy does not name.

    Args:
        directory: Where they are.
        last: Keep so many of the newest.
        kept: Keep those of these steps.
        every: Keep the first in each so many images.
    """
    found = places(directory)
    kept = {step_of(place) for place in found[-last:]} | set(kept)
    if every is not None:
        first: dict[int, int] = {}
        for place in found:
            with contextlib.suppress(CheckpointError):
                first.setdefault(math.floor(load_state(place)["seen"] / every), step_of(place))
        kept |= {step for period, step in first.items() if period > 0}
    for place in found:
        if step_of(place) not in kept:
            shutil.rmtree(place, ignore_errors=True)
