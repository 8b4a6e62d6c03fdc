"""How masks encode classes, and their conversion to class indices. Nothing here imports PyTorch.

Masks come as PNG files of indices or with a palette, in black and white, as gray values, in colors, as one file per
class, or as alpha channels. All files are inspected first, and one decision holds for all of them:

| values in the files | meaning |
|---|---|
| a value of few pixels in very few files (`MAX_STRAY_PIXELS`) | a stray: its pixels are ignored, and reported |
| 0, 1 and 255, and no file has both 1 and 255 | two classes: 1 and 255 are the same class |
| indices and 255, and some file has 255 and a class other than 0 | 255 is ignored, as in Pascal VOC |
| more than `MIN_LOSSY_VALUES` values, nearly all close to 0 or 255 | two classes, cut in the middle |
| other values, such as 0 and 255, or the gray levels 0, 128 and 255 | each value is a class |

Indices are 0, 1, 2, …, or values far below 255 (`MIN_VOID_GAP`). White is 255 in files of one bit as well. Some tools
write binary masks as 0 and 1, others as 0 and 255, which is why these may occur in one folder. `data.ignore` and
`data.class_values` take precedence.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from ectype.core.errors import DataError
from ectype.data.mask_values import (
    INTERMEDIATE_VALUES,
    RGB,
    MaskValues,
    is_lossy,
    pack_color,
    packed_color,
    packed_palette,
    pixel_values,
    unpack_color,
)

__all__ = ["IGNORE_INDEX", "MaskEncoding", "StrayValue", "alpha_encoding", "find_encoding", "mask_to_indices"]

IGNORE_INDEX = 255
"""Index of ignored pixels. A mask can therefore have at most 255 classes."""
VOID_VALUE = 255
"""The value that marks ignored pixels in masks of indices."""
MIN_VOID_GAP = 8
"""Values whose differences are smaller than their distance to 255 by more than this factor are indices, not grays."""
MAX_STRAY_PIXELS = 16
"""Largest number of pixels of a stray value in any file."""
MAX_STRAY_FRACTION = 1e-4
"""Largest fraction of the pixels of all files that have a stray value."""
MAX_STRAY_FILES = 0.01
"""Largest fraction of the files in which a stray value occurs; one file is always few enough."""
MIN_FILES_FOR_STRAYS = 10
"""Among fewer files, a value that is rare is not distinguished from a class that is rare."""
MAX_STRAYS = 16
"""If more values than this are rare, they are not strays: the masks are something else."""
MIN_LOSSY_VALUES = 32
"""Masks with more values than this, nearly all close to black or white, are blurred binary masks."""
MAX_BLURRED_FRACTION = 0.05
"""Largest fraction of intermediate pixels in blurred binary masks."""
MAX_GRAY_CLASSES = 64
"""Masks with more gray values per file are taken for images."""
BINARY_THRESHOLD = 128
MAX_SUMMARY_VALUES = 12
CLASS_COLORS = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Colors of classes without a color of their own: the palette of Okabe and Ito, for color-blind readers."""


class StrayValue(NamedTuple):
    """A value that is too rare to be a class."""

    value: int
    """The value, or packed color."""
    pixels: int
    files: int


class MaskEncoding(NamedTuple):
    """What the values of masks mean. It is stored with prepared images: a change needs a new `cache.FORMAT_VERSION`."""

    kind: Literal["values", "colors", "threshold", "files", "alpha"]
    values: tuple[int, ...]
    """The value, or packed color, of each class in order; empty if each class has its own file."""
    names: tuple[str, ...]
    colors: tuple[RGB, ...]
    """Colors in which the classes are drawn."""
    ignore: int | None = None
    """The value of ignored pixels."""
    aliases: tuple[tuple[int, int], ...] = ()
    """Further values of classes: the value, and the index of the class."""
    strays: tuple[StrayValue, ...] = ()
    """Values that are ignored because they are too rare to be classes."""

    @property
    def class_values(self) -> tuple[int | str, ...]:
        """The value or color of each class as in `data.class_values`; empty if files or a threshold decide."""
        if self.kind not in ("values", "colors"):
            return ()
        return tuple(value if self.kind == "values" else f"#{value:06x}" for value in self.values)

    @property
    def summary(self) -> str:
        """The encoding in one line."""
        if self.kind == "files":
            return f"masks: one file per class ({', '.join(self.names[1:])}); other pixels are {self.names[0]}"
        if self.kind == "alpha":
            return f"masks: alpha channels, cut at {BINARY_THRESHOLD} into {' and '.join(self.names)}"
        if self.kind == "threshold":
            return f"masks: values between black and white (a lossy format?), cut at {BINARY_THRESHOLD} into 0 and 1"
        mapping = []
        for i, value in enumerate(self.values):
            same = [_value_text(self.kind, v) for v in (value, *(alias for alias, index in self.aliases if index == i))]
            mapping.append(f"{' and '.join(same)} → {i}")
        if len(mapping) > MAX_SUMMARY_VALUES:
            mapping = [*mapping[: MAX_SUMMARY_VALUES - 1], "…", mapping[-1]]
        text = f"masks: {len(self.values)} classes by their {self.kind} ({', '.join(mapping)})"
        return text if self.ignore is None else f"{text}; {_value_text(self.kind, self.ignore)} is ignored"

    @property
    def stray_warning(self) -> str | None:
        """What is ignored because it is too rare to be a class, in one line; None if nothing is."""
        if not self.strays:
            return None
        found = ", ".join(
            f"{_value_text(self.kind, stray.value)} (pixels: {stray.pixels:,}, files: {stray.files:,})"
            for stray in self.strays
        )
        values = sorted([*self.values, *(stray.value for stray in self.strays)])
        override = "[" + ", ".join(_value_text(self.kind, value) for value in values) + "]"
        fix = f"data.class_values={override}" if len(values) <= MAX_SUMMARY_VALUES else "data.class_values=[…]"
        return (
            f"values that are very rare in the masks are ignored, not made classes: {found}; {fix} makes them classes"
        )


def alpha_encoding(names: Sequence[str] | None = None) -> MaskEncoding:
    """Return the encoding of masks that are the alpha channels of their images: two classes, cut in the middle.

    Args:
        names: Class names that the user gives, the transparent class first.
    """
    return _with_names(MaskEncoding("alpha", (0, 255), ("background", "foreground"), _class_colors(2)), names)


def find_encoding(
    masks: Iterable[MaskValues],
    *,
    file_classes: Sequence[str] = (),
    names: Sequence[str] | None = None,
    ignore: int | str | None = "auto",
    class_values: Sequence[int | str] | None = None,
) -> MaskEncoding:
    """Find out what the values of all masks mean, by the rule at the top of this file.

    Args:
        masks: The values of every mask.
        file_classes: Names of the classes if each has its own files.
        names: Class names that the user gives, in order.
        ignore: A value that is ignored, None for none. auto: 255 next to indices, as in Pascal VOC.
        class_values: The value or color of each class in order. Masks with as many classes but other values are read
            in ascending order of their values.

    Raises:
        DataError: The masks have too many values for classes, or only one; or the number of names is another.
    """
    if file_classes:
        classes = ("background", *file_classes)
        return _with_names(MaskEncoding("files", (), classes, _class_colors(len(classes))), names)
    seen = list(masks)
    palette, palettes_agree = _merge_palettes(seen)
    kind: Literal["values", "colors"] = "colors"
    if {mask.kind for mask in seen} == {"values"} and palettes_agree:
        kind = "values"
        if class_values is None and not palette and _is_blurred_binary(seen):
            return _with_names(MaskEncoding("threshold", (0, 255), ("0", "1"), _class_colors(2)), names)
    files = [mask.counts if kind == "values" else mask.color_counts for mask in seen]
    given_ignore = _given_ignore_value(kind, ignore, palette)
    strays = _find_strays(files, given_ignore) if class_values is None else ()
    dropped = {stray.value for stray in strays}
    values_per_file = [file.keys() - dropped for file in files]
    values = sorted(set().union(*values_per_file))
    if not values:
        raise DataError("no mask can be read: check that the files open in other programs.")
    void = kind == "values" and _has_void(values_per_file)
    same_as_one = kind == "values" and given_ignore != VOID_VALUE and _is_mixed_binary(values_per_file)
    if same_as_one:
        values.remove(VOID_VALUE)
    if class_values is not None:
        kind, values = _apply_class_values(class_values, kind, values, palette, void=void and ignore == "auto")
        same_as_one = same_as_one and kind == "values" and 1 in values and VOID_VALUE not in values
    elif not palette and kind == "values" and _is_picture(seen):
        raise DataError(
            f"masks have {len(values):,} gray values, which look like images rather than classes: use masks with "
            "sharp edges, pairs=images if they are images, or class_values=… if they are classes."
        )
    ignore_value = _given_ignore_value(kind, ignore, palette)
    if ignore == "auto" and kind == "values":
        unlisted = class_values is not None and VOID_VALUE not in values and not same_as_one
        ignore_value = VOID_VALUE if unlisted or (void and class_values is None) else None
    values = [value for value in values if value != ignore_value]
    if len(values) > IGNORE_INDEX:
        raise DataError(
            f"masks have {len(values):,} {kind}, too many for classes: save "
            "masks in a lossless format such as PNG, or use pairs=images if they are images."
        )
    if len(values) < 2:
        raise DataError("masks have only one value, so there are no classes: check that these are the right files.")
    if kind == "colors":
        colors = tuple(unpack_color(value) for value in values)
        found = tuple(f"#{value:06x}" for value in values)
    else:
        defaults = _class_colors(len(values))
        colors = tuple(palette.get(value, defaults[i]) for i, value in enumerate(values))
        if len(set(colors)) < len(colors):
            colors = defaults
        found = tuple(map(str, values))
    aliases = ((VOID_VALUE, values.index(1)),) if same_as_one else ()
    return _with_names(MaskEncoding(kind, tuple(values), found, colors, ignore_value, aliases, strays), names)


def _merge_palettes(masks: Sequence[MaskValues]) -> tuple[dict[int, RGB], bool]:
    """Return the first color of each palette index that occurs, and whether all masks agree on what a value means.

    They do not if palettes differ, or if one of grays gets darker with the index while other files have no palette.
    """
    palette: dict[int, RGB] = {}
    agree = True
    for mask in masks:
        for value, color in mask.palette.items():
            agree &= palette.setdefault(value, color) == color
    colors = [palette[value] for value in sorted(palette)]
    is_reversed = all(len(set(color)) == 1 for color in colors) and colors != sorted(colors)
    return palette, agree and not (is_reversed and not all(mask.palette for mask in masks))


def _find_strays(files: Sequence[Mapping[int, int]], ignore_value: int | None) -> tuple[StrayValue, ...]:
    """Return the values of few pixels in very few files, unless these are all that distinguishes the masks.

    Args:
        files: The number of pixels of each value in each file.
        ignore_value: A value that the user ignores.
    """
    if len(files) < MIN_FILES_FOR_STRAYS:
        return ()
    pixels: Counter[int] = Counter()
    num_files: Counter[int] = Counter()
    largest: dict[int, int] = {}
    for file in files:
        for value, count in file.items():
            pixels[value] += count
            num_files[value] += 1
            largest[value] = max(largest.get(value, 0), count)
    max_pixels = MAX_STRAY_FRACTION * pixels.total()
    max_files = max(1, int(MAX_STRAY_FILES * len(files)))
    strays = [
        StrayValue(value, count, num_files[value])
        for value, count in sorted(pixels.items())
        if count <= max_pixels
        and num_files[value] <= max_files
        and largest[value] <= MAX_STRAY_PIXELS
        and value != ignore_value
    ]
    return tuple(strays) if len(strays) <= MAX_STRAYS and len(pixels) - len(strays) >= 2 else ()


def _has_void(values_per_file: Sequence[Collection[int]]) -> bool:
    """Return whether 255 marks ignored pixels: next to indices, and in some file next to a class other than 0."""
    others = sorted(set().union(*values_per_file) - {VOID_VALUE})
    if len(others) < 2 or others[-1] > VOID_VALUE:
        return False
    largest_step = max(high - low for low, high in itertools.pairwise(others))
    are_indices = others == list(range(len(others))) or VOID_VALUE - others[-1] > MIN_VOID_GAP * largest_step
    return are_indices and any(
        VOID_VALUE in values and any(0 < value < VOID_VALUE for value in values) for values in values_per_file
    )


def _is_mixed_binary(values_per_file: Sequence[Collection[int]]) -> bool:
    """Return whether the foreground is 1 in some files and 255 in others."""
    return set().union(*values_per_file) == {0, 1, VOID_VALUE} and not any(
        1 in values and VOID_VALUE in values for values in values_per_file
    )


def _apply_class_values(
    class_values: Sequence[int | str],
    kind: Literal["values", "colors"],
    values: list[int],
    palette: Mapping[int, RGB],
    *,
    void: bool,
) -> tuple[Literal["values", "colors"], list[int]]:
    """Return the kind and values that the user gives, or those that occur if these are the same classes."""
    given_kind = "colors" if any(isinstance(value, str) for value in class_values) else "values"
    given = [packed_color(value) if given_kind == "colors" else int(value) for value in class_values]
    occurring = set(values)
    if given_kind == "colors" and kind == "values":
        # The same classes by the colors of their palette, or as gray values.
        occurring = {pack_color(palette.get(value, (value, value, value))) for value in values if value < 256}
    ignored = {VOID_VALUE} if void and given_kind == "values" and VOID_VALUE not in given else set()
    counted = occurring - ignored
    # As many other values are the same classes in another encoding; a value that does not occur leaves the others.
    if counted <= set(given) or len(counted) != len(given):
        return given_kind, given
    return kind, values


def _is_blurred_binary(masks: Sequence[MaskValues]) -> bool:
    """Return whether masks are black and white, except for edges that a lossy format or resizing has changed."""
    values = set().union(*(mask.counts for mask in masks))
    many_values = len(values) > MIN_LOSSY_VALUES or (len(values) > 2 and any(mask.lossy for mask in masks))
    intermediate = float(np.mean([mask.intermediate for mask in masks]))
    return many_values and INTERMEDIATE_VALUES[1] <= max(values) < 256 and intermediate < MAX_BLURRED_FRACTION


def _is_picture(masks: Sequence[MaskValues]) -> bool:
    """Return whether a typical mask has more values than it can have classes."""
    return float(np.median([len(mask.counts) for mask in masks])) > MAX_GRAY_CLASSES


def _given_ignore_value(kind: str, ignore: int | str | None, palette: Mapping[int, RGB]) -> int | None:
    """Return the value of ignored pixels that the user gives; None without one, and for auto."""
    if ignore is None or ignore == "auto":
        return None
    if kind == "colors":
        return packed_color(ignore)
    if isinstance(ignore, int) or ignore.isdigit():
        return int(ignore)
    target = packed_color(ignore)
    matching = [value for value, color in palette.items() if pack_color(color) == target]
    return matching[0] if matching else target & 255


def mask_to_indices(image: Image.Image, encoding: MaskEncoding) -> np.ndarray:
    """Convert a mask to class indices.

    Returns:
        [h, w] uint8, `IGNORE_INDEX` for ignored pixels.

    Raises:
        ValueError: A value is not a class; the message names it.
    """
    pixels, kind = pixel_values(image)
    if encoding.kind in ("threshold", "alpha"):
        return (pixels >= BINARY_THRESHOLD).astype(np.uint8)
    if encoding.kind == "files":
        # Half of the largest value is a threshold for masks of 0 and 1, and for those that a lossy format has blurred.
        largest = int(pixels.max(initial=0))
        only_noise = is_lossy(image) and largest < MIN_LOSSY_VALUES
        return np.zeros_like(pixels, np.uint8) if only_noise else (pixels > largest / 2).astype(np.uint8)
    if encoding.kind == "colors" and kind == "values":
        if pixels.max(initial=0) > 255:
            raise ValueError(f"the value {pixels.max()} is not a class of these masks")
        pixels = packed_palette(image)[pixels]
    index_of = {value: i for i, value in enumerate(encoding.values)} | dict(encoding.aliases)
    index_of |= {stray.value: IGNORE_INDEX for stray in encoding.strays}
    if encoding.ignore is not None:
        index_of[encoding.ignore] = IGNORE_INDEX
    known = np.array(sorted(index_of))
    position = np.minimum(np.searchsorted(known, pixels), len(known) - 1)
    wrong = known[position] != pixels
    if wrong.any():
        text = _value_text(encoding.kind, int(pixels[wrong][0]))
        raise ValueError(f"the value {text} is not a class of these masks")
    return np.array([index_of[value] for value in known.tolist()], np.uint8)[position]


def _value_text(kind: str, value: int) -> str:
    return f"#{value:06x}" if kind == "colors" else str(value)


def _class_colors(count: int) -> tuple[RGB, ...]:
    """Return distinct colors: the palette first, then colors spread over the RGB cube."""
    extra = [((37 * i) % 200 + 40, (91 * i) % 200 + 40, (151 * i) % 200 + 40) for i in range(len(CLASS_COLORS), count)]
    return (*CLASS_COLORS, *extra)[:count]


def _with_names(encoding: MaskEncoding, names: Sequence[str] | None) -> MaskEncoding:
    if names is None:
        return encoding
    if len(names) != len(encoding.names):
        raise DataError(
            f"data.class_names has {len(names)} names, but the masks have {len(encoding.names)} classes "
            f"({', '.join(encoding.names[:8])}): give one name for each, in this order."
        )
    return encoding._replace(names=tuple(names))
