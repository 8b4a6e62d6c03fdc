"""A model from image to image on held-out images: masks against masks, pictures against pictures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.data.batch import Moment
from ectype.data.feed import Feed
from ectype.errors import ModelError
from ectype.losses.features import choose_network
from ectype.losses.perceptual import Perceptual
from ectype.measure import segmentation
from ectype.measure.evaluation import Figure
from ectype.measure.reconstruction import closeness, interval, psnr
from ectype.models.degradations import Amount, degrade
from ectype.models.translator import Restorer, Segmenter, Translator
from ectype.nets.pretrained import find_weights
from ectype.training.position import looking

__all__ = ["CONFUSION", "figures_of", "said_of", "sweep", "translated"]

CONFUSION = "confusion"
"""Under which an evaluation keeps pixels by right and found class, row by row."""
JUDGE = "EfficientNet-Lite0"
CLASSES = 12
"""Most classes that have figures of their own; the means are over all."""


PerImage = dict[str, Tensor]


def translated(model: Translator, test: Feed, seed: int, most: int) -> PerImage:
    """Every test image's numbers by name. The model is in evaluation mode and without gradients.

    `error` is what images are put in order by, the larger the worse. Of masks, `counts` [n, k, k] are pixels by right
    and found class.
    """
    device = next(model.parameters()).device
    size, moment = looking(model.info, seed, device)
    features = None if isinstance(model, Segmenter) else _features(model)
    features = None if features is None else features.to(device)
    found: dict[str, list[Tensor]] = defaultdict(list)
    for batch, here in test.sequence(size, moment, most=most):
        given, wanted = model.pair(batch, here)
        made = model.translate(given)
        masks = isinstance(model, Segmenter)
        seen = _of_masks(model, made, wanted) if masks else _of_pictures(given, made, wanted, features)
        for name, values in seen.items():
            found[name].append(values.cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def _of_masks(model: Segmenter, chance: Tensor, right: Tensor) -> dict[str, Tensor]:
    named, classes = chance.argmax(1), model.channels
    counts = segmentation.confusion(named, right, classes)
    each = torch.stack([segmentation.dice(one) for one in counts])
    outlines = segmentation.boundary_f1(named, right, classes)
    return {"counts": counts, "error": (1 - each.nanmean(1)).nan_to_num(0.0), "boundary F1": outlines.nanmean(1)}


def _of_pictures(given: Tensor, made: Tensor, wanted: Tensor, features: Perceptual | None) -> dict[str, Tensor]:
    near = closeness(made, wanted)
    found = {"PSNR": near.psnr, "SSIM": near.ssim, "L1": (made - wanted).abs().flatten(1).mean(1), "error": near.mse}
    if features is not None:
        found[f"distance of {features.network}"] = features(made, wanted)
    if given.shape[1] in (1, wanted.shape[1]):
        before = closeness(given.expand_as(wanted), wanted)
        found |= {"input PSNR": before.psnr, "input SSIM": before.ssim}
        if features is not None:
            found[f"input distance of {features.network}"] = features(given.expand_as(wanted).clamp(0, 1), wanted)
        found["input L1"] = (given - wanted).abs().flatten(1).mean(1)
    return found


def _features(model: Translator) -> Perceptual | None:
    """The network whose features compare pictures, if one is at hand: first the one that losses take last."""
    wanted = JUDGE if find_weights(JUDGE) is not None else "auto"
    try:
        return Perceptual(model.channels, network=choose_network(wanted)).eval()
    except ModelError:
        return None


def figures_of(model: Translator, found: PerImage) -> list[Figure]:
    """All figures, with intervals over test images."""
    return _mask_figures(model, found) if isinstance(model, Segmenter) else _picture_figures(model, found)


def _mask_figures(model: Segmenter, found: PerImage) -> list[Figure]:
    counts = found["counts"]
    assert model.info.target is not None
    total, n = counts.sum(0), len(counts)
    names = model.info.target.classes
    figures = []

    def figure(name: str, of: Callable[[Tensor], float], note: str = "", trivial: Tensor | None = None) -> None:
        low, high = segmentation.resampled(of, counts)
        beside = {} if trivial is None else {"one class for all": of(trivial)}
        figures.append(Figure(name, of(total), "masks", "", low, high, n, "higher", beside, note))

    # What calling every pixel by the most frequent class would reach.
    common = total.sum(1).argmax()
    trivial = torch.zeros_like(total)
    trivial[:, common] = total.sum(1)
    note = "over all pixels of the test images; a class that is neither there nor found is left out"
    for name, measure in (("mean Dice", segmentation.dice), ("mean IoU", segmentation.iou)):
        figure(name, lambda c, measure=measure: segmentation.mean_of_classes(measure(c)), note, trivial)
    figure("pixel accuracy", segmentation.accuracy, trivial=trivial)
    for name, measure in (("Dice", segmentation.dice), ("IoU", segmentation.iou)):
        for index, called in enumerate(names[:CLASSES]):
            figure(f"{name} of {called}", lambda c, measure=measure, index=index: float(measure(c)[index]))
    outlines = found["boundary F1"]
    outlines = outlines[~outlines.isnan()]
    low, high = interval(outlines)
    note = "a mean over classes, then over images; outlines within 0.75% of the diagonal count as met"
    mean = float(outlines.mean()) if len(outlines) else math.nan
    figures.append(Figure("boundary F1", mean, "masks", "", low, high, len(outlines), "higher", note=note))
    return figures


def _picture_figures(model: Translator, found: PerImage) -> list[Figure]:
    figures = []
    restores = isinstance(model, Restorer)
    note = f"input spoiled by {said_of(model.config.degrade)}; not clipped" if restores else "against the partner"
    for name, value in found.items():
        if name == "error" or name.startswith("input "):
            continue
        beside = {}
        if f"input {name}" in found:
            beside["the input itself"] = float(found[f"input {name}"].mean())
        better = "higher" if name in ("PSNR", "SSIM") else "lower"
        unit = "dB" if name == "PSNR" else ""
        low, high = interval(value)
        mean = float(value.double().mean())
        figures.append(Figure(name, mean, "pictures", unit, low, high, len(value), better, beside, note))
    return figures


def said_of(wanted: dict[str, Amount]) -> str:
    """Degradations in words."""
    amounts = {k: f"{v[0]:g} to {v[1]:g}" if isinstance(v, tuple) else f"{v:g}" for k, v in wanted.items()}
    return ", ".join(f"{name} {amount}" for name, amount in amounts.items())


def sweep(
    model: Restorer,
    images: Float[Tensor, "n c h w"],
    moment: Moment,
    name: str,
    amounts: list[float],
    at_once: int = 8,
) -> list[tuple[float, float]]:
    """Mean PSNR of the input and of what is made of it, one degradation at each amount, the others as in training."""
    points = []
    for amount in amounts:
        given = degrade(images, {**model.config.degrade, name: amount}, moment)
        made = torch.cat([model.translate(part) for part in given.split(at_once)])
        errors = (((picture - images) ** 2).flatten(1).mean(1) for picture in (given, made))
        before, after = (float(psnr(error).mean()) for error in errors)
        points.append((before, after))
    return points
