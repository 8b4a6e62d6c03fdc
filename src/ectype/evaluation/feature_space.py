"""Real images in the feature space of one extractor, which samples are compared with there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.loader import evenly_spaced
from ectype.evaluation.features import Extractor
from ectype.evaluation.figure_names import FID, slug, with_space
from ectype.evaluation.metrics.diversity import Bins, fit_bins
from ectype.evaluation.metrics.frechet_kernel import Moments, Projection, fit_projection, moments

__all__ = ["DiversityImages", "FeatureSpace", "feature_space", "frechet_dimensions"]

MIN_DIVERSITY_IMAGES = 500
"""Real images that diversity is measured on, if there are as many samples: training images make up for few held-out
ones."""
MIN_IMAGES_TO_BIN = 20
"""Training and held-out images that bins need."""
MAX_IMAGES_FOR_BINS = 5000
"""Maximum number of training images that bins are fitted on."""


def frechet_dimensions(extractor: Extractor, real: int) -> int:
    """Return the number of principal components of a Fréchet distance: a quarter of the real images, at most 128.

    A covariance has d²/2 elements; with fewer than about four images per dimension it is mostly noise.
    """
    return max(2, min(128, extractor.dimensions, real // 4))


class DiversityImages(NamedTuple):
    """Indices of the real images that diversity is measured on, the held-out ones first.

    A few dozen held-out images are no measure of diversity: their neighborhoods are so wide that samples fall into each
    of them, so that coverage is 1 for any samples. Training images, which the samples should resemble as much, make
    them 500. More images than samples are not used either: coverage would be low for any samples.
    """

    held_out: Int[Tensor, " h"]
    train: Int[Tensor, " t"]

    @classmethod
    def choose(cls, held_out: int, train: int, samples: int) -> DiversityImages:
        """Choose at most as many images as there are samples, spread evenly.

        Args:
            held_out: Number of held-out images.
            train: Number of training images: at least twice the number of samples, so that as many are left over.
            samples: Number of samples.
        """
        n = min(samples, max(held_out, MIN_DIVERSITY_IMAGES))
        chosen = evenly_spaced(held_out, n)
        return cls(chosen, evenly_spaced(train, n - len(chosen)))

    def __len__(self) -> int:
        return len(self.held_out) + len(self.train)


class FeatureSpace(NamedTuple):
    """Real images in the feature space of one extractor, as principal components of the training images.

    How many components are compared depends on what is estimated: a Fréchet distance estimates a covariance of the
    held-out images, so that few of them allow few components. Neighborhoods need no such estimate. On the components
    that a few dozen held-out images allow, samples that lack most of the variety have the same recall as real ones.
    """

    extractor: Extractor
    projection: Projection
    distance_dims: int
    """Leading components of distances."""
    copy_dims: int
    """Leading components of memorization: as training images determine the components, they are farther from each other
    on many of them than from unseen images."""
    diversity_dims: int
    """Leading components of diversity."""
    train: Float[Tensor, "n p"]
    """Projected features of training images; sets of real images are drawn from them."""
    held_out: Float[Tensor, "m p"]
    real: Float[Tensor, "v d"]
    """The images that diversity is measured on."""
    moments: Moments
    """Of the held-out images, on the components of distances."""
    bins: Bins | None
    """None where there are too few images to fill two bins."""

    @property
    def key(self) -> str:
        """Slug of the space, which ends its keys."""
        return slug(self.extractor.name)

    @property
    def distance_key(self) -> str:
        """Key of the Fréchet distance in this space; FID is that on all of Inception's features and nothing else."""
        complete = self.distance_dims == self.extractor.dimensions
        return FID if self.extractor.inception and complete else with_space("fd", self.key)

    def for_distance(self, features: Float[Tensor, "n p"]) -> Float[Tensor, "n d"]:
        """Return the components that distances are measured on."""
        return features[:, : self.distance_dims]

    def for_copies(self, features: Float[Tensor, "n p"]) -> Float[Tensor, "n d"]:
        """Return the components that memorization is measured on."""
        return features[:, : self.copy_dims]

    def for_diversity(self, features: Float[Tensor, "n p"]) -> Float[Tensor, "n d"]:
        """Return the components that diversity is measured on."""
        return features[:, : self.diversity_dims]


def feature_space(
    extractor: Extractor,
    train: Float[Tensor, "n f"],
    held_out: Float[Tensor, "m f"],
    images: DiversityImages,
    *,
    seed: int,
) -> FeatureSpace:
    """Project features of real images onto principal components and fit bins to them.

    Args:
        extractor: The extractor of the features.
        train: Features of training images.
        held_out: Features of held-out images.
        images: The images that diversity is measured on.
        seed: Seed of the bins.
    """
    distance = frechet_dimensions(extractor, len(held_out))
    diversity = frechet_dimensions(extractor, len(train))
    copies = max(distance, min(diversity, frechet_dimensions(extractor, len(train) // 2)))
    projection = fit_projection(train, max(distance, diversity))
    train, held_out = projection.apply(train), projection.apply(held_out)
    real = torch.cat([held_out[images.held_out], train[images.train]])[:, :diversity]
    bins = None
    if min(len(train), len(real)) >= MIN_IMAGES_TO_BIN:
        bins = fit_bins(train[evenly_spaced(len(train), MAX_IMAGES_FOR_BINS), :diversity], len(real), seed=seed)
    # Features may have fewer components than were asked for.
    distance, copies, diversity = (min(d, train.shape[1]) for d in (distance, copies, diversity))
    of_held_out = moments(held_out[:, :distance])
    return FeatureSpace(extractor, projection, distance, copies, diversity, train, held_out, real, of_held_out, bins)
