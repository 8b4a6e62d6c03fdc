"""Groups of images that nearly repeat each other, which belong on one side of a split.

A group is a connected component of the pairs of near-duplicates. Frames of a video or nearly uniform images may chain
most images into one component, which would leave nothing for the other sides. So a component that has more images than
a limit is divided: its pairs are united from the closest to the farthest, except where a group would exceed the limit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ectype.data.near_duplicates import MAX_CANDIDATES, MAX_IMAGES, NearPairs

__all__ = ["Groups", "group_images"]

MAX_GROUP_SHARE = 0.5
"""Maximum size of a group, as a share of the smallest split that is to be filled."""
MIN_SHARED_TILES = 0.5
"""Two images that are cut into tiles nearly equal each other if this share of the tiles of one does."""


class Groups(NamedTuple):
    """Which images belong on one side."""

    group_of: np.ndarray
    """[n] the group of each image, counted from 0."""
    max_size: int
    """Maximum number of images in a group."""
    num_divided: int = 0
    """Number of components that were divided because they have more images."""
    num_crowded: int = 0
    """As in `NearPairs`."""
    is_complete: bool = True
    """As in `NearPairs`."""

    def note(self, split_ids: np.ndarray) -> str:
        """Return one line on what is on one side and what is not; empty if no image nearly repeats another.

        Args:
            split_ids: [n] split of each image.
        """
        if not self.is_complete:
            return f"more than {MAX_IMAGES:,} images are not searched for near-duplicates, which may be in two splits"
        sizes = np.bincount(self.group_of)
        repeated = np.flatnonzero(sizes > 1)
        if not len(repeated):
            return ""
        first = np.zeros(len(sizes), np.uint8)
        first[self.group_of] = split_ids
        num_apart = len(np.unique(self.group_of[split_ids != first[self.group_of]]))
        text = f"{sizes[repeated].sum():,} images nearly repeat another, in {_counted(len(repeated), 'group')}"
        if num_apart == 0:
            text += ": each group is in one split"
        else:
            text += f": each group is in one split, except {num_apart:,} whose images were assigned earlier"
        if self.num_divided:
            text += (
                f"; {_counted(self.num_divided, 'group')} of more than {self.max_size:,} images had to be divided, so "
                "that near-duplicates are in two splits: set split.group or split.by=contiguous"
            )
        if self.num_crowded:
            text += f"; {self.num_crowded:,} images have more than {MAX_CANDIDATES} similar ones, not all compared"
        return f"{text} (split.duplicates=ignore: assign each image by its name alone)"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def group_images(image_of: np.ndarray, pairs: NearPairs, min_fraction: float) -> Groups:
    """Return groups of near-duplicates.

    Args:
        image_of: [rows] the image of each row, counted from 0, or -1 for rows that are not to be grouped. Only tiles
            share an image.
        pairs: Near-duplicates among the rows.
        min_fraction: Fraction of images in the smallest split that is to be filled.
    """
    count = int(image_of.max()) + 1
    max_size = max(2, int(MAX_GROUP_SHARE * min_fraction * count))
    images, distances = _image_pairs(image_of, pairs, count)
    index, num_divided = _components(images, count), 0
    sizes = np.bincount(index, minlength=1)
    if sizes.max() > max_size:
        in_large = sizes[index[images[:, 0]]] > max_size
        num_divided = int(np.count_nonzero(sizes > max_size))
        divided = _united(images[in_large], distances[in_large], count, max_size)
        large = sizes[index] > max_size
        index = np.unique(np.where(large, count + divided, index), return_inverse=True)[1]
    return Groups(index, max_size, num_divided, pairs.num_crowded, pairs.is_complete)


def _image_pairs(image_of: np.ndarray, pairs: NearPairs, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unique pairs of images [m, 2], and their distances."""
    images = np.sort(image_of[pairs.rows], 1)
    usable = (images >= 0).all(1) & (images[:, 0] != images[:, 1])
    images, distances = images[usable], pairs.distances[usable]
    num_tiles = np.bincount(image_of[image_of >= 0], minlength=count)
    if num_tiles.max() > 1 and len(images):
        # Blank tiles alone, such as sky or paper, do not make near-duplicates.
        rows = pairs.rows[usable]
        ends = [np.column_stack([image_of[rows], rows[:, 0]]), np.column_stack([image_of[rows[:, ::-1]], rows[:, 1]])]
        shared, shares = np.unique(np.unique(np.concatenate(ends), axis=0)[:, :2], axis=0, return_counts=True)
        enough = shared[shares >= MIN_SHARED_TILES * num_tiles[shared[:, 0]]]
        is_enough = np.isin(images @ [count, 1], np.sort(enough, 1) @ [count, 1])
        images, distances = images[is_enough], distances[is_enough]
    order = np.argsort(distances, kind="stable")
    images, first = np.unique(images[order], axis=0, return_index=True)
    return images, distances[order][first]


def _components(images: np.ndarray, count: int) -> np.ndarray:
    """Return the connected component of each image."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(images), np.int8), (images[:, 0], images[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _united(images: np.ndarray, distances: np.ndarray, count: int, max_size: int) -> np.ndarray:
    """Unite images from the closest pair to the farthest, up to a number of images; return the group of each."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    # Pairs beyond the shortest that connect all images would change little, and there may be many. Distances of 0 are
    # no pairs to SciPy.
    graph = coo_matrix((distances.astype(np.float64) + 1, (images[:, 0], images[:, 1])), shape=(count, count)).tocsr()
    tree = minimum_spanning_tree(graph).tocoo()
    order = np.lexsort((tree.col, tree.row, tree.data))
    parent, size = list(range(count)), [1] * count
    united: list[tuple[int, int]] = []
    for one, other in zip(tree.row[order].tolist(), tree.col[order].tolist(), strict=True):
        first, second = one, other
        while parent[first] != first:
            parent[first] = first = parent[parent[first]]
        while parent[second] != second:
            parent[second] = second = parent[parent[second]]
        if size[first] + size[second] <= max_size:
            parent[second] = first
            size[first] += size[second]
            united.append((one, other))
    return _components(np.array(united, np.int64).reshape(-1, 2), count)
