"""Export the model of a run: as graphs for other programs, as a folder, or to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ectype.analysis.open_view import open_view
from ectype.analysis.report.summary_text import describe_density, summary_text
from ectype.analysis.run_view import RunView
from ectype.core.errors import ModelError, did_you_mean
from ectype.export import hub
from ectype.export.export import check_folder
from ectype.export.export import export as write_graphs
from ectype.export.folder import fill_export_folder, write_export_folder
from ectype.export.preprocessing import held_out_scores, preprocessing_of
from ectype.models.base import Encodes, Model
from ectype.runs.run_dir import RunDir

__all__ = ["export", "push"]

TARGETS = ("onnx", "openvino", "safetensors", "diffusers")
NUM_TEST_IMAGES = 8
"""Number of held-out images on which exported graphs are compared with the model."""


def export(run: str | Path, to: str, out: str | Path, *, license: str | None = None) -> list[str]:
    """Write a run's model for other programs.

    Args:
        run: Directory of a run; exports are compared with the model on its held-out images.
        to: `onnx` or `openvino`: graphs; `safetensors`: a folder that `ectype.load` reads, with a model card;
            `diffusers`: a folder that diffusers loads.
        out: A folder that is new, empty, or contains an earlier export.
        license: License for the model card, such as `apache-2.0`.

    Returns:
        Lines to print.

    Raises:
        RunError: There is no such run.
        ModelError: A library is missing, or the export differs from the model by more than the tolerance.
    """
    if to not in TARGETS:
        raise ModelError(f"no export to '{to}'; {did_you_mean(to, TARGETS)}")
    source, folder = RunDir.existing(run), Path(out)
    check_folder(folder)
    view = open_view(source, device="cpu")
    model = view.model
    assert isinstance(model, Model)
    if to == "safetensors":
        files = write_export_folder(view, folder, folder.name, _summary(view), license)
        return [f"{len(files)} files → {folder}; load them with ectype.load('{folder}')"]
    images = view.images(view.chosen(NUM_TEST_IMAGES, "export"))
    if to == "diffusers":
        # Imported here, since the other exports do not need it.
        return import_module("ectype.export.diffusers").export(
            model, folder, images, preprocessing=preprocessing_of(view.info, view.recipe.data, (-1.0, 1.0))
        )
    engine = "onnx" if to == "onnx" else "openvino"
    preprocessing = preprocessing_of(view.info, view.recipe.data)
    with torch.no_grad():
        scores = held_out_scores(view)
        name = view.recipe.about.name
        return write_graphs(model, engine, folder, images, preset=name, preprocessing=preprocessing, scores=scores)


def push(
    run: str | Path, name: str, *, private: bool = False, license: str | None = None, local: str | Path | None = None
) -> str:
    """Upload a run's model to the Hugging Face Hub, with a model card.

    Args:
        run: Directory of a run.
        name: `user/name`.
        private: Whether only its owner can see it.
        license: License for the model card, such as `apache-2.0`.
        local: Write it into this folder instead, in the layout of the Hub's cache. With `HF_HUB_CACHE` set to this
            folder, the model is loaded by its name.

    Returns:
        A line to print.

    Raises:
        RunError: There is no such run, the name is not valid, or there is no network or no token with write access.
        ModelError: The Hub's library is missing.
    """
    hub.check_repo_name(name)
    view = open_view(RunDir.existing(run), device="cpu")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fill_export_folder(view, folder, name, _summary(view), license)
        if local is not None:
            place = hub.push_local(folder, name, Path(local))
            return f"{name} → {place}; with HF_HUB_CACHE={local} HF_HUB_OFFLINE=1 it is loaded by name"
        return f"{name} → {hub.push(folder, name, private=private)}; load it with ectype.load('{name}')"


def _summary(view: RunView) -> Sequence[str]:
    """Return sentences about the metrics and the density of a model."""
    density = describe_density(view.evaluation.density, encodes=isinstance(view.model, Encodes))
    return [*summary_text(view.evaluation, view.info), density]
