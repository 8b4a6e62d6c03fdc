"""What the values of masks mean: the rule of `ectype.data.masks`, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from ectype.core.errors import DataError
from ectype.data.mask_values import inspect_mask
from ectype.data.masks import IGNORE_INDEX, MaskEncoding, alpha_encoding, find_encoding, mask_to_indices

SIDE = 64


def mask(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """A mask of equal stripes of these values."""
    return np.array(values, dtype).repeat(-(-SIDE // len(values)))[:SIDE][:, None].repeat(SIDE, 1)


def encoding(masks: Sequence[np.ndarray | Image.Image], **keys) -> MaskEncoding:
    images = [each if isinstance(each, Image.Image) else Image.fromarray(each) for each in masks]
    return find_encoding(map(inspect_mask, images), **keys)


def indices(found: MaskEncoding, each: np.ndarray | Image.Image) -> np.ndarray:
    return mask_to_indices(each if isinstance(each, Image.Image) else Image.fromarray(each), found)


@pytest.mark.parametrize(
    "files, values, ignore",
    [
        ([(0, 255)], (0, 255), None),
        ([(0, 1)], (0, 1), None),
        ([(0, 255), (0, 1)], (0, 1), None),  # no file has both 1 and 255
        ([(0,), (1,), (255,)], (0, 1), None),
        ([(0, 1, 255)], (0, 1), 255),
        ([(0, 1), (1, 255)], (0, 1), 255),
        ([(0, 1, 2, 255), (0, 255)], (0, 1, 2), 255),
        ([(0, 1, 3, 255)], (0, 1, 3), 255),  # class 2 does not occur
        ([(0, 15, 255)], (0, 15), 255),
        ([(0, 1, 2), (0, 255)], (0, 1, 2, 255), None),  # 255 never lies next to another class
        ([(0, 128, 255)], (0, 128, 255), None),
        ([(0, 85, 170, 255)], (0, 85, 170, 255), None),
        ([(0, 64, 128, 192, 255)], (0, 64, 128, 192, 255), None),
        ([(1, 255)], (1, 255), None),
        ([(*tuple(range(21)), 255)], tuple(range(21)), 255),
    ],
)
def test_values_of_all_files_decide_once(files: list[tuple[int, ...]], values: tuple[int, ...], ignore: int | None):
    found = encoding([mask(*each) for each in files])
    assert (found.values, found.ignore) == (values, ignore)
    for each in files:
        expected = [IGNORE_INDEX if v == ignore else values.index(1 if v not in values else v) for v in each]
        np.testing.assert_array_equal(indices(found, mask(*each)), mask(*expected))


@pytest.mark.parametrize("zero_one", [True, False])
def test_one_bit_next_to_eight_keeps_the_foreground(zero_one: bool):
    drawn = mask(0, 1, 1, 0)
    eight = Image.fromarray(drawn * (1 if zero_one else 255))
    one = Image.fromarray(drawn * 255).convert("1")
    found = encoding([eight, one])
    assert len(found.names) == 2
    assert found.ignore is None
    for each in (eight, one):
        np.testing.assert_array_equal(indices(found, each), drawn)
    assert ("1 and 255 → 1" in found.summary) == zero_one


def test_a_palette_from_white_to_black_is_read_by_its_colors():
    drawn = mask(0, 1, 1)
    reverse = Image.fromarray(1 - drawn)
    reverse.putpalette([255] * 3 + [0] * 3)
    plain = Image.fromarray(255 * drawn)
    found = encoding([plain, reverse])
    for each in (plain, reverse):
        np.testing.assert_array_equal(indices(found, each), drawn)
    np.testing.assert_array_equal(indices(encoding([reverse]), reverse), 1 - drawn)  # indices count if all have them


def test_given_values_take_the_same_foreground():
    """Masks of 0 and 255, and mixed ones, are the classes of a model that was trained on 0 and 1."""
    for files in ([(0, 255)], [(0, 255), (0, 1)], [(0, 1)]):
        found = encoding([mask(*each) for each in files], class_values=(0, 1), names=("ground", "disc"))
        for each in files:
            np.testing.assert_array_equal(indices(found, mask(*each)), mask(0, 1))
    found = encoding([mask(0, 1, 255)], class_values=(0, 1))
    np.testing.assert_array_equal(indices(found, mask(0, 1, 255)), mask(0, 1, IGNORE_INDEX))
    reverse = encoding([mask(0, 1), mask(0, 255)], class_values=(1, 0))
    np.testing.assert_array_equal(indices(reverse, mask(0, 255)), mask(1, 0))


def test_ignore_and_class_values_take_precedence():
    files = [mask(0, 1), mask(0, 255)]
    assert encoding(files, ignore=255).ignore == 255
    three = encoding(files, class_values=(0, 1, 255))
    assert three.values == (0, 1, 255)
    np.testing.assert_array_equal(indices(three, files[1]), mask(0, 2))
    assert encoding([mask(0, 1, 255)], ignore=None).values == (0, 1, 255)


def with_pixels(drawn: np.ndarray, value: int, count: int) -> np.ndarray:
    drawn = drawn.copy()
    drawn.flat[:count] = value
    return drawn


@pytest.mark.parametrize("foreground", [1, 255])
def test_a_stray_pixel_is_no_class_unless_it_is_named(foreground: int):
    files = [mask(0, foreground) for _ in range(30)]
    files[4] = with_pixels(files[4], 7, 1)
    found = encoding(files)
    assert found.values == (0, foreground)
    assert found.ignore is None
    seen = indices(found, files[4])
    assert seen[0, 0] == IGNORE_INDEX
    np.testing.assert_array_equal(seen.flat[1:], mask(0, 1).flat[1:])
    warning = found.stray_warning
    assert warning is not None
    override = sorted([0, foreground, 7])
    assert f"7 (pixels: 1, files: 1); data.class_values={override} makes" in warning
    named = encoding(files, class_values=override)
    assert named.stray_warning is None
    assert indices(named, files[4])[0, 0] == override.index(7)


@pytest.mark.parametrize(
    "count, num_with, num_files",
    [
        (17, 1, 100),  # too many pixels in a file
        (1, 3, 30),  # in too many files
        (1, 1, 9),  # too few files
    ],
)
def test_rare_values_are_classes_otherwise(count: int, num_with: int, num_files: int):
    files = [mask(0, 1) for _ in range(num_files)]
    for i in range(num_with):
        files[i] = with_pixels(files[i], 7, count)
    assert encoding(files).values == (0, 1, 7)


def test_what_alone_distinguishes_masks_is_not_stray():
    files = [mask(0) for _ in range(30)]
    files[3] = with_pixels(files[3], 255, 4)
    assert encoding(files).values == (0, 255)


def test_stray_colors_are_named_as_colors():
    red = np.zeros((SIDE, SIDE, 3), np.uint8)
    red[:32] = (255, 0, 0)
    files = [red.copy() for _ in range(12)]
    files[0][0, 0] = (255, 1, 0)
    found = encoding(files)
    assert found.class_values == ("#000000", "#ff0000")
    assert found.stray_warning is not None
    assert "data.class_values=[#000000, #ff0000, #ff0100]" in found.stray_warning
    assert indices(found, files[0])[0, 0] == IGNORE_INDEX


def test_alpha_is_cut_in_the_middle():
    found = alpha_encoding()
    np.testing.assert_array_equal(indices(found, mask(0, 127, 128, 255)), mask(0, 0, 1, 1))
    assert alpha_encoding(("out", "in")).names == ("out", "in")
    with pytest.raises(DataError, match="class_names has 1 names, but the masks have 2 classes"):
        alpha_encoding(("one",))
