"""Finding the kinds that recipes name: ours, and those of plug-ins."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from functools import cache
from pathlib import Path

from ectype.errors import RecipeError

__all__ = ["discover"]

PACKAGES = ("ectype.nets", "ectype.models", "ectype.objectives")


@cache
def discover() -> None:
    """Import the modules that define kinds: ours, installed plug-ins, and files named in `ECTYPE_PLUGINS`.

    A plug-in is a package with an entry point in the group `ectype.plugins`, or a Python file whose path the *user* put
    into the environment variable `ECTYPE_PLUGINS` (several joined as in PATH). Recipes and checkpoints name no code.
    """
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__, prefix=f"{name}."):
            importlib.import_module(module.name)
    for entry in importlib.metadata.entry_points(group="ectype.plugins"):
        entry.load()
    for path in filter(None, os.environ.get("ECTYPE_PLUGINS", "").split(os.pathsep)):
        spec = importlib.util.spec_from_file_location(f"ectype_plugin_{Path(path).stem}", path)
        if spec is None or spec.loader is None or not Path(path).is_file():
            raise RecipeError(f"ECTYPE_PLUGINS names '{path}', which is no Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
