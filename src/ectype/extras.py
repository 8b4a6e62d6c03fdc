"""Libraries that only some users need."""

from __future__ import annotations

import importlib
from typing import Any

from ectype.errors import ModelError

__all__ = ["needed"]


def needed(module: str, extra: str, what: str) -> Any:
    """A library of an extra of ours, or a module of one.

    Raises:
        ModelError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0].replace("_", "-")
        raise ModelError(f"{what} needs {library}: pip install 'ectype[{extra}]'.") from None
