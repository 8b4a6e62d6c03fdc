"""Ectype: from a folder of images to a trained, watched, measured and comparable image model.

>>> import ectype
>>> run = ectype.train("vae", "photos/", {"latent_dim": 32}, out="runs/first")
>>> model = ectype.load("runs/first")
>>> images = model.sample(16)  # [16, 3, 64, 64] in [0, 1]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ectype.loading import load
    from ectype.recipe import Recipe, load_recipe
    from ectype.run import train
    from ectype.training.loop import Callback

__all__ = ["Callback", "Recipe", "load", "load_recipe", "train"]

# Torch takes seconds to import: a name brings its module only when it is asked for.
_HOMES = {
    "Callback": "ectype.training.loop",
    "Recipe": "ectype.recipe",
    "load": "ectype.results",
    "load_recipe": "ectype.recipe",
    "train": "ectype.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ectype' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
