"""Bad data: images that are unusable or duplicated, or that preparation must degrade."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ectype.analysis.diagnose.finding import Advice, Evidence, Finding, Severity
from ectype.data.held_out_duplicates import find_held_out_duplicates
from ectype.data.prepared import Prepared, summarize_reasons

__all__ = ["find_in_data"]

MAX_REJECTED_FRACTION = 0.01
"""Fraction of unusable images above which they are reported."""
MAX_COPIED_FRACTION = 0.01
"""Fraction of exact copies above which they are reported."""
MAX_NEAR_DUPLICATE_FRACTION = 0.01
"""Fraction of held-out images with a near-duplicate in training above which they are reported; serious at 10 times
that."""
MAX_DEGRADED_FRACTION = 0.1
"""Fraction of images degraded by preparation above which they are reported."""
MIN_TRAINING_IMAGES = 500
"""Number of training images below which most models memorize them."""
NUM_SHOWN_PAIRS = 8

_AUGMENTED = {"data.augment.flip": True, "data.augment.shift": 0.1}


def find_in_data(prepared: Prepared) -> Finding | None:
    """Report all problems of a set of images as one finding."""
    n = len(prepared)
    evidence: list[Evidence] = []
    advice: list[Advice] = []
    messages: list[str] = []
    serious = [problem.message for problem in prepared.pixel_problems]
    rejected = len(prepared.rejects)
    if rejected > MAX_REJECTED_FRACTION * (n + rejected):
        messages.append(f"{rejected:,} images cannot be used ({summarize_reasons(prepared.rejects)})")
        evidence.append(Evidence("images rejected", rejected, f"of {n + rejected:,}; see {prepared.root}/rejects.csv"))
        advice.append(Advice("fixing or removing unusable images", "the images lost may all be of one kind", {}))
    if prepared.num_copies > MAX_COPIED_FRACTION * n:
        messages.append(f"{prepared.num_copies:,} images are exact copies of others")
        evidence.append(Evidence("exact copies", prepared.num_copies, f"of {n:,}; see {prepared.root}/copies.csv"))
        advice.append(Advice("removing exact copies", "copies count twice and may end up in two splits", {}))
    for problem in prepared.pixel_problems:
        messages.append(problem.message)
        evidence.append(Evidence(problem.evidence, problem.value, f"{n:,} images"))
        advice.append(Advice(problem.fix, "a model learns only from what the images show", problem.overrides))
    near = find_held_out_duplicates(prepared)
    pictures: dict[str, Tensor] = {}
    if len(near.held_out) > MAX_NEAR_DUPLICATE_FRACTION * near.num_compared:
        messages.append(
            f"{len(near.held_out):,} of {near.num_compared:,} held-out images are near-duplicates of training images"
        )
        evidence.append(
            Evidence(
                "held-out images with a near-duplicate in training", len(near.held_out), f"of {near.num_compared:,}"
            )
        )
        if len(near.held_out) > 10 * MAX_NEAR_DUPLICATE_FRACTION * near.num_compared:
            serious.append(messages[-1])
        advice += _separate_duplicates(prepared)
        pictures = {
            "held out": _images(prepared, near.held_out[:NUM_SHOWN_PAIRS]),
            "nearest in training": _images(prepared, near.training[:NUM_SHOWN_PAIRS]),
        }
    for mark, message, advise in _DEGRADATIONS:
        count = prepared.mark_counts.get(mark, 0)
        if count > MAX_DEGRADED_FRACTION * n and not (mark == "grey" and count >= n):  # all grey is no mixture
            messages.append(f"{count:,} images {message}")
            evidence.append(Evidence(f"images that {message}", count, f"of {n:,}"))
            advice += advise(prepared)
    if (train := prepared.split_sizes["train"]) < MIN_TRAINING_IMAGES:
        messages.append(f"there are only {train:,} training images")
        evidence.append(Evidence("training images", train, f"fewer than {MIN_TRAINING_IMAGES} are few"))
        advice.append(
            Advice("mirrored and shifted images", "augmentation makes few images go further", dict(_AUGMENTED))
        )
    if not messages:
        return None
    severity: Severity = "serious" if serious else "warning"
    headline = f"The images have a problem: {(serious or messages)[0]}"
    return Finding("bad data", severity, "; ".join(messages), evidence, advice, pictures, headline=headline)


def _separate_duplicates(prepared: Prepared) -> list[Advice]:
    advice = [
        Advice("removing near-duplicates", "figures on images that were also trained on are too good", {}),
        Advice(
            "splitting by group, such as a patient or a film",
            "data.split.group takes a regular expression whose match in the path is the same for related images",
            {},
        ),
    ]
    if not prepared.info.classes:
        why = "one contiguous block of the sorted names is held out, so neighboring frames stay in one split"
        advice.append(Advice("holding out a contiguous block", why, {"data.split.by": "contiguous"}))
    return advice


def _advise_on_enlarged(prepared: Prepared) -> list[Advice]:
    side = max(4, min(prepared.info.size) // 2)
    return [Advice("a smaller size", "interpolated pixels cost time and teach blur", {"data.size": side})]


def _advise_on_cropped(prepared: Prepared) -> list[Advice]:
    why = "nothing is cut off; tiles keep the full resolution, which is best if an image has no center of interest"
    return [
        Advice("padding instead of cropping", why, {"data.resize": "pad"}),
        Advice("cutting into tiles", why, {"data.resize": "tiles", "data.size": min(prepared.info.size)}),
    ]


def _advise_on_distorted(prepared: Prepared) -> list[Advice]:
    return [Advice("padding instead of stretching", "shapes are preserved", {"data.resize": "pad"})]


def _advise_on_mixed_colors(prepared: Prepared) -> list[Advice]:
    why = "a model of both spends capacity on telling them apart"
    return [Advice("converting all images to grayscale, or separating them", why, {"data.channels": 1})]


_DEGRADATIONS: tuple[tuple[str, str, Callable[[Prepared], list[Advice]]], ...] = (
    ("enlarged", "are smaller than the target size", _advise_on_enlarged),
    ("cut", "lose more than 40% of their area by cropping", _advise_on_cropped),
    ("bent", "are stretched to another shape", _advise_on_distorted),
    ("grey", "are grayscale, though others are in color", _advise_on_mixed_colors),
)
"""Mark set by preparation → what happens to such images, and the advice."""


def _images(prepared: Prepared, rows: np.ndarray | Sequence[int]) -> Tensor:
    """Return the images in these rows, [n, c, h, w] in [0, 1]."""
    starts = np.cumsum([0, *(len(np.load(shard, mmap_mode="r")) for shard in prepared.shards)])
    images = []
    for row in rows:
        shard = int(np.searchsorted(starts, row, side="right")) - 1
        pixels = np.load(prepared.shards[shard], mmap_mode="r")[row - starts[shard], : prepared.info.channels]
        images.append(torch.from_numpy(np.array(pixels)))
    return torch.stack(images).float() / 255
