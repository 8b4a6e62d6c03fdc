"""Libraries that only some exports need."""

from __future__ import annotations

import importlib
from typing import Any

from ectype.errors import ModelError

__all__ = ["needed"]


def needed(module: str, extra: str, what: str) -> Any:
    """A library of an extra of ours.

    Raises:
        ModelError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ModelError(f"{what} needs {module.replace('_', '-')}: pip install 'ectype[{extra}]'.") from None
