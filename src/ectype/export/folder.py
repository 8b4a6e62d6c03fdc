"""A folder with everything about a model: what `ectype.load` reads, and what people read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ectype.analysis.run_view import RunView
from ectype.export.card import model_card, pictures, without_local_paths
from ectype.export.export import staged_folder
from ectype.export.preprocessing import preprocessing_of
from ectype.runs.checkpoint import MANIFEST, write_manifest

__all__ = ["fill_export_folder", "write_export_folder"]


def write_export_folder(
    view: RunView, out: Path, name: str, summary: Sequence[str], license: str | None = None
) -> list[Path]:
    """Write a model's weights, densities, recipe, metrics, pictures and card into a folder.

    Args:
        view: The run.
        out: A folder that is new, empty, or contains an earlier model.
        name: What the model is loaded by, for the card.
        summary: What the metrics say, in sentences.
        license: See `model_card`.

    Returns:
        The files.

    Raises:
        ModelError: The folder contains other files, or cannot be written.
    """
    with staged_folder(out) as scratch:
        names = fill_export_folder(view, scratch, name, summary, license)
    return [out / each for each in names]


def fill_export_folder(
    view: RunView, folder: Path, name: str, summary: Sequence[str], license: str | None = None
) -> list[str]:
    """Write these files into an empty folder, and return their names; see `write_export_folder`."""
    for file in view.run.model.iterdir():
        if file.name != MANIFEST and file.suffix in (".json", ".safetensors"):
            shutil.copyfile(file, folder / file.name)
    recipe = without_local_paths(view.recipe)
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1, ensure_ascii=False), encoding="utf-8")
    write_manifest(folder)  # of what is loaded; the files below are for people
    (folder / "evaluation.json").write_text(view.evaluation.to_json(), encoding="utf-8")
    text = json.dumps(preprocessing_of(view.info, view.recipe.data), indent=1, ensure_ascii=False)
    (folder / "preprocessing.json").write_text(text, encoding="utf-8")
    found = pictures(view)
    for file, (picture, _) in found.items():
        picture.save(folder / file)
    captions = {file: caption for file, (_, caption) in found.items()}
    (folder / "README.md").write_text(model_card(view, name, summary, captions, license), encoding="utf-8")
    return sorted(file.name for file in folder.iterdir())
