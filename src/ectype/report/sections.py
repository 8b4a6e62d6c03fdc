"""The parts of a page, each there only if the model can do what it shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ectype.measure.codes import HasPosterior
from ectype.measure.evaluate import corruption_of
from ectype.measure.evaluation import number
from ectype.measure.translation import CONFUSION
from ectype.measure.view import RunView
from ectype.models.base import Encodes, Reconstructs, Samples, evaluating
from ectype.report.charts import Chart, Line, bars, lines, scatter
from ectype.report.findings import findings
from ectype.report.generation import classes, copies, evidence, followed
from ectype.report.parts import Row, Section, said_of, tiles
from ectype.report.pictures import Picture, column, saved, strip
from ectype.report.translation import confused, reach, translations
from ectype.training.rundir import NOT_MEASURED
from ectype.training.shipped import DrawsCodes

__all__ = ["sections"]

PAIRS, STEPS, DRAWN, AXES, DRAWS, FRAMES = 5, 9, 24, 8, 8, 8
"""Interpolations, steps of one, samples per density, traversals, draws per image, frames of the film."""


def sections(view: RunView) -> list[Section]:
    """All parts that this run can have, in the order of the page."""
    makers: Sequence[Callable[[RunView], Section | None]] = (
        findings,
        translations,
        confused,
        reach,
        reconstructions,
        restorations,
        draws,
        samples,
        classes,
        copies,
        followed,
        evidence,
        interpolations,
        traversals,
        latents,
        spectra,
        curves,
        film,
    )
    with evaluating(view.model):
        made = [maker(view) for maker in makers]
    return [section for section in made if section is not None]


# ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def reconstructions(view: RunView) -> Section | None:
    """Inputs above reconstructions."""
    model = view.model
    if not isinstance(model, Reconstructs):
        return None
    groups = {
        "Drawn at random": view.chosen(15, "reconstructions"),
        "Smallest error": view.evaluation.cases.get("best", []),
        "Middle error": view.evaluation.cases.get("median", []),
        "Largest error": view.evaluation.cases.get("worst", []),
    }
    rows = []
    for title, places in groups.items():
        if places:
            image = view.images(places)
            pictures = _columns(view, places, [image, model.reconstruct(image)], "input, reconstruction")
            rows.append(Row(title, pictures, narrow=title != "Drawn at random"))
    measured = view.evaluation.test_images
    caption = (
        "Held-out images on top, their reconstructions below, with the squared error as PSNR. The first row was drawn "
        f"without looking; the others are the extremes and the middle of {measured:,} test images by squared error."
    )
    return Section("reconstructions", "Reconstructions", caption, rows)


def restorations(view: RunView) -> Section | None:
    """Clean, corrupted and restored images."""
    model, corruption = view.model, corruption_of(view.model)
    if corruption is None or not isinstance(model, Reconstructs):
        return None
    places = view.chosen(15, "restorations")
    image = view.images(places)
    corrupted = corruption.apply(image, view.moment)
    pictures = _columns(view, places, [image, corrupted, model.reconstruct(corrupted)], "clean, corrupted, restored")
    caption = (
        f"Clean held-out images, the same after the corruption the model was trained to undo ({corruption.kind}), and "
        "what it makes of that, with PSNR against the clean image. The corrupted image is clipped to be shown; the "
        "model is given it as it is."
    )
    return Section("denoising", "Denoising", caption, [Row("Drawn at random", pictures)])


def _columns(view: RunView, places: Sequence[int], stacked: Sequence[Tensor], what: str) -> list[Picture]:
    """One column for each image, the last in it judged against the first."""
    mse = ((stacked[-1] - stacked[0]) ** 2).flatten(1).mean(1).clamp(min=1e-10)
    decibels = (-10 * torch.log10(mse)).tolist()
    return [
        column(
            torch.stack([images[i] for images in stacked]), f"{what}: {said_of(view, place)}", f"{decibels[i]:.1f} dB"
        )
        for i, place in enumerate(places)
    ]


def draws(view: RunView) -> Section | None:
    """Draws of q(z|x) beside the image."""
    model = view.model
    if not (isinstance(model, HasPosterior) and isinstance(model, Reconstructs)):
        return None
    places = view.chosen(6, "draws")
    image = view.images(places)
    drawn = model.draws(image, DRAWS, generator=view.generator("draws"))
    mean = model.reconstruct(image)
    pictures = [
        strip(
            torch.cat([image[i : i + 1], mean[i : i + 1], drawn[:, i]]),
            f"{said_of(view, place)}: the image, its reconstruction from the posterior mean, {DRAWS} draws",
        )
        for i, place in enumerate(places)
    ]
    spread = float((drawn - drawn.mean(0)).square().mean().sqrt())
    caption = (
        f"The image, its reconstruction from the mean of q(z|x), then {DRAWS} draws of q(z|x) decoded. Draws of one "
        f"image differ by {number(spread)} per pixel (standard deviation, pixels in [0, 1]). They show what the code "
        "leaves open, not the noise of a pixel: expected images are shown."
    )
    return Section("draws", "Draws of q(z|x)", caption, [Row("", pictures)])


def samples(view: RunView) -> Section | None:
    """Samples, for each density on codes where there are several."""
    model = view.model
    if isinstance(model, DrawsCodes) and isinstance(model, Encodes):
        rows = []
        for name, about in _densities(view, model).items():
            code = model.densities[name].sample(DRAWN, generator=view.generator("samples"))
            images = model.decode(code.to(view.device))
            title = f"{name} (default)" if name == model.density else name
            rows.append(Row(title, tiles(images, name), about, narrow=True, tiles=True))
        caption = "Decoded draws of a density on codes, each from the same seed, none picked."
        return Section("samples", "Samples", caption, rows)
    if isinstance(model, Samples):
        images = model.sample(DRAWN, generator=view.generator("samples"))
        row = Row("", tiles(images, "the model"), tiles=True)
        return Section("samples", "Samples", "From one seed, none picked.", [row])
    return None


def _densities(view: RunView, model: DrawsCodes) -> dict[str, str]:
    """The densities a model has, each with what may be expected of it."""
    codes = view.codes
    width = ""
    if codes is not None:
        spread = float(codes.spread.square().mean().sqrt())
        offset = float(codes.centre.square().mean().sqrt())
        width = f" N(0, I) has mean 0 and standard deviation 1; these codes have {number(offset)} and {number(spread)}"
        width += " (root mean squares over the code's numbers)."
    about = {
        "normal": (
            f"N(0, I), the prior that the codes were trained towards.{width}"
            if model.prior == "normal"
            else "N(0, I). Nothing in training asked the codes to follow it: the decoder is given codes it has "
            f"never seen, and what it makes of them shows that.{width}"
        ),
        "gaussian": "One Gaussian fitted on codes of training images, with their covariance.",
        "gmm": "A mixture of Gaussians fitted on codes of training images.",
    }
    return {name: about.get(name, "Fitted on codes of training images.") for name in model.densities}


# ── Codes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def interpolations(view: RunView) -> Section | None:
    """Straight lines between codes."""
    model = view.model
    if not isinstance(model, Encodes) or len(view.test) < 2:
        return None
    chosen = view.chosen(4 * PAIRS, "interpolations")
    order = torch.randperm(len(chosen), generator=view.generator("pairs")).tolist()
    pairs = [(chosen[a], chosen[b]) for a, b in zip(order[::2], order[1::2], strict=False)]
    # A line between two classes shows more than one inside a class.
    pairs.sort(key=lambda pair: view.label(pair[0]) is not None and view.label(pair[0]) == view.label(pair[1]))
    pictures = []
    for first, last in pairs[:PAIRS]:
        ends = view.images([first, last])
        one, two = model.encode(ends)
        steps = torch.linspace(0, 1, STEPS, device=one.device).view(-1, *[1] * one.dim())
        between = model.decode(torch.lerp(one, two, steps))
        alt = f"from {said_of(view, first)} to {said_of(view, last)}: the image, {STEPS} decoded steps, the image"
        pictures.append(strip(torch.cat([ends[:1], between, ends[1:]]), alt))
    caption = (
        f"Two held-out images at the ends; between them {STEPS} equal steps on the straight line from one code to the "
        "other, decoded. Steps that look like neither end, or fade one into the other, say that the line leaves the "
        "region of codes that the decoder knows."
    )
    return Section("interpolations", "Interpolations", caption, [Row("", pictures)])


def traversals(view: RunView) -> Section | None:
    """One direction of the code changed at a time."""
    model, codes = view.model, view.codes
    if not isinstance(model, Encodes) or codes is None:
        return None
    place = view.chosen(1, "traversals")[0]
    code = model.encode(view.images([place]))
    shape, d = code.shape[1:], code[0].numel()
    centred = code.flatten(1).float().cpu() - codes.centre
    along = torch.linspace(-3, 3, STEPS)
    found: list[tuple[str, Tensor, float]] = []
    if len(shape) == 1 and d <= 256:
        kl = _kl(view)
        worth = codes.spread**2 if kl is None else kl
        for axis in worth.argsort(descending=True)[:AXES].tolist():
            value = f"KL {number(float(kl[axis]))} nats" if kl is not None else f"σ {number(float(codes.spread[axis]))}"
            found.append((f"number {axis + 1} ({value})", torch.eye(d)[axis], float(codes.spread[axis])))
        what = "numbers of the code, by KL" if kl is not None else "numbers of the code, by variance over images"
    else:
        for i, (direction, scale) in enumerate(zip(codes.directions, codes.scales, strict=True)):
            share = f"{100 * float(codes.share[i]):.1f}% of the variance"
            found.append((f"principal direction {i + 1} ({share})", direction, float(scale)))
        what = "principal directions of the codes"
    rows = []
    for label, direction, scale in found:
        off = centred - (centred @ direction)[:, None] * direction
        moved = codes.centre + off + along[:, None] * scale * direction
        images = model.decode(moved.view(-1, *shape).to(code))
        rows.append(Row(label, [strip(images, f"{label} from −3 to 3 standard deviations")]))
    caption = (
        f"The code of one held-out image ({said_of(view, place)}) with one direction at a time moved from −3 to +3 "
        f"standard deviations of the test images' codes about their mean: {what}, the largest first. Rows that do "
        "not change belong to directions that the decoder ignores."
    )
    return Section("traversals", "Traversals", caption, rows)


def _kl(view: RunView) -> Tensor | None:
    """Mean KL of each number of the code over some test images; None without a posterior."""
    if not isinstance(view.model, HasPosterior):
        return None
    images = view.images(view.chosen(256, "kl"))
    return view.model.posterior(images).kl().flatten(1).mean(0).cpu()


def latents(view: RunView) -> Section | None:
    """Codes as points."""
    codes = view.codes
    if codes is None or codes.code.shape[1] < 2 or len(codes.directions) < 2:
        return None
    d = codes.code.shape[1]
    names = [_short(view.name(place)) for place in codes.places.tolist()]
    classes: dict[str, list[int]] = {}
    for i, place in enumerate(codes.places.tolist()):
        classes.setdefault(view.label(place) or "", []).append(i)
    classes = dict(sorted(classes.items()))
    percent = [f"PC {i + 1} ({100 * float(share):.0f}%)" for i, share in enumerate(codes.share[:3])]
    flat = codes.code if d == 2 else codes.project(2)
    flat_axes = ["number 1", "number 2"] if d == 2 else percent[:2]
    flat_says = "The code's two numbers." if d == 2 else "The codes' two widest principal directions."
    charts = [scatter("In the plane", flat_says, flat, flat_axes, names, classes)]
    if d >= 3 and len(codes.directions) >= 3:
        points = codes.code if d == 3 else codes.project(3)
        axes = ["number 1", "number 2", "number 3"] if d == 3 else percent
        says = "The code's three numbers." if d == 3 else "The three widest principal directions."
        charts.append(scatter("In space (needs WebGL)", f"{says} Drag to turn.", points, axes, names, classes))
    kept = float(codes.share[: min(3, len(codes.share))].sum())
    reduced = "" if d <= 3 else f" The code has {d:,} numbers; three directions hold {100 * kept:.0f}% of its variance."
    colour = " Colours are classes, which the model was not told of." if len(classes) > 1 else ""
    caption = f"Codes of {len(codes.code):,} held-out images. Touch a point for its name.{colour}{reduced}"
    return Section("latents", "Codes as points", caption, charts=charts)


def _short(name: str, longest: int = 48) -> str:
    name = name.encode("utf-8", "replace").decode()
    return name if len(name) <= longest else "…" + name[-longest:]


def spectra(view: RunView) -> Section | None:
    """How evenly the code is used."""
    charts = []
    units = {"KL per number of the code": "nats"}
    for name, values in view.evaluation.series.items():
        if name == CONFUSION:
            continue
        more = (view.evaluation.code_numbers or 0) - len(values)
        caption = f"Largest first{f'; {more:,} smaller ones left out' if more > 0 else ''}."
        charts.append(bars(name[:1].upper() + name[1:], caption, values, x="rank", y=units.get(name, "")))
    if not charts:
        return None
    return Section("spectra", "Use of the code", "A steep fall means that few directions do the work.", charts=charts)


# ── Training ─────────────────────────────────────────────────────────────────────────────────────────────────────────

MECHANICS = {*NOT_MEASURED, "total", "model/total", "images/s"}


def curves(view: RunView) -> Section | None:
    """Every logged number over images seen."""
    metrics = view.run.shipped.metrics()
    train = [line for line in metrics if line["kind"] == "train"]
    checks = [line for line in metrics if line["kind"] == "check"]
    charts: list[Chart] = []
    if view.run.shipped.watch_file.is_file():
        # The players' losses say nothing of the samples; what does is shown by itself.
        checks = []
    watched = next((key for line in checks for key in line if key not in MECHANICS), None)
    if watched is not None:
        held = [line for line in checks if line.get(watched) is not None]
        best = next((line for line in reversed(held) if line.get("best")), None)
        marks = [(best["seen"], best[watched], "best")] if best is not None else []
        both = [Line("held out", [x["seen"] for x in held], [x[watched] for x in held], 1, dots=True)]
        # Beside a critic the loss is the model's, with the critic's part in it.
        total = [(line["seen"], line[key]) for line in train for key in ("total", "model/total") if key in line]
        both.insert(0, Line("training", [seen for seen, _ in total], [value for _, value in total]))
        said = (
            f"{watched}, in training with all that is added to it there, and on held-out images. The last that was the "
            "best so far is marked; once a critic's gradient counts, that is the newest."
        )
        charts.append(lines("Loss", said, both, x="images seen", marks=marks))
    keys = [key for key in dict.fromkeys(k for line in [*train, *checks] for k in line) if key not in MECHANICS]
    for key in keys:
        own = [
            Line(name, [x["seen"] for x in have], [x[key] for x in have], i, dots=i == 1)
            for i, (name, source) in enumerate((("training", train), ("held out", checks)))
            if (have := [line for line in source if key in line])
        ]
        if key != watched:
            charts.append(lines(key, "", own, x="images seen", height=240))
    if not charts:
        return None
    caption = "Over images seen. Each term by itself, so that one cannot hide behind another."
    return Section("curves", "Training", caption, charts=charts)


def film(view: RunView) -> Section | None:
    """Samples and reconstructions as they were during training."""
    rows = []
    for kind in ("samples", "reconstructions"):
        files = {
            int(found[1]): file
            for file in view.run.shipped.samples.glob(f"{kind}-*.png")
            if (found := re.fullmatch(rf"{kind}-(\d+)\.png", file.name))
        }
        steps = sorted(files)
        if len(steps) < 2:
            continue
        places = torch.linspace(0, len(steps) - 1, min(FRAMES, len(steps))).round().int().tolist()
        shown = [steps[i] for i in places]
        batch = view.recipe.train.batch
        pictures = [saved(files[s], f"{kind} after {s * batch:,} images", f"{s * batch:,} images") for s in shown]
        rows.append(Row(kind.capitalize(), pictures))
    if not rows:
        return None
    model = view.model
    fitted = isinstance(model, DrawsCodes) and model.prior is None
    caption = "The same seed and the same held-out images after each check." + (
        " Samples are of N(0, I), since no density is fitted during training." if fitted else ""
    )
    return Section("film", "Over training", caption, rows)
