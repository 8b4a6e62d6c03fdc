"""Every number of a recipe has bounds, so that no value makes a run fail late or take all memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ectype.config.recipe import Recipe
from ectype.config.registry import import_kinds
from ectype.config.sections import Choice, Section


def subclasses(of: type) -> Iterator[type]:
    for each in of.__subclasses__():
        yield each
        yield from subclasses(each)


def numbers(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schemas of all numbers in a JSON schema, with their paths."""
    if isinstance(node, list):
        for each in node:
            yield from numbers(each, path)
    elif isinstance(node, dict):
        if node.get("type") in ("integer", "number") and "const" not in node and "enum" not in node:
            yield path, node
        for key, inner in node.items():
            if key == "properties":
                for name, field in inner.items():
                    yield from numbers(field, f"{path}.{name}")
            elif key not in ("$defs", "default", "examples"):
                yield from numbers(inner, path)


def sections() -> list[type[Section]]:
    import_kinds()
    return sorted({Recipe, *subclasses(Section)} - {Choice}, key=lambda each: each.__qualname__)


def test_every_number_of_a_recipe_has_both_bounds() -> None:
    found = {}
    for section in sections():
        if section.__module__.startswith("ectype."):
            for path, schema in numbers(section.model_json_schema(), section.__name__):
                lower = {"minimum", "exclusiveMinimum", "ge", "gt"} & set(schema)
                upper = {"maximum", "exclusiveMaximum", "le"} & set(schema)
                found[path] = bool(lower and upper)
    assert len(found) > 100
    assert sorted(path for path, bounded in found.items() if not bounded) == []
