"""The one reader of YAML: for recipes, overrides and the recipes of runs, which may come from anyone.

Aliases are refused, because a text of a few lines can stand for billions of values by them, and so is a key that occurs
twice. A text is read only if it is not too large and not nested too deeply.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ectype.core.errors import RecipeError

__all__ = ["parse_yaml", "read_yaml"]

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_BYTES = 2 * 2**20
"""Enough for twenty thousand classes."""
MAX_VALUES = 100_000
MAX_DEPTH = 32


class _StrictLoader(Loader):
    """A safe loader that refuses a key that occurs twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep=deep)
        if len(found) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = max(keys, key=lambda key: keys.count(key))
            raise yaml.MarkedYAMLError(problem=f"the key '{twice}' occurs twice", problem_mark=node.start_mark)
        return found


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        RecipeError: The text is too large, nested too deeply, or has aliases.
        yaml.YAMLError: It is not YAML, or a key occurs twice.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"a text of {len(text):,} characters: at most {MAX_BYTES:,} are allowed.")
    loader, depth, values = Loader(text), 0, 0
    try:
        # Before anything is built: events need no memory, and are read no further than allowed.
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise RecipeError("anchors and aliases (& and *) are not allowed: write the values out.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            values += isinstance(event, yaml.NodeEvent)
            if depth > MAX_DEPTH or values > MAX_VALUES:
                what = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"more than {MAX_VALUES:,} values"
                raise RecipeError(f"{what}: refused.")
    finally:
        loader.dispose()
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except (ValueError, OverflowError) as error:  # a date that does not exist, a number of thousands of digits
        raise yaml.YAMLError(str(error)) from None


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        RecipeError: The file cannot be read, is not YAML, or is refused; see `parse_yaml`.
    """
    try:
        if not path.is_file():
            raise RecipeError("it is not a file")
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"it has {path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are allowed")
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"'{path}' cannot be read ({error.strerror}): check the path and its permissions.") from None
    except RecipeError as error:
        raise RecipeError(f"'{path}' is refused: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from None
