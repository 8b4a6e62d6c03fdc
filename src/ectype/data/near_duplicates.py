"""Pairs of images that nearly equal each other: another encoding, the next frame of a video, a drawing in other colors.

Images are compared by three small pictures of them: gray values, colors, and the strength of edges. Two images are
near-duplicates if their gray values and colors are almost equal, or if their edges are and their colors are similar.
All limits are relative to what two random images of the source differ by.

Two images are compared only if they are close in a projection to a few principal components, which never enlarges a
distance and so leaves out no pair. Images are sorted by the first component, so that most projections are not compared
either. Only an image with more than `MAX_CANDIDATES` close ones is compared with so many of them; this is counted. No
PyTorch import.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ectype.data.array_file import read_arrays, write_arrays
from ectype.data.decode_batch import DIGEST_BYTES

__all__ = ["NearPairs", "compute_pairs", "original_rows", "stored_pairs"]

GRAY_SIDE_PX = 16
"""Gray values and edges are compared at this many pixels per side."""
COLOR_SIDE_PX = 8
"""Colors are compared at this many pixels per side."""
EDGE_SIDE_PX = 32
"""Edges are found at this many pixels per side."""
EDGE_HALF_STRENGTH = 10.0
"""Difference of neighboring pixels, of 255, that counts half of the strongest edge. Beyond it, an edge counts almost
the same in any colors."""
MAX_GRAY_DISTANCE = 0.1
"""Limit of the distance of gray values, as a fraction of the median distance of two images."""
MAX_COLOR_DISTANCE_BY_GRAY = 3.0
"""The distance of colors may be this factor larger than that limit, since encoders store colors coarsely."""
MAX_EDGE_DISTANCE = 0.15
"""Limit of the distance of edges, as a fraction of the median distance of two images."""
MAX_COLOR_DISTANCE_BY_EDGES = 0.6
"""Limit of the distance of colors of images with equal edges, as a fraction of the median distance of two images: skin
in another tone is close enough, another flag with equal stripes is not."""
NUM_COMPONENTS = 32
MAX_FITTED_IMAGES = 5000
"""Images to which the principal components are fitted."""
MAX_CANDIDATES = 256
"""Maximum number of images that one image is compared with."""
MAX_PAIRS_PER_IMAGE = 32
"""Pairs of an image that are kept, those with the smallest distances."""
MAX_IMAGES = 2_000_000
"""Maximum number of images that are compared; their small pictures take 0.7 kB each."""
MAX_BYTES_PER_BATCH = 4 << 20
"""Maximum bytes of float32 pixels that are reduced at a time."""
ROWS_PER_PRODUCT, COLUMNS_PER_PRODUCT = 512, 4096
"""Images whose projections are compared at a time."""
PAIRS_PER_BATCH = 16_384
"""Pairs that are compared at a time."""
NUM_SAMPLED_PAIRS = 2000
"""Pairs of images whose median distance is computed."""
_FILE = "near-duplicates.npz"
_VERSION = 1
"""Version of the file and of how pairs are found. A file of another version is not used."""


class NearPairs(NamedTuple):
    """Pairs of images that nearly equal each other."""

    rows: np.ndarray
    """[m, 2] rows of the two images, int64. Each exact copy is paired with the one before it only."""
    distances: np.ndarray
    """[m] float32: 0 for copies, 1 at the limit."""
    num_crowded: int = 0
    """Number of images with more than `MAX_CANDIDATES` similar ones."""
    is_complete: bool = True
    """Whether images were compared: False if there are more than `MAX_IMAGES`."""


def original_rows(entry: Path, num_rows: int, rows: np.ndarray) -> np.ndarray:
    """Return, for each row, the first row with the same pixels; rows that are not asked for are their own."""
    digests = np.load(entry / "digests.npy").view(f"V{DIGEST_BYTES}")[:, 0]
    _, first, group = np.unique(digests[rows], return_index=True, return_inverse=True)
    originals = np.arange(num_rows)
    originals[rows] = rows[first[group]]
    return originals


def stored_pairs(entry: Path, shards: Sequence[Path], channels: int) -> NearPairs:
    """Return the pairs of an entry of the cache. They are computed at the first time, and stored with the entry.

    Args:
        entry: The folder.
        shards: Its files of images.
        channels: Channels of an image; targets are stored after them, and are not compared.
    """
    if (found := read_arrays(entry / _FILE)).get("version") == _VERSION:
        return NearPairs(found["rows"], found["distances"], int(found["num_crowded"]), bool(found["is_complete"]))
    kept = np.load(entry / "kept.npy")
    pairs = compute_pairs(shards, channels, original_rows(entry, len(kept), np.flatnonzero(kept)), kept)
    write_arrays(entry / _FILE, version=np.array(_VERSION), **{k: np.asarray(v) for k, v in pairs._asdict().items()})
    return pairs


def compute_pairs(shards: Sequence[Path], channels: int, originals: np.ndarray, kept: np.ndarray) -> NearPairs:
    """Find all pairs of images that nearly equal each other.

    Args:
        shards: Files of uint8 images [n, c, h, w], which are joined.
        channels: The first channels, which are compared: 1 or 3.
        originals: [n] the first row with the same pixels.
        kept: [n] which rows are images that are used.
    """
    is_copy = kept & (originals != np.arange(len(originals)))
    rows, sorted_rows = np.flatnonzero(kept & ~is_copy), np.flatnonzero(kept)
    sorted_rows = sorted_rows[np.argsort(originals[sorted_rows], kind="stable")]
    later = np.flatnonzero(is_copy[sorted_rows])  # the original is the first of its copies
    found = [np.stack([sorted_rows[later - 1], sorted_rows[later]], 1)]
    distances, num_crowded = [np.zeros(len(later), np.float32)], 0
    if len(rows) > MAX_IMAGES:
        return NearPairs(np.zeros((0, 2), np.int64), np.zeros(0, np.float32), is_complete=False)
    if len(rows) > 1:
        comparison = _Comparison(_pictures(shards, channels, rows))
        for pairs, values, crowded in comparison.near():
            found.append(rows[np.sort(pairs, 1)])
            distances.append(values)
            num_crowded += crowded
    pairs, index = np.unique(np.concatenate(found), axis=0, return_index=True)
    return NearPairs(pairs, np.concatenate(distances)[index], num_crowded)


class _Pictures(NamedTuple):
    """Small pictures of images, uint8, so that distances of equal pictures are equal on all machines."""

    gray: np.ndarray
    """[n, at most 256]"""
    edges: np.ndarray
    """[n, at most 256] 255 · strength / (strength + EDGE_HALF_STRENGTH)."""
    color: np.ndarray
    """[n, channels · at most 64]"""


class _Comparison:
    """Distances of images, and the limits that make two of them near-duplicates."""

    def __init__(self, pictures: _Pictures) -> None:
        self.pictures = pictures
        self.count = len(pictures.gray)
        rng = np.random.default_rng(0)
        one, other = rng.integers(0, self.count, (2, NUM_SAMPLED_PAIRS))
        one, other = one[one != other], other[one != other]
        gray, edges, color = (float(np.median(_distance(p, one, other))) if len(one) else 0.0 for p in pictures)
        self.max_gray, self.max_edges = MAX_GRAY_DISTANCE * gray, MAX_EDGE_DISTANCE * edges
        self.max_color = MAX_COLOR_DISTANCE_BY_GRAY * self.max_gray, MAX_COLOR_DISTANCE_BY_EDGES * color

    def compare(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return the distances of pairs of images: below 1 if they are near-duplicates, else infinite."""
        color = _distance(self.pictures.color, one, other)
        distances = np.full(len(one), np.inf, np.float32)
        for picture, limit, max_color in zip(
            (self.pictures.gray, self.pictures.edges), (self.max_gray, self.max_edges), self.max_color, strict=True
        ):
            distance = _distance(picture, one, other)
            is_near = (distance <= limit) & (color <= max_color)
            np.minimum(distances, distance / (limit or 1.0), out=distances, where=is_near)
        return distances

    def near(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Yield pairs of near-duplicates [m, 2], their distances, and how many images were not fully compared."""
        for picture, limit in ((self.pictures.gray, self.max_gray), (self.pictures.edges, self.max_edges)):
            points = _project(picture)
            radius = limit * picture.shape[1] ** 0.5
            for one, other, num_crowded in _candidates(points, radius):
                distances = np.concatenate(
                    [
                        self.compare(one[first : first + PAIRS_PER_BATCH], other[first : first + PAIRS_PER_BATCH])
                        for first in range(0, len(one), PAIRS_PER_BATCH)
                    ]
                    or [np.zeros(0, np.float32)]
                )
                is_near = np.isfinite(distances)
                one, other, distances = one[is_near], other[is_near], distances[is_near]
                order = np.lexsort((distances, one))
                one, other, distances = one[order], other[order], distances[order]
                rank = np.arange(len(one)) - np.searchsorted(one, one)
                closest = rank < MAX_PAIRS_PER_IMAGE
                yield np.stack([one, other], 1)[closest], distances[closest], num_crowded


def _distance(pictures: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the root mean squared difference of pairs of pictures."""
    difference = pictures[one].astype(np.float32)
    difference -= pictures[other]
    return np.sqrt(np.einsum("np,np->n", difference, difference) / pictures.shape[1])


def _project(pictures: np.ndarray) -> np.ndarray:
    """Return pictures projected to their first principal components, [n, at most NUM_COMPONENTS] float32."""
    step = -(-len(pictures) // MAX_FITTED_IMAGES)
    sample = pictures[::step].astype(np.float64)
    mean = sample.mean(0)
    _, vectors = np.linalg.eigh(np.cov(sample - mean, rowvar=False).reshape(len(mean), len(mean)))
    axes = vectors[:, ::-1][:, :NUM_COMPONENTS].astype(np.float32)
    blocks = (pictures[first : first + PAIRS_PER_BATCH] for first in range(0, len(pictures), PAIRS_PER_BATCH))
    return np.concatenate([(block - mean.astype(np.float32)) @ axes for block in blocks])


def _candidates(points: np.ndarray, radius: float) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield pairs of points within a radius of each other, and for how many points some of them were left out."""
    points = points[order := np.argsort(points[:, 0], kind="stable")]
    squares = np.einsum("np,np->n", points, points)[:, None]
    ones = np.ones_like(squares)
    # The product of a row of one and a row of the other is the squared distance of their points.
    left, right = np.hstack([-2 * points, squares, ones]), np.hstack([points, ones, squares])
    limit = radius**2 + 1e-5 * float(squares.max()) + 1  # rounding must not lose a pair
    ends = np.searchsorted(points[:, 0], points[:, 0] + limit**0.5, side="right")
    for start in range(0, len(points), ROWS_PER_PRODUCT):
        rows = np.arange(start, min(len(points), start + ROWS_PER_PRODUCT))
        counts = np.zeros(len(rows), np.int64)
        for first in range(start, int(ends[rows[-1]]), COLUMNS_PER_PRODUCT):
            columns = np.arange(first, min(len(points), first + COLUMNS_PER_PRODUCT))
            is_near = left[rows] @ right[columns].T <= limit
            if first <= rows[-1]:
                is_near &= columns > rows[:, None]  # each pair once
            before, counts = counts, counts + np.count_nonzero(is_near, axis=1)
            for i in np.flatnonzero(counts > MAX_CANDIDATES):
                is_near[i, np.flatnonzero(is_near[i])[max(0, MAX_CANDIDATES - before[i]) :]] = False
            i, k = np.divmod(np.flatnonzero(is_near), len(columns))
            yield order[rows[i]], order[columns[k]], 0
        yield order[:0], order[:0], int(np.count_nonzero(counts > MAX_CANDIDATES))


def _pictures(shards: Sequence[Path], channels: int, rows: np.ndarray) -> _Pictures:
    """Return the small pictures of the images in these rows, which ascend."""
    results: list[_Pictures] = []
    first = 0
    for shard in shards:
        pixels = np.load(shard, mmap_mode="r")
        shard_rows = rows[(rows >= first) & (rows < first + len(pixels))] - first
        batch_size = max(1, MAX_BYTES_PER_BATCH // (4 * channels * pixels.shape[2] * pixels.shape[3]))
        for start in range(0, len(shard_rows), batch_size):
            some = shard_rows[start : start + batch_size]
            # A slice needs no copy in memory.
            block = pixels[some[0] : some[-1] + 1] if len(some) == some[-1] - some[0] + 1 else pixels[some]
            results.append(_reduce(block[:, :channels].astype(np.float32)))
        first += len(pixels)
    return _Pictures(*map(np.concatenate, zip(*results, strict=True)))


def _reduce(images: np.ndarray) -> _Pictures:
    """Return the small pictures of float32 images [n, c, h, w] from 0 to 255."""
    fine = _area_means(images, EDGE_SIDE_PX)
    down = np.diff(fine, axis=2, append=fine[:, :, -1:])
    right = np.diff(fine, axis=3, append=fine[:, :, :, -1:])
    strength = np.sqrt(3 * (down**2 + right**2).mean(1, keepdims=True))  # as if gray images were stored as RGB
    strength = _area_means(strength, GRAY_SIDE_PX)
    gray = _area_means(fine.mean(1, keepdims=True), GRAY_SIDE_PX)
    color = _area_means(fine, COLOR_SIDE_PX)
    parts = (gray, 255 * strength / (strength + EDGE_HALF_STRENGTH), color)
    return _Pictures(*(np.rint(part).astype(np.uint8).reshape(len(images), -1) for part in parts))


def _area_means(images: np.ndarray, side: int) -> np.ndarray:
    """Return means over at most `side` × `side` areas of images [n, c, h, w]."""
    count, channels, height, width = images.shape
    rows = images.reshape(-1, width) @ _averages(width, side).T  # one large product is faster than many small ones
    return _averages(height, side) @ rows.reshape(count, channels, height, -1)


def _averages(length: int, side: int) -> np.ndarray:
    """Return a float32 matrix [at most side, length] whose rows average neighboring elements."""
    edges = np.linspace(0, length, min(side, length) + 1).astype(int)
    position = np.arange(length)
    inside = (position >= edges[:-1, None]) & (position < edges[1:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
