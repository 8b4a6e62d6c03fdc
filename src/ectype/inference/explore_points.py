"""The points of a map: codes of a run's images, or noise of a model's samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.analysis.code_space import CodeSpace, code_space, noise_space
from ectype.data.dataset import ImageSplit, ImageStore
from ectype.models.base import Encodes

__all__ = ["Place", "Points", "points_of_images", "points_of_samples"]

MAX_POINTS = 300_000
"""Images whose codes are on a map."""
MAX_CODE_ELEMENTS = 25_000_000
"""Elements of their codes together."""
MAX_SAMPLED_POINTS = 2000
"""Samples on the map of a model without an encoder."""
SAMPLES_AT_A_TIME = 100

Place = tuple[ImageSplit, int]
"""An image: its split, and its position there."""


class Points(NamedTuple):
    """The points of a map."""

    space: CodeSpace
    codes: Float[Tensor, "n d"]
    labels: list[int] | None
    """Class indices; None if there are no classes."""
    where: list[Place]
    """The images; empty for samples."""
    note: str
    """What the points are."""

    @property
    def coordinates(self) -> Float[Tensor, "n k"]:
        """Where the points are along the directions of the space."""
        return self.space.coordinates(self.codes)


def points_of_images(
    model: Encodes,
    store: ImageStore,
    images: Callable[[Sequence[Place]], Tensor],
    length: int,
    batch_size: int,
    seconds: float,
) -> Points:
    """Encode images of all splits until the time is up, in random order, so that the first ones are a fair sample.

    Args:
        model: The model, in evaluation mode.
        store: The images.
        images: Returns images as the model sees them.
        length: Values of a code.
        batch_size: Images that are encoded at a time.
        seconds: After this time no more are encoded.
    """
    end = time.monotonic() + seconds
    parts = [part for _, part in store.splits()]
    everything = [(part, i) for part in parts for i in range(len(part))]
    most = max(2, min(MAX_POINTS, MAX_CODE_ELEMENTS // length))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:most].tolist()
    codes: list[Tensor] = []
    where: list[Place] = []
    for at in range(0, len(order), batch_size):
        some = [everything[i] for i in order[at : at + batch_size]]
        codes.append(model.encode(images(some)).float().cpu().flatten(1))
        where += some
        if time.monotonic() > end:
            break
    found, count, total = torch.cat(codes), len(where), len(everything)
    classes = {id(part): part.labels for part in parts if part.labels is not None}
    labels = [int(classes[id(part)][i]) for part, i in where] if len(classes) == len(parts) else None
    note = f"{count:,} images of the run" if count == total else f"{count:,} of {total:,} images of the run"
    return Points(code_space(found), found, labels, where, note)


def points_of_samples(sample: Callable[[int, int], tuple[Tensor, list[int] | None, Tensor]], seconds: float) -> Points:
    """Draw samples until the time is up.

    Args:
        sample: Returns noise, labels and images of a number of samples and a seed.
        seconds: After this time no more are drawn.
    """
    end = time.monotonic() + seconds
    codes: list[Tensor] = []
    labels: list[int] = []
    images: list[Tensor] = []
    for seed in range(MAX_SAMPLED_POINTS // SAMPLES_AT_A_TIME):
        some, label, image = sample(SAMPLES_AT_A_TIME, seed)
        codes.append(some)
        labels += label or []
        images.append(torch.nn.functional.adaptive_avg_pool2d(image, (16, 16)).flatten(1))
        if time.monotonic() > end:
            break
    found = torch.cat(codes)
    return Points(
        noise_space(found, torch.cat(images)), found, labels or None, [], f"{len(found):,} samples of the model"
    )
