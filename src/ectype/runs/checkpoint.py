"""Checkpoints: tensors as safetensors, everything else as JSON, and a manifest of hashes, in an atomic directory.

A checkpoint gets its name only when all of it is on the disk, and older ones are removed only after it was verified.
Whenever the power fails, the newest checkpoint whose manifest matches is complete. No pickle is written or read.

A checkpoint holds everything that training continues from, bit for bit:

- `objective.safetensors`: weights and buffers of all players (`Trainer.tensors` collects the tensors).
- `optimizer-<player>.safetensors`: the state of each player's optimizer.
- `average.safetensors`: the averaged weights, if the recipe has `ema_images`.
- `state.json` (from `TrainingSession._save`): `seen` and `step`; `choices`, the settings that were chosen once (budget,
  interval of checks, micro-batch in use); `micro_batch`, the value that the recipe asked for; `monitor`, the history
  behind early stopping; `fingerprint` of the images; `seconds` of training so far.
- `manifest.json`: a SHA-256 hash of each file.

There is no state of random generators: all draws, and the order of the images, follow from the seed and `seen`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ectype.core.errors import CheckpointError, TrainingError
from ectype.core.files import atomic_directory, read_regular
from ectype.core.safe_loading import load_tensors, path_inside, read_json

__all__ = [
    "checkpoint_dirs",
    "latest",
    "load_json",
    "load_state",
    "load_tensors",
    "prune",
    "save",
    "step_of",
    "verified_directory",
    "verify",
    "write_manifest",
]

MANIFEST = "manifest.json"
STATE = "state.json"
MAX_JSON_BYTES = 64 * 2**20


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_manifest(directory: Path) -> None:
    """Write a file with the SHA-256 of each file of a directory; `verify` compares them."""
    digests = {file.name: _sha256(file) for file in sorted(directory.iterdir()) if file.is_file()}
    (directory / MANIFEST).write_text(json.dumps(digests, indent=1))


@contextlib.contextmanager
def verified_directory(target: Path) -> Iterator[Path]:
    """Yield a directory to fill, which becomes `target` with a manifest on success; see `atomic_directory`.

    Raises:
        TrainingError: The disk is full, or the directory cannot be written.
    """
    try:
        with atomic_directory(target) as scratch:
            yield scratch
            write_manifest(scratch)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(
            f"cannot save '{target}' ({reason}): free some space or give another --out; what was saved before is "
            "intact, and the same command with --resume continues from there."
        ) from None


def save(target: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, unless it exists already and is complete.

    Args:
        target: Its directory.
        tensors: Groups of tensors; each becomes a safetensors file of its name.
        state: Everything else, as JSON.

    Raises:
        TrainingError: The disk is full, or the directory cannot be written.
    """
    if verify(target):
        return
    with verified_directory(target) as scratch:
        for name, group in tensors.items():
            # The format refuses tensors that share memory, as tied weights do: they are copied.
            copies = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in group.items()}
            save_file(copies, scratch / f"{name}.safetensors")
        (scratch / STATE).write_text(json.dumps(state, indent=1, allow_nan=True))


def verify(directory: Path) -> bool:
    """Return whether a directory is complete: every file of its manifest exists and has its hash.

    Raises:
        CheckpointError: The manifest names a file outside of the directory.
    """
    try:
        manifest = read_json(path_inside(directory, MANIFEST))
    except CheckpointError:
        return False
    files = [(path_inside(directory, name), digest) for name, digest in manifest.items()]
    try:
        return all(file.is_file() and _sha256(file) == digest for file, digest in files)
    except OSError:
        return False


def step_of(directory: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(directory.name.removeprefix("step-"))


def checkpoint_dirs(parent: Path) -> list[Path]:
    """Return the checkpoints in a directory, oldest first, complete or not."""
    return sorted((path for path in parent.glob("step-*") if path.name.removeprefix("step-").isdigit()), key=step_of)


def latest(parent: Path) -> Path | None:
    """Return the newest complete checkpoint in a directory."""
    return next((path for path in reversed(checkpoint_dirs(parent)) if verify(path)), None)


def load_state(directory: Path) -> dict[str, Any]:
    """Return what a checkpoint contains in addition to its tensors.

    Raises:
        CheckpointError: The file is missing, damaged, or has another form.
    """
    state = load_json(directory / STATE)
    if not (isinstance(state.get("seen"), int) and isinstance(state.get("step"), int)):
        raise CheckpointError(f"'{directory / STATE}' does not say how many images and steps it is of: restore it.")
    return state


def load_json(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file that Ectype has written.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        content = json.loads(read_regular(file, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"'{file}' cannot be read ({reason}): it is missing or damaged.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"'{file}' cannot be read (it is not a JSON object): it is damaged.")
    return content


def prune(parent: Path, *, last: int, kept: Collection[int], every: int | None) -> None:
    """Remove the checkpoints that are not to be kept.

    Args:
        parent: The directory of all checkpoints.
        last: Keep this many of the newest ones that are complete.
        kept: Keep the checkpoints of these steps.
        every: Keep the first checkpoint of every period of this many images.
    """
    found = checkpoint_dirs(parent)
    kept = {step_of(path) for path in islice(filter(verify, reversed(found)), last)} | set(kept)
    if every is not None:
        first: dict[int, int] = {}
        for path in found:
            with contextlib.suppress(CheckpointError):
                first.setdefault(math.floor(load_state(path)["seen"] / every), step_of(path))
        kept |= {step for period, step in first.items() if period > 0}
    for path in found:
        if step_of(path) not in kept:
            shutil.rmtree(path, ignore_errors=True)
