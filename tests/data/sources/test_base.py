"""Labels and splits are inferred from folder names, and names are sorted naturally."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ectype.data.sources.base import (
    TEST,
    TRAIN,
    UNASSIGNED,
    VAL,
    evenly_spaced_positions,
    infer_labels_and_splits,
    natural_sort_key,
)


def inferred(*names: str) -> tuple[list[int], list[str] | None]:
    found = infer_labels_and_splits(names)
    return found.split_ids.tolist(), None if found.labels is None else [found.classes[i] for i in found.labels]


def test_folders_are_classes_if_there_are_two():
    assert inferred("cat/1.png", "dog/2.png", "cat/deep/3.png") == ([0, 0, 0], ["cat", "dog", "cat"])
    assert inferred("cat/1.png", "cat/2.png") == ([0, 0], None)
    assert inferred("1.png", "2.png") == ([0, 0], None)


def test_split_folders_are_splits_and_what_lies_below_are_classes():
    names = ("train/cat/1.png", "train/dog/2.png", "Test/cat/3.png", "validation/dog/4.png")
    assert inferred(*names) == ([TRAIN, TRAIN, TEST, VAL], ["cat", "dog", "cat", "dog"])


def test_wrapping_folders_count_for_nothing():
    assert inferred("set/v1/train/1.png", "set/v1/t10k/2.png") == ([TRAIN, TEST], None)
    assert inferred("set/cat/1.png", "set/dog/2.png") == ([UNASSIGNED, UNASSIGNED], ["cat", "dog"])


def test_train_among_vehicles_is_a_class():
    assert inferred("bus/1.png", "train/2.png") == ([UNASSIGNED, UNASSIGNED], ["bus", "train"])


def test_splits_may_lie_in_the_folder_of_each_class():
    names = ("cat/train/1.png", "dog/train/2.png", "cat/test/deep/3.png", "dog/test/4.png")
    assert inferred(*names) == ([TRAIN, TRAIN, TEST, TEST], ["cat", "dog", "cat", "dog"])
    # Not if an image lies in none of them, or all images in one: a class may have such a name.
    assert inferred(*names, "cat/5.png") == ([UNASSIGNED] * 5, ["cat", "dog", "cat", "dog", "cat"])
    assert inferred("cat/test/1.png", "dog/test/2.png") == ([UNASSIGNED, UNASSIGNED], ["cat", "dog"])
    assert "within each class" in infer_labels_and_splits(names).notes[0]
    # Two datasets next to each other: one would be used for training only, the other for validation only.
    assert inferred("coco/train/1.png", "imagenet/val/2.png") == (
        [UNASSIGNED, UNASSIGNED],
        ["coco", "imagenet"],
    )


def test_split_folders_beside_others_are_told():
    found = infer_labels_and_splits(["train/good/1.png", "test/bad/2.png", "ground_truth/bad/3.png"])
    assert found.classes == ("ground_truth", "test", "train")
    assert found.notes[0].startswith("folders named like splits are not used as splits")
    assert "'ground_truth'" in found.notes[0]
    assert not infer_labels_and_splits(["bus/1.png", "train/2.png"]).notes
    several = infer_labels_and_splits(
        [f"{k}/{name}/1.png" for k in ("bottle", "cable") for name in ("train", "test", "ground_truth")]
    )
    assert several.notes == (found.notes[0],)
    assert several.classes == ("bottle", "cable")
    mixed = infer_labels_and_splits(["train/train/1.png", "test/test/2.png", "bus/val/3.png"])
    assert mixed.split_ids.tolist() == [UNASSIGNED] * 3
    assert "'bus'" in mixed.notes[0]


def test_images_outside_of_class_folders_undo_classes_with_a_note():
    found = infer_labels_and_splits(["cat/1.png", "dog/2.png", "3.png"])
    assert found.labels is None
    assert "1 of 3" in found.notes[0]


def test_only_one_split_folder_is_a_split():
    assert inferred("train/1.png", "train/2.png") == ([TRAIN, TRAIN], None)


@given(st.lists(st.tuples(st.sampled_from(["train", "test", "a", "b"]), st.sampled_from(["c", "d"])), min_size=1))
def test_layout_does_not_depend_on_order(folders):
    names = [f"{top}/{below}/{i}.png" for i, (top, below) in enumerate(folders)]
    mixed = random.Random(0).sample(names, len(names))

    def by_name(order: list[str]) -> dict[str, tuple[int, str | None]]:
        split_ids, labels = inferred(*order)
        return dict(zip(order, zip(split_ids, labels or [None] * len(order), strict=True), strict=True))

    assert by_name(names) == by_name(mixed)


def test_natural_order():
    assert sorted(["s10", "s9", "s1", "10", "9", "a"], key=natural_sort_key) == ["9", "10", "a", "s1", "s9", "s10"]
    # Digits other than 0 to 9 are text.
    assert sorted(["②", "①", "x", "１"], key=natural_sort_key) == ["x", "①", "②", "１"]


@given(st.integers(0, 200), st.integers(1, 50))
def test_spread_is_even_and_within(length, size):
    found = evenly_spaced_positions(length, size)
    assert len(found) == min(length, size)
    assert all(0 <= i < length for i in found)
