"""Libraries that only some users need, each in an extra of this package."""

from __future__ import annotations

import importlib
from typing import Any

from ectype.core.errors import EctypeError, ModelError

__all__ = ["optional_import"]


def optional_import(
    module: str,
    extra: str,
    what: str,
    *,
    library: str | None = None,
    alternative: str = "",
    error: type[EctypeError] = ModelError,
) -> Any:
    """Import a module of a library that is installed with an extra of Ectype.

    Args:
        module: The module, such as `torchvision.datasets`.
        extra: The extra that installs it: `pip install 'ectype[extra]'`.
        what: What it is needed for, as the subject of the error message.
        library: What the library is called, if not like its package.
        alternative: What else the user can do, for the end of the message.
        error: The class of the error.

    Raises:
        EctypeError: The library is not installed; of the class `error`.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        library = library or module.partition(".")[0].replace("_", "-")
        rest = f", or {alternative}" if alternative else ""
        raise error(f"{what} needs {library}: pip install 'ectype[{extra}]'{rest}.") from None
