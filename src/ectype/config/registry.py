"""Which kinds a recipe can name, and where they are found.

A `kind` in a recipe, such as `model: {kind: autoencoder}`, names a subclass of a family, which is a direct subclass of
`ectype.config.sections.Choice`. All modules of these packages (not of their subpackages) are imported, which registers
the kinds that they define:

| package             | kinds of                                                                           |
|---------------------|------------------------------------------------------------------------------------|
| `ectype.models`     | models, bottlenecks, likelihoods, corruptions                                      |
| `ectype.nets`       | networks of autoencoders and image-to-image models, generators, critics, velocities |
| `ectype.objectives` | objectives                                                                         |

A new kind is a class in one of them, or in a plug-in::

    class MyModelConfig(ModelConfig):
        kind: Literal["mine"] = "mine"
        width: int = 64

        def build(self, info: DataInfo) -> MyModel: ...

A plug-in is a package with an entry point in the group `ectype.plugins`, or a Python file whose path the *user* has put
into the environment variable `ECTYPE_PLUGINS` (several are joined as in PATH). Recipes and checkpoints never name code.

Presets are not kinds: they are the YAML files in `ectype/config/presets`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from functools import cache
from pathlib import Path

from ectype.core.errors import RecipeError

__all__ = ["import_kinds"]

KIND_PACKAGES = ("ectype.nets", "ectype.models", "ectype.objectives")


@cache
def import_kinds() -> None:
    """Import all modules that define kinds: the packages above, installed plug-ins, and the files in `ECTYPE_PLUGINS`.

    Raises:
        RecipeError: `ECTYPE_PLUGINS` names something that is not a Python file.
    """
    for name in KIND_PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__, prefix=f"{name}."):
            importlib.import_module(module.name)
    for entry in importlib.metadata.entry_points(group="ectype.plugins"):
        entry.load()
    for path in filter(None, os.environ.get("ECTYPE_PLUGINS", "").split(os.pathsep)):
        spec = importlib.util.spec_from_file_location(f"ectype_plugin_{Path(path).stem}", path)
        if spec is None or spec.loader is None or not Path(path).is_file():
            raise RecipeError(f"ECTYPE_PLUGINS names '{path}', which is not a Python file: fix the path.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
