"""How far two sets of images are apart: distances between features and between patches.

Nothing here knows models or data: what comes in are features of images as rows, or the images themselves.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.feed import evenly
from ectype.errors import DataError

__all__ = [
    "Moments",
    "Projection",
    "SlicedWasserstein",
    "check_features",
    "fit_projection",
    "frechet",
    "kernel_distance",
    "moments",
    "sliced_wasserstein",
]

PATCH = 7
"""Height and width of the patches that the sliced Wasserstein distance compares."""
SMALLEST_LEVEL = 16
"""Pixels of a side below which an image is not halved again."""
PROJECTED = 32_000_000
"""Numbers that are sorted at once: 128 MB in float32."""


# ── Fréchet distance ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What the Fréchet distance knows of a set of features, in float64."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    """Unbiased: divided by n − 1."""
    n: int
    """Features that both were computed from."""

    @functools.cached_property
    def root(self) -> Float[Tensor, "d d"]:
        """The symmetric square root of the covariance, computed when first asked for and kept.

        Eigenvalues within rounding of zero count as zero. They are what a covariance of fewer features than dimensions
        has most of, and a square root would turn a rounding of 1e-16 into 1e-8.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * _without_rounding(values).sqrt()) @ vectors.T


def moments(features: Float[Tensor, "n d"]) -> Moments:
    """Mean and unbiased covariance of features, in float64.

    Raises:
        DataError: Fewer than two features, or some that are not finite.
    """
    check_features(features)
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1), len(features))


def frechet(reference: Moments, other: Moments) -> float:
    """The squared Fréchet distance of two Gaussians with these moments (Dowson and Landau 1982; Heusel et al. 2017).

    ‖μ − μ'‖² + tr S + tr S' − 2 tr (S^½ S' S^½)^½, in squared units of the features, never below 0. It is called FID
    only on the features of one Inception network. It is biased upwards by few features, the more the higher their
    dimension: compare at the same n only (Chong and Forsyth 2020).

    Args:
        reference: Whose root of the covariance is kept, so that each further distance to it costs one product and the
            eigenvalues of a symmetric matrix.
        other: Of features of the same dimension; the distance is symmetric.

    Raises:
        DataError: Features of different dimensions.
    """
    if reference.mean.shape != other.mean.shape:
        raise DataError(
            f"features of {len(reference.mean)} and {len(other.mean)} numbers have no distance: "
            "give both sets of images the same features."
        )
    product = reference.root @ other.covariance @ reference.root
    overlap = _without_rounding(torch.linalg.eigvalsh(product)).sqrt().sum()
    means = (reference.mean - other.mean).square().sum()
    return max(0.0, float(means + reference.covariance.trace() + other.covariance.trace() - 2 * overlap))


class Projection(NamedTuple):
    """A centre and orthonormal directions, in float64: few coordinates that keep most of the variance."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "k d"]
    """Largest variance first."""
    explained: float
    """Share of the variance that the directions hold, in [0, 1]."""

    def apply(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Coordinates along the directions, in float64."""
        return (features.double() - self.mean) @ self.directions.T


def fit_projection(features: Float[Tensor, "n d"], k: int) -> Projection:
    """Principal components of features: centred, orthonormal, not whitened.

    Args:
        features: Of real images: a projection fitted on generated ones would hide what they lack.
        k: Most dimensions; fewer where the features have no more, which is n − 1 at the most.

    Raises:
        DataError: Fewer than two features, some that are not finite, all the same, or k below 1.
    """
    check_features(features)
    if k < 1:
        raise DataError(f"a projection onto {k} dimensions keeps nothing: ask for 1 or more.")
    n, d = features.shape
    mean = features.double().mean(0)
    centred = features.double() - mean
    if d <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        values, directions = values.flip(0), vectors.T.flip(0)
    else:
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        values = singular.square()
    scale = float(features.double().square().sum())
    kept = values[:k] > torch.finfo(torch.float64).eps * max(n, d) * scale
    if not bool(kept.any()):
        raise DataError(f"all {n:,} features are the same: a projection needs images that differ.")
    share = float(values[:k][kept].sum() / values.clamp(min=0).sum())
    return Projection(mean, directions[:k][kept].contiguous(), min(1.0, share))


# ── Kernel distance ──────────────────────────────────────────────────────────────────────────────────────────────────


def kernel_distance(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    *,
    chunk: int = 1024,
) -> float:
    """The unbiased squared maximum mean discrepancy over all pairs (Gretton et al. 2012, eq. 3; KID, Bińkowski 2018).

    With the kernel (γ x·y + coef)^degree. KID as it is usually reported is a mean over random subsets of this; over all
    pairs there is nothing to draw. It has no bias at any n, so it may be below 0. In float64.

    Args:
        x: Features of at least two images.
        y: Features of at least two images; n and m may differ.
        degree: Of the polynomial.
        gamma: None for 1/d.
        coef: What is added to the scaled product.
        chunk: Rows and columns of the kernel matrix that are in memory at once.

    Raises:
        DataError: Fewer than two features in a set, or some that are not finite.
    """
    check_features(x)
    check_features(y)
    x, y = x.double(), y.double()
    scale = 1 / x.shape[1] if gamma is None else gamma

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T).mul_(scale).add_(coef).pow_(degree)

    def within(a: Tensor) -> Tensor:
        parts, total = a.split(chunk), a.new_zeros(())
        for i, rows in enumerate(parts):
            block = kernel(rows, rows)
            total += block.sum() - block.diagonal().sum()
            for columns in parts[i + 1 :]:
                total += 2 * kernel(rows, columns).sum()
        return total / (len(a) * (len(a) - 1))

    between = sum(
        (kernel(rows, columns).sum() for rows in x.split(chunk) for columns in y.split(chunk)), x.new_zeros(())
    )
    return float(within(x) + within(y) - 2 * between / (len(x) * len(y)))


# ── Sliced Wasserstein distance ──────────────────────────────────────────────────────────────────────────────────────


class SlicedWasserstein(NamedTuple):
    """How far patches are apart, at each scale."""

    levels: dict[int, float]
    """Height of the level in pixels → 10³ × distance, the finest first."""

    @property
    def mean(self) -> float:
        """Over levels, × 10³."""
        return sum(self.levels.values()) / len(self.levels)


def sliced_wasserstein(
    real_images: Float[Tensor, "n c h w"],
    fake_images: Float[Tensor, "m c2 h2 w2"],
    *,
    generator: torch.Generator,
    patches: int = 128,
    directions: int = 512,
    kept: Int[Tensor, " some"] | None = None,
) -> SlicedWasserstein:
    """The multi-scale sliced Wasserstein distance between patches (Karras et al. 2018, section 5 and appendix).

    Images become a Laplacian pyramid, halved while the shorter side has 16 pixels or more; from each level random 7 × 7
    patches are taken, each set's channels brought to mean 0 and variance 1, and the mean absolute difference of sorted
    projections onto random unit directions is averaged. The finest levels judge texture and noise, the coarsest, which
    is the small image itself, layout. Values are × 10³, as in the paper. Colour and contrast of a whole set are taken
    out by the normalisation and not judged.

    Args:
        real_images: In [0, 1].
        fake_images: In [0, 1]. Of the larger set only as many images are used as the smaller has, spread evenly.
            The distance of two samples of one distribution is not 0 but falls with n: compare at the same n only.
        kept: Places of images of both sets that count, for intervals: every image has the patches that it has without.
        generator: Draws places and directions.
        patches: Of each image, at each level.
        directions: At each level.

    Raises:
        DataError: No images, images of different shapes, or less than 7 pixels high or wide.
    """
    if real_images.shape[1:] != fake_images.shape[1:]:
        shapes = " and ".join(" × ".join(map(str, images.shape[1:])) for images in (real_images, fake_images))
        raise DataError(f"images of {shapes} have no distance: bring both sets to one shape.")
    height, width = real_images.shape[2:]
    n = min(len(real_images), len(fake_images))
    if n == 0 or min(height, width) < PATCH:
        raise DataError(
            f"{n} images of {height} × {width} pixels have no {PATCH} × {PATCH} patches: give larger images, 1 or more."
        )
    found = {}
    for real, fake in zip(
        *(_pyramid(images[evenly(len(images), n)]) for images in (real_images, fake_images)), strict=True
    ):
        pair = [_patches(level, patches, generator, kept) for level in (real, fake)]
        drawn = torch.randn(directions, pair[0].shape[1], generator=generator, device=generator.device)
        drawn = F.normalize(drawn, dim=1).to(real)
        steps = drawn.split(max(1, PROJECTED // len(pair[0])))
        total = sum(_transport(step, *pair) for step in steps)
        found[real.shape[2]] = 1000 * total / (directions * len(pair[0]))
    return SlicedWasserstein(found)


def _pyramid(images: Float[Tensor, "n c h w"]) -> Iterator[Tensor]:
    """Laplacian levels, the finest first; the last is what remains of the images themselves."""
    while min((size + 1) // 2 for size in images.shape[2:]) >= SMALLEST_LEVEL:
        smaller = _blur(images, 1.0)[..., ::2, ::2]
        spread = torch.zeros_like(images)
        spread[..., ::2, ::2] = smaller
        yield images - _blur(spread, 2.0)
        images = smaller
    yield images


def _blur(images: Tensor, gain: float) -> Tensor:
    """The binomial filter [1 4 6 4 1] / 16 along both sides, each scaled by `gain`, images mirrored at their edges."""
    channels = images.shape[1]
    taps = images.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) * (gain / 16)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def _patches(
    level: Float[Tensor, "n c h w"], count: int, generator: torch.Generator, kept: Int[Tensor, " some"] | None = None
) -> Float[Tensor, "p k"]:
    """Random patches of the images that count as rows, their channels brought to mean 0 and variance 1 over all."""
    n, c, height, width = level.shape

    def places(most: int) -> Tensor:
        return torch.randint(most, (n * count,), generator=generator, device=generator.device).to(level.device)

    image = torch.arange(n, device=level.device).repeat_interleave(count)
    windows = level.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
    at = torch.stack([image, places(height - PATCH + 1), places(width - PATCH + 1)])
    if kept is not None:
        at = at.view(3, n, count)[:, kept.to(at.device)].flatten(1)
    taken = windows[at[0], :, at[1], at[2]]
    spread, mean = torch.std_mean(taken, dim=(0, 2, 3), correction=0, keepdim=True)
    # A set of one colour has no spread; dividing by 1 leaves the zeros that it is.
    return ((taken - mean) / torch.where(spread > 0, spread, 1)).reshape(-1, c * PATCH * PATCH)


def _transport(directions: Float[Tensor, "k d"], x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> float:
    """Sum of absolute differences between sorted projections."""
    first, second = directions @ x.T, directions @ y.T
    if first.device.type == "cpu":  # numpy sorts float32 with vector instructions, several times faster than torch
        return float(np.abs(np.sort(first.numpy(), axis=1) - np.sort(second.numpy(), axis=1)).sum(dtype=np.float64))
    return float((first.sort(1).values - second.sort(1).values).abs().sum(dtype=torch.float64))


def check_features(features: Float[Tensor, "n d"], least: int = 2) -> None:
    """Refuse what no moment or likelihood can be computed of."""
    if len(features) < least:
        raise DataError(f"{len(features)} features are too few: give those of {least} images or more.")
    if (broken := int((~features.isfinite()).any(1).sum())) > 0:
        raise DataError(f"{broken:,} of {len(features):,} features are not finite: look for broken images or weights.")


def _without_rounding(eigenvalues: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """Eigenvalues of a positive semidefinite matrix, 0 where they are nothing but rounding."""
    least = torch.finfo(eigenvalues.dtype).eps * len(eigenvalues) * eigenvalues.amax()
    return torch.where(eigenvalues > least, eigenvalues, 0)
