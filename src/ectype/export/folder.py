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

__all__ = ["write_export_folder"]


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
    with staged_folder(out, "recipe.json", out.glob("density-*.safetensors")) as scratch:
        for file in view.run.model.iterdir():
            if file.name != MANIFEST and file.suffix in (".json", ".safetensors"):
                shutil.copy2(file, scratch / file.name)
        recipe = without_local_paths(view.recipe)
        (scratch / "recipe.json").write_text(json.dumps(recipe, indent=1, ensure_ascii=False), encoding="utf-8")
        preprocessing = preprocessing_of(view.info, view.recipe.data)
        write_manifest(scratch)  # of what is loaded; the files below are for people
        (scratch / "evaluation.json").write_text(view.evaluation.to_json(), encoding="utf-8")
        text = json.dumps(preprocessing, indent=1, ensure_ascii=False)
        (scratch / "preprocessing.json").write_text(text, encoding="utf-8")
        found = pictures(view)
        for file, (picture, _) in found.items():
            picture.save(scratch / file)
        captions = {file: caption for file, (_, caption) in found.items()}
        (scratch / "README.md").write_text(model_card(view, name, summary, captions, license), encoding="utf-8")
    return sorted(out.iterdir())
