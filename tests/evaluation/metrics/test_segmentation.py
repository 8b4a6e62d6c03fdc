from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index
from torchmetrics.functional.segmentation import dice_score

from ectype.evaluation.metrics.segmentation import (
    bootstrap_interval,
    boundary_f1,
    confusion_matrices,
    dice,
    iou,
    mean_over_classes,
    pixel_accuracy,
)

GENERATOR = torch.Generator().manual_seed(0)
FOUND = torch.randint(0, 4, (5, 20, 30), generator=GENERATOR)
RIGHT = FOUND.where(torch.rand(FOUND.shape, generator=GENERATOR) < 0.7, torch.randint(0, 4, FOUND.shape))
HOLED = RIGHT.clone()
HOLED[:, :, :8] = 255


@pytest.mark.parametrize("right", [RIGHT, HOLED], ids=["whole", "with pixels that do not count"])
def test_figures_are_torchmetrics(right: torch.Tensor) -> None:
    counts = confusion_matrices(FOUND, right, 4).sum(0)
    expected = multiclass_jaccard_index(FOUND, right, 4, average=None, ignore_index=255)
    torch.testing.assert_close(iou(counts).float(), expected)
    assert pixel_accuracy(counts) == pytest.approx(
        float(multiclass_accuracy(FOUND, right, 4, average="micro", ignore_index=255)), rel=1e-6
    )


def test_dice_is_torchmetrics_on_one_image_of_all_pixels() -> None:
    counts = confusion_matrices(FOUND, RIGHT, 4).sum(0)
    one, two = FOUND.reshape(1, -1, 30), RIGHT.reshape(1, -1, 30)
    expected = dice_score(one, two, 4, average="none", input_format="index")[0]
    torch.testing.assert_close(dice(counts).float(), expected.float())


def test_a_class_that_is_nowhere_has_no_value_and_counts_for_nothing() -> None:
    counts = confusion_matrices(FOUND.clamp(max=2), RIGHT.clamp(max=2), 4).sum(0)
    assert math.isnan(float(iou(counts)[3]))
    assert mean_over_classes(iou(counts)) == pytest.approx(float(iou(counts)[:3].mean()))
    # Found where it is not, it is a mistake, not nothing.
    missed = confusion_matrices(torch.full_like(FOUND, 3), RIGHT.clamp(max=2), 4).sum(0)
    assert float(dice(missed)[3]) == 0


def test_an_interval_covers_what_other_images_would_give() -> None:
    counts = confusion_matrices(FOUND, RIGHT, 4)
    low, high = bootstrap_interval(pixel_accuracy, counts)
    assert low < pixel_accuracy(counts.sum(0)) < high
    assert high - low < 0.1
    assert math.isnan(bootstrap_interval(pixel_accuracy, counts[:1])[0])


def outline(mask: torch.Tensor, k: int) -> set[tuple[int, int]]:
    own, found = mask == k, set()
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [p for p in beside if 0 <= p[0] < mask.shape[0] and 0 <= p[1] < mask.shape[1]]
            if own[y, x] and any(not own[p] for p in inside):
                found.add((y, x))
    return found


def test_boundary_f1_is_its_definition() -> None:
    blocks = torch.randint(0, 3, (4, 8, 8), generator=GENERATOR).repeat_interleave(5, 1).repeat_interleave(5, 2)
    moved = blocks.roll((1, 2), (1, 2))
    moved[0] = blocks[0]
    moved[1] = 0
    found = boundary_f1(moved, blocks, 3, tolerance=0.03)
    radius = math.ceil(0.03 * math.hypot(40, 40))
    for i in range(4):
        for k in range(3):
            a, b = outline(moved[i], k), outline(blocks[i], k)
            if not a and not b:
                assert math.isnan(float(found[i, k]))
                continue

            def share(some: set, others: set) -> float:
                near = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in some]
                return sum(near) / len(near) if near else 0.0

            precision, recall = share(a, b), share(b, a)
            expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            assert float(found[i, k]) == pytest.approx(expected, abs=1e-6)
    assert (found[0] == 1).all()
