"""Distances between two sets of images: between their features and between their patches.

The functions take features of images as rows, or the images themselves; they know neither models nor data.
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

from ectype.core.errors import DataError
from ectype.data.loader import evenly_spaced

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

PATCH_SIDE_PX = 7
"""Side of the square patches that the sliced Wasserstein distance compares."""
MIN_LEVEL_SIDE_PX = 16
"""Shorter side below which an image is not halved again."""
MAX_PROJECTED_ELEMENTS = 32_000_000
"""Elements that are sorted at once: 128 MB in float32."""


# ── Fréchet distance ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a set of features, in float64."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    """Unbiased: divided by n − 1."""
    n: int
    """Number of images that both were computed from."""

    @functools.cached_property
    def root(self) -> Float[Tensor, "d d"]:
        """Symmetric square root of the covariance, computed on first access and cached.

        Eigenvalues within rounding of zero count as zero. A covariance of fewer images than dimensions has many of
        them, and a square root would turn a rounding error of 1e-16 into 1e-8.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * _zero_rounding_errors(values).sqrt()) @ vectors.T


def moments(features: Float[Tensor, "n d"]) -> Moments:
    """Compute the mean and unbiased covariance of features, in float64.

    Raises:
        DataError: Features of fewer than two images, or some that are not finite.

    >>> found = moments(torch.tensor([[0.0], [2.0]]))
    >>> found.mean.tolist(), found.covariance.tolist(), found.n
    ([1.0], [[2.0]], 2)
    """
    check_features(features)
    features = features.double()
    mean = features.mean(0)
    centered = features - mean
    return Moments(mean, centered.T @ centered / (len(features) - 1), len(features))


def frechet(reference: Moments, other: Moments) -> float:
    """Compute the squared Fréchet distance of two Gaussians (Dowson and Landau 1982; Heusel et al. 2017).

    It is ‖μ − μ'‖² + tr S + tr S' − 2 tr (S^½ S' S^½)^½, in squared units of the features, and never below 0. Only on
    the features of one Inception network is it called FID. It is biased upwards for few images, and more so the more
    dimensions the features have, so only distances at the same n compare (Chong and Forsyth 2020).

    Args:
        reference: Moments whose root of the covariance is cached, so that each further distance to them costs one
            matrix product and the eigenvalues of a symmetric matrix.
        other: Moments of features of the same dimension; the distance is symmetric.

    Raises:
        DataError: The features have different dimensions.

    >>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> round(frechet(moments(x), moments(x + 1)), 6)
    4.0
    """
    if reference.mean.shape != other.mean.shape:
        raise DataError(
            f"features of {len(reference.mean)} and {len(other.mean)} dimensions have no distance: "
            "give both sets of images the same features."
        )
    product = reference.root @ other.covariance @ reference.root
    overlap = _zero_rounding_errors(torch.linalg.eigvalsh(product)).sqrt().sum()
    means = (reference.mean - other.mean).square().sum()
    return max(0.0, float(means + reference.covariance.trace() + other.covariance.trace() - 2 * overlap))


class Projection(NamedTuple):
    """A center and orthonormal directions, in float64: few coordinates that keep most of the variance."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "k d"]
    """Principal directions, largest variance first."""
    explained: float
    """Fraction of the variance that the directions hold, in [0, 1]."""

    def apply(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the coordinates along the directions, in float64."""
        return (features.double() - self.mean) @ self.directions.T


def fit_projection(features: Float[Tensor, "n d"], k: int) -> Projection:
    """Fit the principal components of features: centered, orthonormal, not whitened.

    Args:
        features: Features of real images; a projection fitted on generated images would hide what they lack.
        k: Maximum number of dimensions; there are fewer where the features span fewer, which is at most n − 1.

    Raises:
        DataError: Fewer than two features, some that are not finite, all identical, or k below 1.
    """
    check_features(features)
    if k < 1:
        raise DataError(f"a projection onto {k} dimensions keeps nothing: ask for 1 or more.")
    n, d = features.shape
    mean = features.double().mean(0)
    centered = features.double() - mean
    if d <= n:
        values, vectors = torch.linalg.eigh(centered.T @ centered)
        values, directions = values.flip(0), vectors.T.flip(0)
    else:
        _, singular, directions = torch.linalg.svd(centered, full_matrices=False)
        values = singular.square()
    scale = float(features.double().square().sum())
    kept = values[:k] > torch.finfo(torch.float64).eps * max(n, d) * scale
    if not bool(kept.any()):
        raise DataError(f"all {n:,} features are the same: a projection needs images that differ.")
    explained = float(values[:k][kept].sum() / values.clamp(min=0).sum())
    return Projection(mean, directions[:k][kept].contiguous(), min(1.0, explained))


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
    """Compute the unbiased squared maximum mean discrepancy over all pairs (Gretton et al. 2012, eq. 3).

    The kernel is (γ x·y + coef)^degree. KID (Bińkowski et al. 2018) is usually reported as a mean of this over random
    subsets; over all pairs nothing is drawn. It is unbiased at any n, so it may be below 0. Computed in float64.

    Args:
        x: Features of at least two images.
        y: Features of at least two images; n and m may differ.
        degree: Degree of the polynomial.
        gamma: Scale of the product; None for 1/d.
        coef: Constant that is added to the scaled product.
        chunk: Rows and columns of the kernel matrix that are in memory at once.

    Raises:
        DataError: Fewer than two features in a set, or some that are not finite.

    >>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> kernel_distance(x[:50], x[50:]) < 0.1 < kernel_distance(x[:50], x[50:] + 1)
    True
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
    """Distance between patches at each scale."""

    levels: dict[int, float]
    """Height of the level in pixels → 10³ × distance, the finest level first."""

    @property
    def mean(self) -> float:
        """Mean over levels, × 10³."""
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
    """Compute the multi-scale sliced Wasserstein distance between patches (Karras et al. 2018, section 5, appendix).

    Images become a Laplacian pyramid, halved while the shorter side has 16 pixels or more. From each level random 7 × 7
    patches are taken, the channels of each set are normalized to mean 0 and variance 1, and the mean absolute
    difference of sorted projections onto random unit directions is averaged. The finest levels measure texture and
    noise, the coarsest, which is the small image itself, layout. Values are × 10³, as in the paper. The normalization
    removes the color and contrast of a complete set, so these are not measured.

    Args:
        real_images: Images in [0, 1].
        fake_images: Images in [0, 1]. Of the larger set only as many images are used as the smaller one has, spread
            evenly. The distance of two samples of one distribution is not 0 but falls with n: only distances at the
            same n compare.
        generator: Generator that draws the places of patches and the directions.
        patches: Patches of each image at each level.
        directions: Directions at each level.
        kept: Indices of the images of both sets that count, for intervals; an image keeps the patches that it has
            where all count.

    Raises:
        DataError: No images, images of different shapes, or less than 7 pixels high or wide.

    >>> images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> found = sliced_wasserstein(images, images.flip(0), generator=torch.Generator().manual_seed(0))
    >>> list(found.levels), found.mean > 0
    ([32, 16], True)
    """
    if real_images.shape[1:] != fake_images.shape[1:]:
        shapes = " and ".join(" × ".join(map(str, images.shape[1:])) for images in (real_images, fake_images))
        raise DataError(f"images of {shapes} have no distance: bring both sets to one shape.")
    height, width = real_images.shape[2:]
    n = min(len(real_images), len(fake_images))
    if n == 0 or min(height, width) < PATCH_SIDE_PX:
        raise DataError(
            f"{n} images of {height} × {width} pixels have no {PATCH_SIDE_PX} × {PATCH_SIDE_PX} patches: give larger "
            "images, 1 or more."
        )
    levels = {}
    for real, fake in zip(
        *(_pyramid(images[evenly_spaced(len(images), n)]) for images in (real_images, fake_images)), strict=True
    ):
        pair = [_patches(level, patches, generator, kept) for level in (real, fake)]
        drawn = torch.randn(directions, pair[0].shape[1], generator=generator, device=generator.device)
        drawn = F.normalize(drawn, dim=1).to(real)
        steps = drawn.split(max(1, MAX_PROJECTED_ELEMENTS // len(pair[0])))
        total = sum(_projected_distance(step, *pair) for step in steps)
        levels[real.shape[2]] = 1000 * total / (directions * len(pair[0]))
    return SlicedWasserstein(levels)


def _pyramid(images: Float[Tensor, "n c h w"]) -> Iterator[Tensor]:
    """Yield Laplacian levels, the finest first; the last one is the downscaled images themselves."""
    while min((size + 1) // 2 for size in images.shape[2:]) >= MIN_LEVEL_SIDE_PX:
        smaller = _blur(images, 1.0)[..., ::2, ::2]
        spread = torch.zeros_like(images)
        spread[..., ::2, ::2] = smaller
        yield images - _blur(spread, 2.0)
        images = smaller
    yield images


def _blur(images: Tensor, gain: float) -> Tensor:
    """Apply the binomial filter [1 4 6 4 1] / 16 along both axes, scaled by `gain` each; edges are reflected."""
    channels = images.shape[1]
    taps = images.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) * (gain / 16)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def _patches(
    level: Float[Tensor, "n c h w"], count: int, generator: torch.Generator, kept: Int[Tensor, " some"] | None = None
) -> Float[Tensor, "p k"]:
    """Return random patches of the images that count, as rows, with channels of mean 0 and variance 1 over all."""
    n, c, height, width = level.shape

    def offsets(num_positions: int) -> Tensor:
        return torch.randint(num_positions, (n * count,), generator=generator, device=generator.device).to(level.device)

    image = torch.arange(n, device=level.device).repeat_interleave(count)
    windows = level.unfold(2, PATCH_SIDE_PX, 1).unfold(3, PATCH_SIDE_PX, 1)
    at = torch.stack([image, offsets(height - PATCH_SIDE_PX + 1), offsets(width - PATCH_SIDE_PX + 1)])
    if kept is not None:
        at = at.view(3, n, count)[:, kept.to(at.device)].flatten(1)
    taken = windows[at[0], :, at[1], at[2]]
    spread, mean = torch.std_mean(taken, dim=(0, 2, 3), correction=0, keepdim=True)
    # A set of one color has no spread; dividing by 1 leaves its zeros.
    return ((taken - mean) / torch.where(spread > 0, spread, 1)).reshape(-1, c * PATCH_SIDE_PX * PATCH_SIDE_PX)


def _projected_distance(directions: Float[Tensor, "k d"], x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> float:
    """Return the sum of absolute differences between sorted projections."""
    first, second = directions @ x.T, directions @ y.T
    if first.device.type == "cpu":  # numpy sorts float32 with vector instructions, several times faster than torch
        return float(np.abs(np.sort(first.numpy(), axis=1) - np.sort(second.numpy(), axis=1)).sum(dtype=np.float64))
    return float((first.sort(1).values - second.sort(1).values).abs().sum(dtype=torch.float64))


def check_features(features: Float[Tensor, "n d"], minimum: int = 2) -> None:
    """Raise an error for features that no moments or likelihood can be computed from.

    Raises:
        DataError: Features of fewer images than `minimum`, or some that are not finite.
    """
    if len(features) < minimum:
        raise DataError(f"{len(features)} features are too few: give those of {minimum} images or more.")
    if (broken := int((~features.isfinite()).any(1).sum())) > 0:
        raise DataError(f"{broken:,} of {len(features):,} features are not finite: look for broken images or weights.")


def _zero_rounding_errors(eigenvalues: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """Return the eigenvalues of a positive semidefinite matrix, with 0 for those that are rounding errors."""
    smallest = torch.finfo(eigenvalues.dtype).eps * len(eigenvalues) * eigenvalues.amax()
    return torch.where(eigenvalues > smallest, eigenvalues, 0)
