"""Samples against test images: distances, variety, copies, each with an interval and what real images show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.data.feed import Feed, evenly
from ectype.errors import DataError
from ectype.measure.codes import wilson
from ectype.measure.distances import (
    frechet,
    kernel_distance,
    moments,
    sliced_wasserstein,
)
from ectype.measure.diversity import vendi
from ectype.measure.evaluation import Figure
from ectype.measure.features import Extractor
from ectype.measure.fld import feature_likelihood_divergence
from ectype.measure.intervals import jackknife
from ectype.measure.neighbours import prdc
from ectype.measure.watching import LEAST_BINNED, SampleWatch
from ectype.models.base import Reconstructs, evaluating
from ectype.sections import DataInfo
from ectype.training.position import derive

__all__ = ["MOST", "RECONSTRUCTIONS", "generation"]

MOST = 10_000
"""Most samples, and most test images."""
FEW = 2000
"""Most of each for what is computed many times over or for every pair, or where features take their time."""
PATCHES, DIRECTIONS = 32, 128
GROUP, RECONSTRUCTIONS = "generation", "reconstructions of training images"


def generation(
    model: nn.Module,
    train: Feed,
    test: Feed,
    extractors: Sequence[Extractor],
    info: DataInfo,
    *,
    seed: int,
    most: int = MOST,
) -> tuple[list[Figure], dict[str, float], SampleWatch]:
    """Figures of new samples against images that neither training nor the choice of a checkpoint saw.

    Args:
        model: It samples.
        train: Training images without augmentation.
        test: Test images.
        extractors: The first is the one that the run was followed by.
        info: Of the images.
        seed: Of the run; the samples are others than those of its checks.
        most: At most so many samples and test images.

    Returns:
        Figures, the signs that a verdict needs, and what they were measured by.

    Raises:
        DataError: Too few test images.
    """
    images = min(most, FEW) if any(extractor.slow for extractor in extractors) else most
    if min(len(train), len(test)) < LEAST_BINNED:
        raise DataError(
            f"{len(train)} training and {len(test)} test images are too few to compare samples with: "
            f"{LEAST_BINNED} of each are the least."
        )
    watch = SampleWatch(info, train, test, extractors, images=images, seed=derive(seed, "generation"))
    samples = watch.draw(model)
    drawn = watch.features(samples)
    signs = watch.signs(drawn)
    samples, drawn = samples[: watch.samples], [features[: watch.samples] for features in drawn]
    back: list[Tensor] = []
    if isinstance(model, Reconstructs):
        # What a decoder makes of codes that images have: no density on codes can be asked for better.
        with evaluating(model):
            made = [model.reconstruct(part.to(train.device)).cpu() for part in watch.train_parts(watch.samples)]
        back = watch.features(torch.cat(made))
    figures = []
    for place in range(len(watch.spaces)):
        figures += _in_space(watch, place, drawn[place], signs, back[place] if back else None)
    figures += _copies(watch, signs)
    figures.append(_patches(watch, samples, seed))
    return figures, signs, watch


def _in_space(
    watch: SampleWatch,
    place: int,
    fake: Float[Tensor, "n d"],
    signs: dict[str, float],
    back: Float[Tensor, "n d"] | None,
) -> list[Figure]:
    space = watch.spaces[place]
    real, name, bins = space.held_out, space.extractor.name, space.bins
    assert bins is not None  # there are enough images
    end = "" if place == 0 else f" ({name})"
    beside = {key: {"real images": sign.mean} for key, sign in watch.reference.items()}
    on = f"features: {name}, {len(space.projection.directions)} principal components"
    n = f"{len(fake):,} samples, {len(real):,} test images"

    def of_moments(x: Tensor, y: Tensor) -> float:
        return frechet(moments(x), moments(y))

    low, high = jackknife(of_moments, [real, fake])
    floor = {"real images": watch.floors[place]}
    if back is not None:
        floor[RECONSTRUCTIONS] = of_moments(real, back)
    figures = [
        Figure(
            space.distance_name,
            of_moments(real, fake),
            GROUP,
            low=low,
            high=high,
            n=len(real),
            better="lower",
            beside=floor,
            note=f"squared Fréchet distance; {on}; {n}; depends on both numbers",
        )
    ]
    some, made = real[evenly(len(real), FEW)], fake[:FEW]
    low, high = jackknife(kernel_distance, [some, made], groups=10)
    figures.append(
        Figure(
            f"kernel distance{end}",
            kernel_distance(some, made),
            GROUP,
            low=low,
            high=high,
            n=len(some),
            better="lower",
            note=f"unbiased, polynomial kernel of degree 3, all pairs of {len(some):,} and {len(made):,}; {on}",
        )
    )
    shares = prdc(real, fake, watch.k)
    words = {
        "precision": (shares.precision, len(fake), "samples inside of the support of real images"),
        "recall": (shares.recall, len(real), "real images inside of the support of samples"),
        "coverage": (shares.coverage, len(real), "real images with a sample among their neighbours"),
    }
    for key, (value, count, note) in words.items():
        low, high = wilson(value, count)
        figures.append(
            Figure(
                f"{key}{end}",
                value,
                GROUP,
                low=low,
                high=high,
                n=count,
                better="higher",
                beside=beside[f"{key}{end}"],
                note=f"share of {note}; k = {watch.k}; {on}; Wilson interval, given the others",
            )
        )
    half = 1.96 * float(shares.dense.std()) / math.sqrt(len(fake))
    figures.append(
        Figure(
            f"density{end}",
            shares.density,
            GROUP,
            low=shares.density - half,
            high=shares.density + half,
            n=len(fake),
            note=f"real neighbourhoods around a sample ÷ k; 1 for real images; k = {watch.k}; {on}",
        )
    )
    low, high = wilson(signs[f"NDB/K{end}"], len(bins.means))
    figures.append(
        Figure(
            f"NDB/K{end}",
            signs[f"NDB/K{end}"],
            GROUP,
            low=low,
            high=high,
            n=len(real),
            better="lower",
            beside=beside[f"NDB/K{end}"],
            note=f"share of {len(bins.means)} clusters that samples fill too much or too little; {on}; Wilson interval "
            "over clusters",
        )
    )
    note = f"share of samples as close to another one as one in 200 real images is; {on}"
    n = min(len(real), len(fake))
    key = f"repeated{end}"
    figures.append(_share(watch, signs, key, wilson(signs[key], n), n, "lower", note))
    # As many of both, before any is left out: others that take the place of those would be noise.
    as_many = [features[evenly(len(features), n)] for features in (real, fake)]
    low, high = jackknife(lambda x, y: vendi(y) / vendi(x), as_many)
    figures.append(
        Figure(
            f"Vendi ratio{end}",
            signs[f"Vendi ratio{end}"],
            GROUP,
            low=low,
            high=high,
            n=len(real),
            beside=beside[f"Vendi ratio{end}"],
            note=f"variety of samples ÷ that of real images; noise varies too; {on}",
        )
    )
    if place == len(watch.spaces) - 1:
        figures.append(_likelihood(watch, place, fake, on))
    return figures


def _likelihood(watch: SampleWatch, place: int, fake: Tensor, on: str) -> Figure:
    space, generator = watch.spaces[place], torch.Generator().manual_seed(watch.seed)
    train, test = (real[evenly(len(real), FEW)] for real in (space.train, space.held_out))
    found = feature_likelihood_divergence(train, test, fake[:FEW], generator=generator)
    half = 1.96 * found.error
    return Figure(
        "FLD",
        found.value,
        GROUP,
        low=found.value - half,
        high=found.value + half,
        n=len(found.each),
        better="lower",
        note=f"feature likelihood divergence: poor, narrow and copied samples are high; 0 is half of train; {on}; "
        "interval over test images and samples, given the fitted variances",
    )


def _copies(watch: SampleWatch, signs: dict[str, float]) -> list[Figure]:
    name = watch.spaces[-1].extractor.name
    rows: dict[str, tuple[str, Literal["lower", "higher"] | None]] = {
        "authenticity": ("share of samples farther from a training image than that one is from the next", None),
        "closer to training images": ("share of samples nearer to a training than to a test image; ½ is fair", None),
    }
    figures = []
    for key, (note, better) in rows.items():
        n = watch.drawn if key == "authenticity" else min(watch.samples, watch.real)
        figures.append(_share(watch, signs, key, wilson(signs[key], n), n, better, f"{note}; features: {name}"))
    # The error of ranks is known where nothing is copied, and no larger elsewhere.
    n, m = len(watch.spaces[-1].train), watch.real
    half = 1.96 * math.sqrt((n + m + 1) / (12 * n * m))
    told = signs["told from held-out"]
    note = (
        f"share of pairs of one of {n:,} training and one of {m:,} test images in which the training image is nearer "
        f"to a sample; ½ is fair; features: {name}"
    )
    figures.append(_share(watch, signs, "told from held-out", (told - half, told + half), m, None, note))
    return figures


def _share(
    watch: SampleWatch,
    signs: dict[str, float],
    key: str,
    interval: tuple[float, float],
    n: int,
    better: Literal["lower", "higher"] | None,
    note: str,
) -> Figure:
    low, high = interval
    beside = {"real images": watch.reference[key].mean}
    return Figure(key, signs[key], GROUP, low=low, high=high, n=n, better=better, beside=beside, note=note)


def _patches(watch: SampleWatch, samples: Float[Tensor, "n c h w"], seed: int) -> Figure:
    real = watch.real_images(FEW // 2)
    made = samples[: len(real)]

    def distance(x: Tensor, y: Tensor, kept: Tensor | None = None) -> float:
        generator = torch.Generator().manual_seed(derive(seed, "patches"))
        found = sliced_wasserstein(x, y, generator=generator, patches=PATCHES, directions=DIRECTIONS, kept=kept)
        return found.mean

    # One of either set is left out at a time: they are independent, so that any two make a pair.
    pairs = torch.arange(len(made))
    low, high = jackknife(lambda kept: distance(real[: len(made)], made, kept), [pairs], groups=5)
    train = watch.train_images(len(real))
    return Figure(
        "sliced Wasserstein distance × 10³",
        distance(real, made),
        GROUP,
        low=low,
        high=high,
        n=len(real),
        better="lower",
        beside={"real images": distance(real, train)},
        note=f"7×7 patches over all scales of {len(made):,} samples and {len(real):,} test images; no features",
    )
