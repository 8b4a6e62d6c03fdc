"""Ectype: from a folder of images to a trained, monitored, measured and comparable image model.

>>> import ectype
>>> run = ectype.train("ae-linear", "digits", {"latent_dim": 8}, images="5k", out="runs/first", progress=False)
>>> run.evaluate()["psnr"].better
'higher'
>>> model = ectype.load("runs/first")
>>> codes = model.encode(run.images("test", 4))  # images are [n, c, h, w] in [0, 1]
>>> codes.shape
torch.Size([4, 8])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ectype.api.analysis import diagnose, evaluate, export_model, presets, push, report
    from ectype.api.experiments import Comparison, Study, compare, study
    from ectype.api.images import ImageBatch
    from ectype.api.inference import decode, encode, nearest, reconstruct, sample, score, translate, walk
    from ectype.api.run import Run, open_run
    from ectype.api.train import train
    from ectype.config.recipe import Recipe, load_recipe
    from ectype.core.errors import EctypeError, EctypeWarning
    from ectype.core.table import Table
    from ectype.evaluation.registered import register_metric
    from ectype.losses.weighted import register_loss
    from ectype.nets.registered import register_module
    from ectype.runs.load import load
    from ectype.training.loop import Callback

__all__ = [
    "Callback",
    "Comparison",
    "EctypeError",
    "EctypeWarning",
    "ImageBatch",
    "Recipe",
    "Run",
    "Study",
    "Table",
    "compare",
    "decode",
    "diagnose",
    "encode",
    "evaluate",
    "export_model",
    "load",
    "load_recipe",
    "nearest",
    "open_run",
    "presets",
    "push",
    "reconstruct",
    "register_loss",
    "register_metric",
    "register_module",
    "report",
    "sample",
    "score",
    "study",
    "train",
    "translate",
    "walk",
]

# Importing torch takes seconds: the module of a name is imported when the name is first used.
_MODULES = {
    "Callback": "ectype.training.loop",
    "Comparison": "ectype.api.experiments",
    "EctypeError": "ectype.core.errors",
    "EctypeWarning": "ectype.core.errors",
    "ImageBatch": "ectype.api.images",
    "Recipe": "ectype.config.recipe",
    "Run": "ectype.api.run",
    "Study": "ectype.api.experiments",
    "Table": "ectype.core.table",
    "compare": "ectype.api.experiments",
    "decode": "ectype.api.inference",
    "diagnose": "ectype.api.analysis",
    "encode": "ectype.api.inference",
    "evaluate": "ectype.api.analysis",
    "export_model": "ectype.api.analysis",
    "load": "ectype.runs.load",
    "load_recipe": "ectype.config.recipe",
    "nearest": "ectype.api.inference",
    "open_run": "ectype.api.run",
    "presets": "ectype.api.analysis",
    "push": "ectype.api.analysis",
    "reconstruct": "ectype.api.inference",
    "register_loss": "ectype.losses.weighted",
    "register_metric": "ectype.evaluation.registered",
    "register_module": "ectype.nets.registered",
    "report": "ectype.api.analysis",
    "sample": "ectype.api.inference",
    "score": "ectype.api.inference",
    "study": "ectype.api.experiments",
    "train": "ectype.api.train",
    "translate": "ectype.api.inference",
    "walk": "ectype.api.inference",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ectype' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
