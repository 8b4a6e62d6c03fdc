"""Evaluation of a model from image to image on held-out pairs: masks against masks, pictures against pictures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.core.errors import ModelError
from ectype.core.random import StepContext
from ectype.data.loader import Loader, evaluation_batches
from ectype.evaluation.figure_names import class_slugs, slug
from ectype.evaluation.figures import Figure, mean_figure
from ectype.evaluation.metrics import segmentation
from ectype.evaluation.metrics.image_errors import image_errors, psnr
from ectype.evaluation.registered import output_values
from ectype.losses.features import choose_network
from ectype.losses.perceptual import PerceptualLoss
from ectype.models.degradations import Amount, degrade
from ectype.models.translator import Restorer, Segmenter, Translator
from ectype.nets.pretrained import find_weights

__all__ = ["degradation_sweep", "describe_degradations", "evaluate_translation", "translation_figures"]

PREFERRED_NETWORK = "EfficientNet-Lite0"
"""Network whose features compare pictures; losses use it last."""
MAX_CLASSES = 12
"""Maximum number of classes that have figures of their own; means are over all classes."""
BOUNDARY_NOTE = "mean over classes, then over images; boundaries within 0.75% of the diagonal count as matched"

PerImage = dict[str, Tensor]
"""Key → one value for each test image [n]."""


def evaluate_translation(model: Translator, test: Loader, seed: int, max_images: int) -> PerImage:
    """Compute the values of every test image. The model must be in evaluation mode, without gradients.

    Args:
        model: The model.
        test: Held-out pairs.
        seed: Seed of the run.
        max_images: Maximum number of images, spread evenly.

    Returns:
        Key → value of each image. `error` is what images are sorted by, larger being worse; `input/KEY` is the value of
        the input itself. For masks, `counts` [n, k, k] is the confusion matrix of each image.
    """
    device = next(model.parameters()).device
    batch_size, context = evaluation_batches(model.info, seed, device)
    features = None if isinstance(model, Segmenter) else _perceptual_features(model)
    features = None if features is None else features.to(device)
    kept: dict[str, list[Tensor]] = defaultdict(list)
    for batch, here in test.batches(batch_size, context, max_images=max_images):
        image, target = model.input_and_target(batch, here)
        output = model.translate(image)
        if isinstance(model, Segmenter):
            values = _mask_values(model, output, target)
        else:
            values = _picture_values(image, output, target, features)
        for key, each in (values | output_values(target, output)).items():
            kept[key].append(each.cpu())
    return {key: torch.cat(parts) for key, parts in kept.items()}


def _mask_values(model: Segmenter, probabilities: Tensor, target: Tensor) -> PerImage:
    predicted, classes = probabilities.argmax(1), model.channels
    counts = segmentation.confusion_matrices(predicted, target, classes)
    dice = torch.stack([segmentation.dice(each) for each in counts])
    boundary_f1 = segmentation.boundary_f1(predicted, target, classes)
    return {"counts": counts, "error": (1 - dice.nanmean(1)).nan_to_num(0.0), "boundary_f1": boundary_f1.nanmean(1)}


def _picture_values(image: Tensor, output: Tensor, target: Tensor, features: PerceptualLoss | None) -> PerImage:
    errors = image_errors(output, target)
    values = {"psnr": errors.psnr, "ssim": errors.ssim, "l1": _l1(output, target), "error": errors.mse}
    perceptual = "" if features is None else f"perceptual_distance_{slug(features.network)}"
    if features is not None:
        values[perceptual] = features(output, target)
    if image.shape[1] in (1, target.shape[1]):
        image = image.expand_as(target)
        before = image_errors(image, target)
        values |= {"input/psnr": before.psnr, "input/ssim": before.ssim, "input/l1": _l1(image, target)}
        if features is not None:
            values[f"input/{perceptual}"] = features(image.clamp(0, 1), target)
    return values


def _l1(image: Tensor, target: Tensor) -> Float[Tensor, " b"]:
    return (image - target).abs().flatten(1).mean(1)


def _perceptual_features(model: Translator) -> PerceptualLoss | None:
    """Return the network whose features compare pictures; None where no weights are available."""
    name = PREFERRED_NETWORK if find_weights(PREFERRED_NETWORK) is not None else "auto"
    try:
        return PerceptualLoss(model.channels, network=choose_network(name)).eval()
    except ModelError:
        return None


def translation_figures(model: Translator, values: PerImage) -> list[Figure]:
    """Return all figures, with intervals over test images.

    Args:
        model: The model.
        values: As `evaluate_translation` returns them.
    """
    return _mask_figures(model, values) if isinstance(model, Segmenter) else _picture_figures(model, values)


def _mask_figures(model: Segmenter, values: PerImage) -> list[Figure]:
    counts = values["counts"]
    assert model.info.target is not None
    total, n = counts.sum(0), len(counts)
    names = model.info.target.classes
    # Baseline: every pixel gets the most frequent class.
    one_class = torch.zeros_like(total)
    one_class[:, total.sum(1).argmax()] = total.sum(1)

    def figure(
        key: str, statistic: Callable[[Tensor], float], note: str = "", *, baseline: bool = False, name: str = ""
    ) -> Figure:
        low, high = segmentation.bootstrap_interval(statistic, counts)
        baselines = {"one_class": statistic(one_class)} if baseline else {}
        return Figure(key, statistic(total), "masks", "", low, high, n, "higher", baselines, note, name=name)

    def mean_over_classes(metric: Callable[[Tensor], Tensor], counts: Tensor) -> float:
        return segmentation.mean_over_classes(metric(counts))

    def of_class(metric: Callable[[Tensor], Tensor], index: int, counts: Tensor) -> float:
        return float(metric(counts)[index])

    note = "over all pixels of the test images; a class that is neither in a mask nor predicted is left out"
    figures = [
        figure("mean_dice", partial(mean_over_classes, segmentation.dice), note, baseline=True),
        figure("mean_iou", partial(mean_over_classes, segmentation.iou), note, baseline=True),
        figure("pixel_accuracy", segmentation.pixel_accuracy, baseline=True),
    ]
    slugs = class_slugs(names)
    for text, metric in (("Dice", segmentation.dice), ("IoU", segmentation.iou)):
        for index, name in enumerate(names[:MAX_CLASSES]):
            key = f"{text.lower()}_{slugs[index]}"
            figures.append(figure(key, partial(of_class, metric, index), name=f"{text} of {name}"))
    f1 = values["boundary_f1"]
    f1 = f1[~f1.isnan()]
    if len(f1):
        figures.append(mean_figure("boundary_f1", f1, "masks", better="higher", note=BOUNDARY_NOTE))
    else:
        figures.append(Figure("boundary_f1", math.nan, "masks", n=0, better="higher", note=BOUNDARY_NOTE))
    return figures


def _picture_figures(model: Translator, values: PerImage) -> list[Figure]:
    restores = isinstance(model, Restorer)
    degraded = f"input degraded by {describe_degradations(model.config.degrade)}; not clipped" if restores else ""
    figures = []
    for key, each in values.items():
        if key == "error" or "/" in key:
            continue
        known = values.get(f"input/{key}")
        figures.append(
            mean_figure(
                key,
                each,
                "pictures",
                unit="dB" if key == "psnr" else "",
                better="higher" if key in ("psnr", "ssim") else "lower",
                baselines={} if known is None else {"input": float(known.mean())},
                note=degraded or "against the target",
            )
        )
    return figures


def describe_degradations(amounts: dict[str, Amount]) -> str:
    """Return degradations and their amounts as text.

    >>> describe_degradations({"noise": 0.1, "blur": (0.5, 2)})
    'noise 0.1, blur 0.5 to 2'
    """
    texts = {k: f"{v[0]:g} to {v[1]:g}" if isinstance(v, tuple) else f"{v:g}" for k, v in amounts.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def degradation_sweep(
    model: Restorer,
    images: Float[Tensor, "n c h w"],
    context: StepContext,
    name: str,
    amounts: list[float],
    batch_size: int = 8,
) -> list[tuple[float, float]]:
    """Measure a restoring model at several amounts of one degradation, with the others as in training.

    Args:
        model: The model.
        images: Clean images in [0, 1].
        context: Random draws of the degradations.
        name: The degradation that varies.
        amounts: Its amounts.
        batch_size: Images per batch.

    Returns:
        Mean PSNR of the degraded and of the restored images, for each amount.
    """
    points = []
    for amount in amounts:
        degraded = degrade(images, {**model.config.degrade, name: amount}, context)
        restored = torch.cat([model.translate(part) for part in degraded.split(batch_size)])
        errors = (((image - images) ** 2).flatten(1).mean(1) for image in (degraded, restored))
        before, after = (float(psnr(error).mean()) for error in errors)
        points.append((before, after))
    return points
