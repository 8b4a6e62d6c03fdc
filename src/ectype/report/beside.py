"""What several models make of the same images, and of the same draws."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ectype.measure.view import RunView
from ectype.models.base import DrawsLatents, Reconstructs, Samples, conditional, evaluating
from ectype.models.translator import Restorer
from ectype.report.parts import Row, Section
from ectype.report.pictures import strip

__all__ = ["beside"]

SHOWN = 12


def beside(views: Mapping[str, RunView]) -> Section | None:
    """Held-out images above what each model makes of them, then samples of each; None where nothing can be shown."""
    first = next(iter(views.values()))
    places = first.chosen(SHOWN, "beside")
    rows: list[Row] = []
    same = [name for name, view in views.items() if _of(view, places) == _of(first, places)]
    made = {name: images for name in same if (images := _made(views[name], places)) is not None}
    if made:
        rows.append(Row("The images", [strip(first.images(places), "held-out images")]))
        rows += [Row(name, [strip(images, f"{name}: what it makes of them")]) for name, images in made.items()]
    drawn = {name: images for name, view in views.items() if (images := _drawn(view)) is not None}
    rows += [Row(f"{name}: samples", [strip(images, f"samples of {name}")]) for name, images in drawn.items()]
    if not rows:
        return None
    caption = (
        "The same held-out images, drawn without looking, through each model; then samples from one seed: models whose "
        "latents are of one shape are given the same draws."
    )
    return Section("beside", "Side by side", caption, rows)


def _of(view: RunView, places: list[int]) -> tuple[object, ...]:
    """What tells whether two views show the same images at these places."""
    names = [view.name(place) for place in places if place < len(view.test)]
    return (names, view.info.shape, view.recipe.data.prepared)


def _made(view: RunView, places: list[int]) -> Tensor | None:
    model = view.model
    with evaluating(model):
        if isinstance(model, Reconstructs):
            return model.reconstruct(view.images(places))
        if isinstance(model, Restorer):
            batch = view.test(torch.tensor(places), view.moment)
            return model.translate(model.pair(batch, view.moment)[0])
    return None


def _drawn(view: RunView) -> Tensor | None:
    model = view.model
    with evaluating(model):
        if isinstance(model, DrawsLatents) and not conditional(model):
            return model.render(model.latents(SHOWN, generator=_one_seed()))
        if isinstance(model, Samples):
            return model.sample(SHOWN, generator=_one_seed())
    return None


def _one_seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)
