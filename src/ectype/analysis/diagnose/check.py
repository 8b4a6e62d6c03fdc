"""Run all checks of this package on a run or on images.

Each check is a module with a function `find_in_run(view)` or `find_in_data(prepared)` that returns a `Finding`, or None
if there is no problem. Adding such a file adds a finding.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import ectype.analysis.diagnose
from ectype.analysis.diagnose.finding import SEVERITIES, Finding
from ectype.analysis.run_view import RunView
from ectype.config.recipe import Recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import EctypeError
from ectype.core.meta_device import meta_device
from ectype.data.prepared import Prepared
from ectype.models.base import evaluating

__all__ = ["check_data", "check_run", "check_view"]


def check_view(view: RunView) -> list[Finding]:
    """Return the findings of a run and of its images, a decisive one first, then the most serious.

    They are computed once for each view.
    """

    def compute() -> list[Finding]:
        of_images = check_data(view.prepared, view.recipe) if view.prepared is not None else []
        return _sorted([*check_run(view), *of_images])

    return view.once("all findings", compute)


def check_run(view: RunView) -> list[Finding]:
    """Return the findings of a run, a decisive one first, then the most serious. They are computed once for each view.

    If one of them is decisive, the others that longer training could remove are notes without advice, or withheld.
    """

    def compute() -> list[Finding]:
        with evaluating(view.model):
            found = _sorted(find(view) for find in _checks("find_in_run"))
        if any(each.withholds_others for each in found):
            found = [each for each in found if each.decisive or each.lasting]
        elif any(each.decisive for each in found):
            found = _sorted(each if each.decisive or each.lasting else _provisional(each) for each in found)
        return _keep_applicable_advice(found, view.recipe, view.info)

    return view.once("findings", compute)


def check_data(prepared: Prepared, recipe: Recipe | None = None) -> list[Finding]:
    """Return the findings of prepared images, the most serious first.

    Args:
        prepared: The images.
        recipe: The recipe that trains on them, if there is one. Advice that does not change it is left out.
    """
    found = _sorted(find(prepared) for find in _checks("find_in_data"))
    return found if recipe is None else _keep_applicable_advice(found, recipe, prepared.info)


def _provisional(finding: Finding) -> Finding:
    """Return a finding as a note that may not hold after longer training; its advice would be premature."""
    message = f"{finding.message}; this may go away with training"
    return replace(finding, severity="note", message=message, advice=[])


def _keep_applicable_advice(found: list[Finding], recipe: Recipe, info: DataInfo) -> list[Finding]:
    """Return the findings without advice that the recipe refuses, that would not change it, or that cannot be built."""

    def applies(overrides: dict[str, Any]) -> bool:
        if not overrides:
            return True
        try:
            changed = recipe.override(overrides)
            if changed == recipe:
                return False
            with meta_device():  # building allocates nothing here; only its errors matter
                changed.objective.build(changed.model.build(info), info, images=changed.train.images)
        except EctypeError:
            return False
        return True

    return [replace(each, advice=[a for a in each.advice if applies(a.overrides)]) for each in found]


def _checks(function: str) -> Iterator[Callable[[Any], Finding | None]]:
    package = ectype.analysis.diagnose
    for module in pkgutil.iter_modules(package.__path__, prefix=f"{package.__name__}."):
        if module.name != __name__ and hasattr(loaded := importlib.import_module(module.name), function):
            yield getattr(loaded, function)


def _sorted(found: Iterable[Finding | None]) -> list[Finding]:
    present = (each for each in found if each is not None)
    return sorted(present, key=lambda each: (not each.decisive, SEVERITIES.index(each.severity)))
