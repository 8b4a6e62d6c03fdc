"""The sections of a page about codes: lines between codes, the effect of directions, and how evenly they are used."""

from __future__ import annotations

import torch
from torch import Tensor

from ectype.analysis.report.charts import bar_chart, scatter_chart
from ectype.analysis.report.components import Row, Section, image_title
from ectype.analysis.report.pictures import strip
from ectype.analysis.run_view import RunView
from ectype.evaluation.figure_names import display_name
from ectype.evaluation.figures import format_number
from ectype.evaluation.metrics.codes import HasPosterior
from ectype.models.base import Encodes

__all__ = ["code_scatter", "code_usage", "interpolations", "traversals"]

NUM_INTERPOLATIONS, NUM_STEPS = 5, 9
NUM_TRAVERSALS = 8
MAX_DIMENSIONS_BY_NAME = 256
"""Dimensions of a code up to which traversals follow single dimensions instead of principal directions."""
NUM_IMAGES_FOR_KL = 256
MAX_NAME_LENGTH = 48


def interpolations(view: RunView) -> Section | None:
    """Show decoded steps on straight lines between codes."""
    model = view.model
    if not isinstance(model, Encodes) or len(view.test) < 2:
        return None
    chosen = view.chosen(4 * NUM_INTERPOLATIONS, "interpolations")
    order = torch.randperm(len(chosen), generator=view.generator("pairs")).tolist()
    pairs = [(chosen[a], chosen[b]) for a, b in zip(order[::2], order[1::2], strict=False)]
    # A line between two classes shows more than a line inside one class.
    pairs.sort(key=lambda pair: view.label(pair[0]) is not None and view.label(pair[0]) == view.label(pair[1]))
    pictures = []
    for first, last in pairs[:NUM_INTERPOLATIONS]:
        ends = view.images([first, last])
        one, two = model.encode(ends)
        steps = torch.linspace(0, 1, NUM_STEPS, device=one.device).view(-1, *[1] * one.dim())
        between = model.decode(torch.lerp(one, two, steps))
        titles = f"from {image_title(view, first)} to {image_title(view, last)}"
        alt = f"{titles}: the image, {NUM_STEPS} decoded steps, the image"
        pictures.append(strip(torch.cat([ends[:1], between, ends[1:]]), alt))
    caption = (
        f"Two held-out images at the ends, and {NUM_STEPS} decoded steps on the straight line between their codes. If "
        "steps look like no real image, or fade one image into the other, the line leaves the region of codes that the "
        "decoder knows."
    )
    return Section("interpolations", "Interpolations", caption, [Row("", pictures)])


def traversals(view: RunView) -> Section | None:
    """Show the effect of changing one direction of the code at a time."""
    model, codes = view.model, view.codes
    if not isinstance(model, Encodes) or codes is None:
        return None
    place = view.chosen(1, "traversals")[0]
    code = model.encode(view.images([place]))
    shape, d = code.shape[1:], code[0].numel()
    centred = code.flatten(1).float().cpu() - codes.centre
    along = torch.linspace(-3, 3, NUM_STEPS)
    directions: list[tuple[str, Tensor, float]] = []
    if len(shape) == 1 and d <= MAX_DIMENSIONS_BY_NAME:
        kl = _kl_per_dimension(view)
        importance = codes.spread**2 if kl is None else kl
        for axis in importance.argsort(descending=True)[:NUM_TRAVERSALS].tolist():
            spread = float(codes.spread[axis])
            value = f"KL {format_number(float(kl[axis]))} nats" if kl is not None else f"σ {format_number(spread)}"
            directions.append((f"dimension {axis + 1} ({value})", torch.eye(d)[axis], spread))
        what = f"Rows are dimensions of the code, ordered by {'KL' if kl is not None else 'variance over images'}."
    else:
        for i, (direction, scale) in enumerate(zip(codes.directions, codes.scales, strict=True)):
            fraction = f"{100 * float(codes.share[i]):.1f}% of the variance"
            directions.append((f"principal direction {i + 1} ({fraction})", direction, float(scale)))
        what = "Rows are principal directions of the codes."
    rows = []
    for label, direction, scale in directions:
        rest = centred - (centred @ direction)[:, None] * direction
        moved = codes.centre + rest + along[:, None] * scale * direction
        images = model.decode(moved.view(-1, *shape).to(code))
        rows.append(Row(label, [strip(images, f"{label} from −3 to 3 standard deviations")]))
    caption = (
        f"The code of one held-out image ({image_title(view, place)}), with one direction at a time moved from −3 to "
        f"+3 standard deviations around the mean code of the test images. {what} The decoder ignores directions whose "
        "row does not change."
    )
    return Section("traversals", "Traversals", caption, rows)


def _kl_per_dimension(view: RunView) -> Tensor | None:
    """Return the mean KL of each dimension of the code over some test images; None without a posterior."""
    if not isinstance(view.model, HasPosterior):
        return None
    images = view.images(view.chosen(NUM_IMAGES_FOR_KL, "kl"))
    return view.model.posterior(images).kl().flatten(1).mean(0).cpu()


def code_scatter(view: RunView) -> Section | None:
    """Show codes as points in two and three dimensions."""
    codes = view.codes
    if codes is None or codes.code.shape[1] < 2 or len(codes.directions) < 2:
        return None
    d = codes.code.shape[1]
    names = [_shorten(view.name(place)) for place in codes.places.tolist()]
    classes: dict[str, list[int]] = {}
    for i, place in enumerate(codes.places.tolist()):
        classes.setdefault(view.label(place) or "", []).append(i)
    classes = dict(sorted(classes.items()))
    components = [f"PC {i + 1} ({100 * float(share):.0f}%)" for i, share in enumerate(codes.share[:3])]
    dimensions = ["dimension 1", "dimension 2", "dimension 3"]
    points, axes = (codes.code, dimensions[:2]) if d == 2 else (codes.project(2), components[:2])
    text = "The two dimensions of the code." if d == 2 else "The first two principal components of the codes."
    charts = [scatter_chart("Two dimensions.", text, points, axes, names, classes)]
    if d >= 3 and len(codes.directions) >= 3:
        points, axes = (codes.code, dimensions) if d == 3 else (codes.project(3), components)
        text = "The three dimensions of the code." if d == 3 else "The first three principal components."
        charts.append(scatter_chart("Three dimensions.", f"{text} Drag to rotate.", points, axes, names, classes))
    captions = [f"Codes of {len(codes.code):,} held-out images. Hover over a point for its name."]
    if len(classes) > 1:
        captions.append("Colors are classes, which the model did not see in training.")
    if d > 3:
        kept = float(codes.share[: min(3, len(codes.share))].sum())
        captions.append(f"The code has {d:,} dimensions; three components hold {100 * kept:.0f}% of its variance.")
    return Section("latents", "Codes as points", " ".join(captions), charts=charts)


def _shorten(name: str) -> str:
    name = name.encode("utf-8", "replace").decode()
    return name if len(name) <= MAX_NAME_LENGTH else "…" + name[-MAX_NAME_LENGTH:]


def code_usage(view: RunView) -> Section | None:
    """Show how evenly the dimensions of the code are used."""
    charts = []
    units = {"kl_per_dimension": "nats"}
    for key, values in view.evaluation.series.items():
        if key == "confusion":
            continue
        omitted = (view.evaluation.code_elements or 0) - len(values)
        caption = f"In descending order{f'; the {omitted:,} smallest are omitted' if omitted > 0 else ''}."
        name = display_name(key)
        title = f"{name[:1].upper()}{name[1:]}."
        charts.append(bar_chart(title, caption, values, x="rank", y=units.get(key, "")))
    if not charts:
        return None
    caption = "A steep decline means that few directions of the code carry most of the information."
    return Section("spectra", "Use of the code", caption, charts=charts)
