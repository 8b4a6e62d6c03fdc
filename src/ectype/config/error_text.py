"""Validation errors of pydantic as one line: the key, its value, and what the value must be."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ectype.core.errors import did_you_mean

__all__ = ["validation_error_text"]

MAX_SHOWN_CHARACTERS = 80
BOUNDS = {"greater_than_equal": "at least", "greater_than": "above", "less_than_equal": "at most", "less_than": "below"}
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "a word"}
TYPES |= dict.fromkeys(("tuple", "list"), "a list in brackets")
TYPES |= {"dict": "names with values, such as {name: 1}", "model": "keys with values, such as {key: 1}"}


def validation_error_text(error: ValidationError) -> str:
    """Return the first problem of a validation error, such as `data.size=2: must be at least 4.`"""
    errors = error.errors(include_url=False)
    # A union reports one error per type; the name of the type is not part of the key. An element that is missing from a
    # list is a problem of the list.
    locations = [
        e["loc"][:-1] if e["type"] == "missing" and isinstance(e["loc"][-1], int) else e["loc"] for e in errors
    ]
    keys = [".".join(str(part) for part in loc if not _is_union_branch(str(part))) for loc in locations]
    inside = (i for i, key in enumerate(keys) if key.startswith(f"{keys[0]}."))
    chosen = next(inside, 0) if isinstance(errors[0]["input"], list | tuple) else 0
    first, key = errors[chosen], keys[chosen]
    if first["type"] == "extra_forbidden":
        return f"no key '{key}' in this recipe."
    same_key = [e for e, other in zip(errors, keys, strict=True) if other == key]
    rules = list(dict.fromkeys(map(_rule, same_key)))
    if None in rules:
        message = next(e for e in same_key if _rule(e) is None)["msg"]
        rule = message.removeprefix("Value error, ")
        rule = rule[:1].lower() + rule[1:]
    else:
        # If the value has one of the types but is out of its bounds, the bound is the problem.
        bounds = [text for text in rules if text is not None and text.startswith(tuple(BOUNDS.values()))]
        *others, last = map(str, bounds or rules)
        rule = "must be " + (f"{', '.join(others)} or {last}" if others else last)
        words = [word for text in rules if text is not None for word in text.split("'")[1::2]]
        if (hint := did_you_mean(str(first["input"]), words)).startswith("did"):
            rule += f"; {hint}"
    prefix = f"{key}={_shown(first['input'])}: " if key and not isinstance(first["input"], Mapping) else ""
    return f"{prefix}{rule}" + ("" if rule.endswith((".", "?")) else ".")


def _shown(value: object) -> str:
    """Return a value as it was written, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"


def _rule(error: ErrorDetails) -> str | None:
    """Return what the value must be; None if pydantic's own message says it."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in BOUNDS:
        bound = next(iter(context.values()))
        return f"{BOUNDS[kind]} {bound:,}" if isinstance(bound, int) else f"{BOUNDS[kind]} {bound:g}"
    if kind == "literal_error":
        return context["expected"]
    if kind in ("missing", "too_short", "too_long"):
        return f"a list of at most {context['max_length']}" if kind == "too_long" else "a longer list"
    what, _, how = kind.partition("_")
    return TYPES.get(what) if how in ("type", "parsing", "from_float", "attributes_type") else None


def _is_union_branch(part: str) -> bool:
    kinds = ("literal[", "tuple[", "constrained-", "function-", "nullable")
    return part.startswith(kinds) or part in ("int", "float", "str", "bool")
