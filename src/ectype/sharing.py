"""Handing on what a run has made: graphs for other programs, a folder, or a model on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ectype.errors import ModelError, did_you_mean
from ectype.measure.view import RunView
from ectype.models.base import Encodes, Model
from ectype.report.words import density, summary
from ectype.results import view
from ectype.share import hub
from ectype.share.export import export as write_graphs
from ectype.share.folder import stage
from ectype.training.rundir import RunDir

__all__ = ["export", "push"]

TARGETS = ("onnx", "openvino", "safetensors", "diffusers")
TRIED = 8
"""Held-out images that graphs are tried on."""


def export(run: str | Path, to: str, out: str | Path, *, license: str | None = None) -> list[str]:
    """Write a run's model for other programs.

    Args:
        run: A run's directory: exports are tried on its held-out images.
        to: `onnx` or `openvino`: graphs; `safetensors`: a folder that `ectype.load` reads, with a card; `diffusers`: a
            folder that diffusers loads.
        out: A folder: new, empty, or of an earlier export.
        license: For the card, such as `apache-2.0`.

    Returns:
        Lines to print.

    Raises:
        RunError: No such run.
        ModelError: A library is missing, or an export differs from the model by more than it may.
    """
    if to not in TARGETS:
        raise ModelError(f"no export to '{to}'; {did_you_mean(to, TARGETS)}")
    seen, place = view(RunDir.existing(run), device="cpu"), Path(out)
    model = seen.model
    assert isinstance(model, Model)
    if to == "safetensors":
        files = stage(seen, place, place.name, _said(seen), license)
        return [f"{len(files)} files → {place}; ectype.load('{place}') reads them"]
    images = seen.images(seen.chosen(TRIED, "export"))
    if to == "diffusers":
        # Torch's own exports need none of it.
        return import_module("ectype.share.diffusers").export(model, place, images)
    with torch.no_grad():
        return write_graphs(model, "onnx" if to == "onnx" else "openvino", place, images, preset=seen.recipe.about.name)


def push(
    run: str | Path, name: str, *, private: bool = False, license: str | None = None, local: str | Path | None = None
) -> str:
    """Put a run's model on the Hub, with a card made from the run.

    Args:
        run: A run's directory.
        name: `user/name`.
        private: Whether only its owner sees it.
        license: For the card, such as `apache-2.0`.
        local: A folder to put it into instead, laid out as the Hub's cache: `HF_HUB_CACHE` of whoever loads it by name.

    Returns:
        A line to print.

    Raises:
        RunError: No such run, a name that cannot be, no network, or no token that may write.
        ModelError: A library is missing.
    """
    hub.valid(name)
    seen = view(RunDir.existing(run), device="cpu")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stage(seen, folder, name, _said(seen), license)
        if local is not None:
            place = hub.push_local(folder, name, Path(local))
            return f"{name} → {place}; HF_HUB_CACHE={local} HF_HUB_OFFLINE=1 loads it by name"
        return f"{name} → {hub.push(folder, name, private=private)}; ectype.load('{name}') loads it"


def _said(seen: RunView) -> Sequence[str]:
    kind = density(seen.evaluation.density, encodes=isinstance(seen.model, Encodes))
    return [*summary(seen.evaluation, seen.info), kind]
