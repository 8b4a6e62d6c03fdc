"""A folder that holds all there is to a model: what `load` reads, and what people read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ectype.measure.view import RunView
from ectype.share.card import card, pictures, public
from ectype.share.export import filled
from ectype.training.checkpoint import MANIFEST, committed

__all__ = ["stage"]


def stage(view: RunView, out: Path, name: str, said: Sequence[str], license: str | None = None) -> list[Path]:
    """Write a model's weights, densities, recipe, figures, pictures and card into a folder.

    Args:
        view: The run.
        out: A folder: new, empty, or of an earlier model.
        name: What the model is loaded by, for the card.
        said: What the figures say, in sentences.
        license: See `card`.

    Returns:
        The files.

    Raises:
        ModelError: The folder holds something else, or cannot be written.
    """
    with filled(out, "recipe.json", out.glob("density-*.safetensors")) as scratch:
        with TemporaryDirectory() as apart:
            with committed(Path(apart) / "model") as place:
                for file in view.run.model.iterdir():
                    if file.name != MANIFEST and file.suffix in (".json", ".safetensors"):
                        shutil.copy2(file, place / file.name)
                plain = public(view.recipe)
                (place / "recipe.json").write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")
            for file in (Path(apart) / "model").iterdir():
                shutil.copy2(file, scratch / file.name)
        (scratch / "evaluation.json").write_text(view.evaluation.to_json(), encoding="utf-8")
        made = pictures(view)
        for file, (picture, _) in made.items():
            picture.save(scratch / file)
        shown = {file: what for file, (_, what) in made.items()}
        (scratch / "README.md").write_text(card(view, name, said, shown, license), encoding="utf-8")
    return sorted(out.iterdir())
