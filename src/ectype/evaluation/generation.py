"""Figures of samples against test images: distances, diversity and memorization, each with its interval and the value
for real images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.config.schema import DataInfo
from ectype.core.errors import DataError
from ectype.core.random import derive_seed
from ectype.data.loader import Loader, evenly_spaced
from ectype.evaluation.feature_space import MIN_IMAGES_TO_BIN
from ectype.evaluation.features import Extractor
from ectype.evaluation.figure_names import with_space
from ectype.evaluation.figures import Figure
from ectype.evaluation.metrics.diversity import vendi
from ectype.evaluation.metrics.feature_likelihood import feature_likelihood_divergence
from ectype.evaluation.metrics.frechet_kernel import frechet, kernel_distance, moments, sliced_wasserstein
from ectype.evaluation.metrics.intervals import Interval, jackknife, wilson_interval
from ectype.evaluation.metrics.precision_recall import prdc
from ectype.evaluation.registered import sample_figures
from ectype.evaluation.sample_monitor import SampleMonitor
from ectype.models.base import Reconstructs, evaluating

__all__ = ["MAX_SAMPLES", "SampleEvaluation", "evaluate_samples"]

MAX_SAMPLES = 10_000
"""Maximum number of samples, and of test images."""
MAX_PAIRWISE_SAMPLES = 2000
"""Maximum number of each for what is computed many times or for every pair, or where features are slow."""
PATCHES_PER_IMAGE, NUM_DIRECTIONS = 32, 128
"""Of the sliced Wasserstein distance, at each scale."""
GROUP = "generation"


class SampleEvaluation(NamedTuple):
    """What an evaluation of samples found."""

    figures: list[Figure]
    metrics: dict[str, float]
    """Key → value of the metrics that a verdict is based on."""
    monitor: SampleMonitor
    """What they were measured with, and the values for real images."""


def evaluate_samples(
    model: nn.Module,
    train: Loader,
    test: Loader,
    extractors: Sequence[Extractor],
    info: DataInfo,
    *,
    seed: int,
    max_samples: int = MAX_SAMPLES,
) -> SampleEvaluation:
    """Compare new samples with images that neither training nor the selection of a checkpoint used.

    Args:
        model: A model that samples.
        train: Training images without augmentation.
        test: Test images.
        extractors: Feature extractors; the first is the one that the run was monitored by.
        info: Shape and classes of the images.
        seed: Seed of the run; the samples differ from those of its checks.
        max_samples: Maximum number of samples, and of test images.

    Raises:
        DataError: There are too few training or test images.
    """
    if min(len(train), len(test)) < MIN_IMAGES_TO_BIN:
        raise DataError(
            f"{len(train)} training and {len(test)} test images are too few to compare samples with: at least "
            f"{MIN_IMAGES_TO_BIN} of each are needed."
        )
    slow = any(extractor.slow for extractor in extractors)
    images = min(max_samples, MAX_PAIRWISE_SAMPLES) if slow else max_samples
    monitor = SampleMonitor(info, train, test, extractors, images=images, seed=derive_seed(seed, "generation"))
    samples = monitor.draw(model)
    drawn = monitor.features(samples)
    metrics = monitor.metrics(drawn)
    n = monitor.num_samples
    samples, drawn = samples[:n], [features[:n] for features in drawn]
    reconstructed: list[Tensor] = []
    if isinstance(model, Reconstructs):
        # Decoded codes of images: no density on codes can be expected to give better samples.
        with evaluating(model):
            outputs = [model.reconstruct(batch.to(train.device)).cpu() for batch in monitor.train_batches(n)]
        reconstructed = monitor.features(torch.cat(outputs))
    figures = []
    for place in range(len(monitor.spaces)):
        of_space = _SpaceFigures(monitor, place, drawn[place], metrics)
        figures += of_space.figures(reconstructed[place] if reconstructed else None)
    figures += _memorization_figures(monitor, metrics)
    figures.append(_patch_distance_figure(monitor, samples, seed))
    real = monitor.real_images(MAX_PAIRWISE_SAMPLES)
    figures += sample_figures(real, samples[: len(real)], monitor.train_images(len(real)), seed=seed)
    return SampleEvaluation(figures, metrics, monitor)


class _SpaceFigures:
    """Figures in one feature space."""

    def __init__(
        self, monitor: SampleMonitor, place: int, fake: Float[Tensor, "n d"], metrics: dict[str, float]
    ) -> None:
        self.monitor, self.place, self.metrics = monitor, place, metrics
        self.space = monitor.spaces[place]
        self.test, self.fake = self.space.for_distance(self.space.held_out), self.space.for_distance(fake)
        self.real, self.varied = self.space.real, self.space.for_diversity(fake)
        self.name = self.space.extractor.name
        self.suffix = "" if place == 0 else self.space.key
        self.features = f"features: {self.name}, {self.space.distance_dims} principal components"
        self.diversity_features = f"features: {self.name}, {self.space.diversity_dims} principal components"
        if added := len(monitor.diversity_images.train):
            self.diversity_features += f"; {added:,} of the {len(self.real):,} real images are training images"

    def figures(self, reconstructed: Float[Tensor, "n d"] | None) -> list[Figure]:
        found = [
            self._frechet(reconstructed),
            self._kernel_distance(),
            *self._neighbors(),
            self._different_bins(),
            self._duplicates(),
            self._vendi_ratio(),
        ]
        if self.place == len(self.monitor.spaces) - 1:
            found.append(self._feature_likelihood())
        return found

    def _of_metric(self, metric: str, interval: Interval, note: str, n: int, **fields: Any) -> Figure:
        """Return a metric that the monitor has computed as a figure."""
        key = with_space(metric, self.suffix)
        return Figure(
            key,
            self.metrics[key],
            GROUP,
            low=interval.low,
            high=interval.high,
            n=n,
            baselines={"real_images": self.monitor.reference[key].mean},
            note=note,
            comparable_within=self.name,
            **fields,
        )

    def _frechet(self, reconstructed: Float[Tensor, "n d"] | None) -> Figure:
        def distance(x: Tensor, y: Tensor) -> float:
            return frechet(moments(x), moments(y))

        low, high = jackknife(distance, [self.test, self.fake])
        baselines = {"real_images": self.monitor.floors[self.place]}
        if reconstructed is not None:
            baselines["reconstructions"] = distance(self.test, self.space.for_distance(reconstructed))
        numbers = f"{len(self.fake):,} samples, {len(self.test):,} test images"
        return Figure(
            self.space.distance_key,
            distance(self.test, self.fake),
            GROUP,
            low=low,
            high=high,
            n=len(self.test),
            better="lower",
            baselines=baselines,
            note=f"squared Fréchet distance; {self.features}; {numbers}; depends on both numbers",
        )

    def _kernel_distance(self) -> Figure:
        real = self.test[evenly_spaced(len(self.test), MAX_PAIRWISE_SAMPLES)]
        fake = self.fake[:MAX_PAIRWISE_SAMPLES]
        low, high = jackknife(kernel_distance, [real, fake], groups=10)
        pairs = f"all pairs of {len(real):,} and {len(fake):,}"
        return Figure(
            with_space("kernel_distance", self.space.key),
            kernel_distance(real, fake),
            GROUP,
            low=low,
            high=high,
            n=len(real),
            better="lower",
            note=f"unbiased, polynomial kernel of degree 3, {pairs}; {self.features}",
        )

    def _neighbors(self) -> list[Figure]:
        k = self.monitor.k
        found = prdc(self.real, self.varied, k)
        figures = []
        for metric, n, meaning in (
            ("precision", len(self.varied), "samples inside the support of real images"),
            ("recall", len(self.real), "real images inside the support of samples"),
            ("coverage", len(self.real), "real images with a sample among their neighbors"),
        ):
            note = f"fraction of {meaning}; k = {k}; {self.diversity_features}; Wilson interval, given the others"
            interval = wilson_interval(getattr(found, metric), n)
            figures.append(self._of_metric(metric, interval, note, n, better="higher"))
        half = 1.96 * float(found.dense.std()) / math.sqrt(len(self.varied))
        figures.append(
            Figure(
                with_space("density", self.suffix),
                found.density,
                GROUP,
                low=found.density - half,
                high=found.density + half,
                n=len(self.varied),
                note=f"real neighborhoods around a sample ÷ k; 1 for real images; k = {k}; {self.diversity_features}",
                comparable_within=self.name,
            )
        )
        return figures

    def _different_bins(self) -> Figure:
        assert self.space.bins is not None  # there are enough images
        bins = len(self.space.bins.means)
        value = self.metrics[with_space("ndb", self.suffix)]
        note = (
            f"fraction of {bins} clusters that samples fill too much or too little; {self.diversity_features}; "
            "Wilson interval over clusters"
        )
        return self._of_metric("ndb", wilson_interval(value, bins), note, len(self.real), better="lower")

    def _duplicates(self) -> Figure:
        n = min(len(self.real), len(self.varied))
        value = self.metrics[with_space("duplicates", self.suffix)]
        note = f"fraction of samples as close to another sample as one in 200 real images is; {self.diversity_features}"
        return self._of_metric("duplicates", wilson_interval(value, n), note, n, better="lower")

    def _vendi_ratio(self) -> Figure:
        # Equally many of both before any is left out: a sample that takes its place would add noise.
        n = min(len(self.real), len(self.varied))
        pair = [features[evenly_spaced(len(features), n)] for features in (self.real, self.varied)]
        interval = jackknife(lambda x, y: vendi(y) / vendi(x), pair)
        note = f"diversity of samples ÷ that of real images; noise is diverse too; {self.diversity_features}"
        return self._of_metric("vendi_ratio", interval, note, len(self.real))

    def _feature_likelihood(self) -> Figure:
        generator = torch.Generator().manual_seed(self.monitor.seed)
        train, test = (
            features[evenly_spaced(len(features), MAX_PAIRWISE_SAMPLES)]
            for features in (self.space.for_distance(self.space.train), self.test)
        )
        fake = self.fake[:MAX_PAIRWISE_SAMPLES]
        found = feature_likelihood_divergence(train, test, fake, generator=generator)
        half = 1.96 * found.error
        note = (
            "feature likelihood divergence: high for poor samples, for samples without variety and for copies; 0 is as "
            f"good as half of the training set; {self.features}; interval over test images and samples, given the "
            "fitted variances"
        )
        return Figure(
            "fld",
            found.value,
            GROUP,
            low=found.value - half,
            high=found.value + half,
            n=len(found.per_image),
            better="lower",
            note=note,
            comparable_within=self.name,
        )


def _memorization_figures(monitor: SampleMonitor, metrics: dict[str, float]) -> list[Figure]:
    n, m = len(monitor.spaces[-1].train), monitor.num_real
    # The standard error of ranks is exact where nothing is copied, and no larger elsewhere.
    half, auc = 1.96 * math.sqrt((n + m + 1) / (12 * n * m)), metrics["membership_auc"]
    compared = min(monitor.num_samples, m)
    return [
        _memorization_figure(
            monitor,
            metrics,
            "authenticity",
            wilson_interval(metrics["authenticity"], monitor.num_drawn),
            monitor.num_drawn,
            "fraction of samples farther from a training image than that image is from the next one",
        ),
        _memorization_figure(
            monitor,
            metrics,
            "closer_to_training",
            wilson_interval(metrics["closer_to_training"], compared),
            compared,
            "fraction of samples nearer to a training image than to a test image; ½ is fair",
        ),
        _memorization_figure(
            monitor,
            metrics,
            "membership_auc",
            Interval(auc - half, auc + half),
            m,
            f"fraction of pairs of one of {n:,} training images and one of {m:,} test images in which the training "
            "image is nearer to a sample; ½ is fair",
        ),
    ]


def _memorization_figure(
    monitor: SampleMonitor, metrics: dict[str, float], key: str, interval: Interval, n: int, note: str
) -> Figure:
    space = monitor.spaces[-1].extractor.name
    return Figure(
        key,
        metrics[key],
        GROUP,
        low=interval.low,
        high=interval.high,
        n=n,
        baselines={"real_images": monitor.reference[key].mean},
        note=f"{note}; features: {space}",
        comparable_within=space,
    )


def _patch_distance_figure(monitor: SampleMonitor, samples: Float[Tensor, "n c h w"], seed: int) -> Figure:
    real = monitor.real_images(MAX_PAIRWISE_SAMPLES // 2)
    fake = samples[: len(real)]

    def distance(x: Tensor, y: Tensor, kept: Tensor | None = None) -> float:
        generator = torch.Generator().manual_seed(derive_seed(seed, "patches"))
        return sliced_wasserstein(
            x, y, generator=generator, patches=PATCHES_PER_IMAGE, directions=NUM_DIRECTIONS, kept=kept
        ).mean

    # One image of each set is left out at a time: the sets are independent, so any two images make a pair.
    pairs = torch.arange(len(fake))
    low, high = jackknife(lambda kept: distance(real[: len(fake)], fake, kept), [pairs], groups=5)
    return Figure(
        "sliced_wasserstein",
        distance(real, fake),
        GROUP,
        low=low,
        high=high,
        n=len(real),
        better="lower",
        baselines={"real_images": distance(real, monitor.train_images(len(real)))},
        note=f"7×7 patches at all scales of {len(fake):,} samples and {len(real):,} test images; no features",
    )
