"""Ask every file of this package whether it finds something.

A finding is a module with a function `of_run(view)` or `of_data(prepared)` that returns a `Finding`, or None where
there is nothing to say. Adding a file adds a finding.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

import ectype.diagnose
from ectype.data.prepared import Prepared
from ectype.diagnose.finding import SEVERITIES, Finding
from ectype.errors import EctypeError
from ectype.measure.view import RunView
from ectype.models.base import evaluating
from ectype.recipe import Recipe
from ectype.sections import DataInfo

__all__ = ["of_data", "of_run"]


def of_run(view: RunView) -> list[Finding]:
    """All that is found in a run, the gravest first; empty where it is healthy."""
    with evaluating(view.model):
        found = _sorted(find(view) for find in _finders("of_run"))
    found = [each for each in found if each.decisive] or found
    return _useful(found, view.recipe, view.info)


def of_data(prepared: Prepared, recipe: Recipe | None = None) -> list[Finding]:
    """All that is found in images, the gravest first; of those of a run, with advice that its recipe has not yet."""
    found = _sorted(find(prepared) for find in _finders("of_data"))
    return found if recipe is None else _useful(found, recipe, prepared.info)


def _useful(found: list[Finding], recipe: Recipe, info: DataInfo) -> list[Finding]:
    """Findings with the advice that a recipe admits, that would change it, and that can be built here."""

    def changes(overrides: dict[str, Any]) -> bool:
        if not overrides:
            return True
        try:
            changed = recipe.override(overrides)
            if changed == recipe:
                return False
            with torch.device("meta"):  # without numbers: it is asked for what it refuses alone
                changed.objective.build(changed.model.build(info), info, images=changed.train.images)
        except EctypeError:
            return False
        return True

    return [replace(each, advice=[a for a in each.advice if changes(a.overrides)]) for each in found]


def _finders(name: str) -> Iterator[Callable[[Any], Finding | None]]:
    for module in pkgutil.iter_modules(ectype.diagnose.__path__, prefix=f"{ectype.diagnose.__name__}."):
        if module.name != __name__ and hasattr(found := importlib.import_module(module.name), name):
            yield getattr(found, name)


def _sorted(found: Iterator[Finding | None]) -> list[Finding]:
    return sorted((each for each in found if each is not None), key=lambda each: SEVERITIES.index(each.severity))
