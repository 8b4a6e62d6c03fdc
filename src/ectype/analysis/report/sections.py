"""The sections of a page. A section appears only if the model can do what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ectype.analysis.report.code_map import code_map
from ectype.analysis.report.codes import code_scatter, code_usage, interpolations, traversals
from ectype.analysis.report.components import Row, Section, image_title, sample_pictures
from ectype.analysis.report.generation import (
    nearest_training_images,
    sample_quality,
    samples_by_class,
    verdict_evidence,
)
from ectype.analysis.report.pictures import Picture, column, strip
from ectype.analysis.report.training import training_curves, training_progress
from ectype.analysis.report.translation import confusion_matrix, degradation_strength, translations
from ectype.analysis.run_view import RunView
from ectype.evaluation.evaluate import corruption_of
from ectype.evaluation.figures import format_number
from ectype.evaluation.metrics.codes import HasPosterior
from ectype.models.base import LatentSampler, Reconstructs, Samples, evaluating
from ectype.runs.model_files import CodeSampler

__all__ = ["sections"]

NUM_SHOWN_IMAGES = 15
NUM_IMAGES_WITH_DRAWS, NUM_DRAWS = 6, 8
NUM_SAMPLES = 24
"""Samples of each density."""


def sections(view: RunView) -> list[Section]:
    """Return all sections that this run can have, in the order of the page."""
    builders: Sequence[Callable[[RunView], Section | None]] = (
        translations,
        confusion_matrix,
        degradation_strength,
        reconstructions,
        denoising,
        posterior_draws,
        samples,
        samples_by_class,
        nearest_training_images,
        sample_quality,
        verdict_evidence,
        interpolations,
        traversals,
        training_curves,
        training_progress,
        code_usage,
        code_scatter,
        code_map,
    )
    with evaluating(view.model):
        built = [build(view) for build in builders]
    return [section for section in built if section is not None]


def reconstructions(view: RunView) -> Section | None:
    """Show held-out images above their reconstructions."""
    model = view.model
    if not isinstance(model, Reconstructs):
        return None
    groups = {
        "Random images": view.chosen(NUM_SHOWN_IMAGES, "reconstructions"),
        "Smallest error": view.evaluation.cases.get("best", []),
        "Median error": view.evaluation.cases.get("median", []),
        "Largest error": view.evaluation.cases.get("worst", []),
    }
    rows = []
    for title, places in groups.items():
        if places:
            image = view.images(places)
            pictures = _columns(view, places, [image, model.reconstruct(image)], "input, reconstruction")
            rows.append(Row(title, pictures, narrow=title != "Random images"))
    caption = (
        "Held-out images on top and their reconstructions below, with the PSNR of each. The first row is a random "
        f"choice. The others are the best, the median and the worst of {view.evaluation.test_images:,} test images by "
        "squared error."
    )
    return Section("reconstructions", "Reconstructions", caption, rows)


def denoising(view: RunView) -> Section | None:
    """Show clean, corrupted and restored images."""
    model, corruption = view.model, corruption_of(view.model)
    if corruption is None or not isinstance(model, Reconstructs):
        return None
    places = view.chosen(NUM_SHOWN_IMAGES, "restorations")
    image = view.images(places)
    corrupted = corruption.apply(image, view.context)
    pictures = _columns(view, places, [image, corrupted, model.reconstruct(corrupted)], "clean, corrupted, restored")
    caption = (
        f"Clean held-out images, the same images with the corruption that the model was trained to remove "
        f"({corruption.kind}), and the restored images with their PSNR against the clean ones. Corrupted images are "
        "clipped here, but not for the model."
    )
    return Section("denoising", "Denoising", caption, [Row("Random images", pictures)])


def _columns(view: RunView, places: Sequence[int], stacked: Sequence[Tensor], what: str) -> list[Picture]:
    """Return one column for each image, with the PSNR of the last image in it against the first."""
    mse = ((stacked[-1] - stacked[0]) ** 2).flatten(1).mean(1).clamp(min=1e-10)
    decibels = (-10 * torch.log10(mse)).tolist()
    return [
        column(
            torch.stack([images[i] for images in stacked]),
            f"{what}: {image_title(view, place)}",
            f"{decibels[i]:.1f} dB",
        )
        for i, place in enumerate(places)
    ]


def posterior_draws(view: RunView) -> Section | None:
    """Show decoded draws of q(z|x) next to the image."""
    model = view.model
    if not (isinstance(model, HasPosterior) and isinstance(model, Reconstructs)):
        return None
    places = view.chosen(NUM_IMAGES_WITH_DRAWS, "draws")
    image = view.images(places)
    drawn = model.sample_posterior(image, NUM_DRAWS, generator=view.generator("draws"))
    mean = model.reconstruct(image)
    pictures = [
        strip(
            torch.cat([image[i : i + 1], mean[i : i + 1], drawn[:, i]]),
            f"{image_title(view, place)}: the image, its reconstruction from the posterior mean, {NUM_DRAWS} draws",
        )
        for i, place in enumerate(places)
    ]
    spread = float((drawn - drawn.mean(0)).square().mean().sqrt())
    caption = (
        f"The image, its reconstruction from the mean of q(z|x), and {NUM_DRAWS} decoded draws of q(z|x). Over the "
        f"draws of one image, pixels in [0, 1] have a standard deviation of {format_number(spread)}. The draws "
        "show what the code leaves open, without pixel noise."
    )
    return Section("draws", "Draws of q(z|x)", caption, [Row("", pictures)])


def samples(view: RunView) -> Section | None:
    """Show samples, for each density of codes if there are several."""
    model = view.model
    if isinstance(model, CodeSampler) and isinstance(model, LatentSampler):
        rows = []
        for name, about in _densities(view, model).items():
            code = model.densities[name].sample(NUM_SAMPLES, generator=view.generator("samples"))
            images = model.render(code)
            title = f"{name} (default)" if name == model.density else name
            rows.append(Row(title, sample_pictures(images, name), about, narrow=True, tiles=True))
        caption = "Decoded random codes of each density, all from the same seed. None was picked by hand."
        return Section("samples", "Samples", caption, rows)
    if isinstance(model, Samples):
        images = model.sample(NUM_SAMPLES, generator=view.generator("samples"))
        row = Row("", sample_pictures(images, "the model"), tiles=True)
        return Section("samples", "Samples", "Samples from one seed. None was picked by hand.", [row])
    return None


def _densities(view: RunView, model: CodeSampler) -> dict[str, str]:
    """Return the densities of a model's codes, each with what to expect of it."""
    codes = view.codes
    moments = ""
    if codes is not None:
        spread = float(codes.spread.square().mean().sqrt())
        offset = float(codes.centre.square().mean().sqrt())
        moments = (
            f" N(0, I) has mean 0 and standard deviation 1; these codes have {format_number(offset)} and "
            f"{format_number(spread)} (root mean squares over dimensions)."
        )
    about = {
        "normal": (
            f"N(0, I), the prior that the codes were trained towards.{moments}"
            if model.prior == "normal"
            else "N(0, I). The codes were not trained to follow it, so the decoder gets codes it has never seen, and "
            f"its samples show that.{moments}"
        ),
        "flow": "A flow on the codes of training images, trained within the run's budget.",
        "gaussian": "One Gaussian with full covariance, fitted on codes of training images.",
        "gmm": "A mixture of Gaussians, fitted on codes of training images.",
    }
    return {name: about.get(name, "Fitted on codes of training images.") for name in model.densities}
