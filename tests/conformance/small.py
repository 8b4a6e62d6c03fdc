"""Any preset at a size that trains in seconds: nothing here knows a preset or a model by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from ectype.config.recipe import Recipe, load_recipe

DEVICE = os.environ.get("ECTYPE_TEST_DEVICE", "cpu")
"""Where presets are trained: `cuda` has the whole suite run on a GPU, as it runs here."""
SIZE = 16
REDUCED = {"width": 8, "max_width": 16, "steps": 4}


def _leaves(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _narrowed(widths: Any, most: int = 64) -> Any:
    return [_narrowed(each, most) for each in widths] if isinstance(widths, list) else min(widths, most)


@cache
def _halves(pairs: str) -> Path:
    """The built-in digits, each beside its mask or its negative in one file."""
    folder = Path(mkdtemp(prefix=f"digits-{pairs}-"))
    for place, digit in enumerate(load_digits().images):
        image = np.rint(digit * 255 / 16).astype(np.uint8).repeat(2, 0).repeat(2, 1)
        partner = 255 * (image > 127).astype(np.uint8) if pairs == "masks" else 255 - image
        Image.fromarray(np.concatenate([image, partner], 1)).save(folder / f"{place:04d}.png")
    return folder


def small(name: str, **changes: Any) -> Recipe:
    """The preset on the built-in digits, narrow, with a check every few steps."""
    recipe = load_recipe(name)
    narrow: dict[str, Any] = {}
    for path, value in _leaves(recipe.plain()):
        key = path.rsplit(".", 1)[-1]
        if path.startswith("model.") and key in REDUCED:
            narrow[path] = min(value, REDUCED[key])
        elif path.startswith("model.") and key.endswith("hidden") and value:
            narrow[path] = _narrowed(value)
        elif path.startswith("model.") and key.endswith("channels") and isinstance(value, list):
            narrow[path] = _narrowed(value, REDUCED["max_width"])
        elif path == "objective.network":
            narrow[path] = (
                "EfficientNet-Lite0"  # whatever else is at hand here: losses are compared with those of before
            )
    pairs = recipe.data.pairs
    fixed = {
        "data.source": "digits" if pairs == "none" else str(_halves(pairs)),
        "data.input": None if pairs == "none" else "left",
        "data.size": SIZE,
        "data.split.duplicates": "ignore",  # the splits that the golden losses were computed with
        "train.images": 3200,
        "train.batch": 32,
        "train.ema_images": min(recipe.train.ema_images, 320),
        "monitor.every": 640,
        "monitor.patience": None,
        "monitor.on_collapse": "warn",
        "monitor.images": 500,
        "train.prior": "none",  # a further run, which tests/training/test_prior.py trains
        "run.pictures": 4,
        "run.device": DEVICE,
        "train.deterministic": DEVICE != "cpu",
    }
    if hasattr(recipe.model, "coder"):  # its steps cost next to nothing, and a game needs more of them
        fixed |= {"train.images": 12_800, "monitor.every": 2560}
    return recipe.override({**narrow, **fixed, **changes})
