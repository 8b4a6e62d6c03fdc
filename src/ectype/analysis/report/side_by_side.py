"""The section that shows the same images, and the same latents, through several models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ectype.analysis.report.components import Row, Section
from ectype.analysis.report.pictures import strip
from ectype.analysis.run_view import RunView
from ectype.models.base import LatentSampler, Reconstructs, Samples, evaluating, is_conditional
from ectype.models.translator import Restorer

__all__ = ["side_by_side"]

NUM_SHOWN_IMAGES = 12


def side_by_side(views: Mapping[str, RunView]) -> Section | None:
    """Show held-out images above the output of each model, and then samples of each.

    Args:
        views: Name → open run. Only runs on the same images as the first get the first run's images.

    Returns:
        The section; None if no model has anything to show.
    """
    first = next(iter(views.values()))
    places = first.chosen(NUM_SHOWN_IMAGES, "beside")
    rows: list[Row] = []
    same = [name for name, view in views.items() if _identity(view, places) == _identity(first, places)]
    outputs = {name: images for name in same if (images := _outputs(views[name], places)) is not None}
    if outputs:
        rows.append(Row("Held-out images", [strip(first.images(places), "held-out images")]))
        rows += [Row(name, [strip(images, f"output of {name}")]) for name, images in outputs.items()]
    samples = {name: images for name, view in views.items() if (images := _samples(view)) is not None}
    rows += [Row(f"{name}: samples", [strip(images, f"samples of {name}")]) for name, images in samples.items()]
    if not rows:
        return None
    caption = (
        "The same random held-out images through each model, then samples from one seed. Models whose latents have the "
        "same shape get the same latents."
    )
    return Section("side-by-side", "Side by side", caption, rows)


def _identity(view: RunView, places: list[int]) -> tuple[object, ...]:
    """Return a value that is equal for two views that show the same images at these places."""
    names = [view.name(place) for place in places if place < len(view.test)]
    return (names, view.info.shape, view.recipe.data.preparation)


def _outputs(view: RunView, places: list[int]) -> Tensor | None:
    """Return what a model reconstructs or restores from these test images; None if it does neither."""
    model = view.model
    with evaluating(model):
        if isinstance(model, Reconstructs):
            return model.reconstruct(view.images(places))
        if isinstance(model, Restorer):
            batch = view.test(torch.tensor(places), view.context)
            return model.translate(model.input_and_target(batch, view.context)[0])
    return None


def _samples(view: RunView) -> Tensor | None:
    model = view.model
    with evaluating(model):
        if isinstance(model, LatentSampler) and not is_conditional(model):
            return model.render(model.sample_latents(NUM_SHOWN_IMAGES, generator=_fixed_seed()))
        if isinstance(model, Samples):
            return model.sample(NUM_SHOWN_IMAGES, generator=_fixed_seed())
    return None


def _fixed_seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)
