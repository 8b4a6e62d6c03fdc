"""How masks encode classes, and their conversion to class indices. Nothing here imports PyTorch.

Masks come as PNG files of indices or with a palette, in black and white, as gray values, in colors, or as one file per
class. All files are inspected first: the values that occur decide what they mean, in the same way for all files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from ectype.core.errors import DataError
from ectype.data.colors import parse_color

__all__ = ["IGNORE_INDEX", "MaskEncoding", "MaskValues", "find_encoding", "inspect_mask", "mask_to_indices"]

RGB: TypeAlias = tuple[int, int, int]

IGNORE_INDEX = 255
"""Index of ignored pixels. A mask can therefore have at most 255 classes."""
MIN_LOSSY_VALUES = 32
"""Masks with more values than this, nearly all close to black or white, are blurred binary masks."""
MAX_BLURRED_FRACTION = 0.05
"""Largest fraction of intermediate pixels in blurred binary masks."""
INTERMEDIATE_VALUES = (32, 224)
"""Values between these two are intermediate: neither close to black nor close to white."""
MAX_GRAY_CLASSES = 64
"""Masks with more gray values per file are taken for images."""
BINARY_THRESHOLD = 128
GRAY_TO_PACKED = 0x010101
"""Factor that turns a gray value into a packed color."""
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


class MaskValues(NamedTuple):
    """The values that occur in one mask. A color is packed in one integer: 65536 · red + 256 · green + blue."""

    kind: Literal["values", "colors"]
    values: frozenset[int]
    """Gray values or palette indices; packed colors if the kind is colors."""
    palette: tuple[RGB, ...] = ()
    """Colors of the palette indices that occur, in the order of the indices; empty without a palette."""
    colors: frozenset[int] = frozenset()
    """The same colors packed, which are used if the palettes of files disagree."""
    intermediate: float = 0.0
    """Fraction of pixels that are neither close to 0 nor close to 255."""
    lossy: bool = False
    """Whether the file format changes values."""


class MaskEncoding(NamedTuple):
    """What the values of masks mean. It is stored with prepared images: a change needs a new `cache.FORMAT_VERSION`."""

    kind: Literal["values", "colors", "threshold", "files"]
    values: tuple[int, ...]
    """The value, or packed color, of each class in order; empty if each class has its own file."""
    names: tuple[str, ...]
    colors: tuple[RGB, ...]
    """Colors in which the classes are drawn."""
    ignore: int | None = None
    """The value of ignored pixels."""

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
        if self.kind == "threshold":
            return f"masks: values between black and white (a lossy format?), cut at {BINARY_THRESHOLD} into 0 and 1"
        mapping = [f"{_value_text(self.kind, value)} → {i}" for i, value in enumerate(self.values)]
        if len(mapping) > MAX_SUMMARY_VALUES:
            mapping = [*mapping[: MAX_SUMMARY_VALUES - 1], "…", mapping[-1]]
        text = f"masks: {len(self.values)} classes by their {self.kind} ({', '.join(mapping)})"
        return text if self.ignore is None else f"{text}; {_value_text(self.kind, self.ignore)} is ignored"


def inspect_mask(image: Image.Image) -> MaskValues:
    """Return the values that occur in a mask."""
    palette = _palette(image)
    pixels, kind = _pixel_values(image)
    values = np.unique(pixels).tolist()
    if kind == "colors":
        return MaskValues("colors", frozenset(values))
    low, high = INTERMEDIATE_VALUES
    intermediate = float(((pixels > low) & (pixels < high)).mean())
    if palette is None:
        lossy = image.format in ("JPEG", "MPO")
        return MaskValues("values", frozenset(values), intermediate=intermediate, lossy=lossy)
    used = tuple(palette[value] for value in values)
    return MaskValues("values", frozenset(values), used, frozenset(map(_pack_color, used)), intermediate)


def find_encoding(
    masks: Iterable[MaskValues],
    *,
    file_classes: Sequence[str] = (),
    names: Sequence[str] | None = None,
    ignore: int | str | None = "auto",
    class_values: Sequence[int | str] | None = None,
) -> MaskEncoding:
    """Find out what the values of all masks mean.

    Args:
        masks: The values of every mask.
        file_classes: Names of the classes if each has its own files.
        names: Class names that the user gives, in order.
        ignore: A value that is ignored, None for none. auto: 255 next to classes 0, 1, …, as in Pascal VOC.
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
    kind: Literal["values", "colors"]
    if {mask.kind for mask in seen} == {"values"} and palettes_agree:
        kind = "values"
        values = sorted(set().union(*(mask.values for mask in seen)))
        if class_values is None and not palette and _is_blurred_binary(seen, values):
            return _with_names(MaskEncoding("threshold", (0, 255), ("0", "1"), _class_colors(2)), names)
    else:
        kind = "colors"
        values = sorted(set().union(*(_colors_of(mask) for mask in seen)))
    if not values:
        raise DataError("no mask can be read: check that the files open in other programs.")
    if class_values is not None:
        kind, values = _apply_class_values(class_values, kind, values, palette, ignore)
    elif not palette and kind == "values" and _is_picture(seen):
        raise DataError(
            f"masks have {len(values):,} gray values, which look like images rather than classes: use masks with "
            "sharp edges, pairs=images if they are images, or class_values=… if they are classes."
        )
    ignore_value = _ignore_value(kind, values, ignore, palette, values_given=class_values is not None)
    values = [value for value in values if value != ignore_value]
    if len(values) > IGNORE_INDEX:
        raise DataError(
            f"masks have {len(values):,} {kind}, too many for classes: save "
            "masks in a lossless format such as PNG, or use pairs=images if they are images."
        )
    if len(values) < 2:
        raise DataError("masks have only one value, so there are no classes: check that these are the right files.")
    if kind == "colors":
        colors = tuple(_unpack_color(value) for value in values)
        found = tuple(f"#{value:06x}" for value in values)
    else:
        defaults = _class_colors(len(values))
        colors = tuple(palette.get(value, defaults[i]) for i, value in enumerate(values))
        if len(set(colors)) < len(colors):
            colors = defaults
        found = tuple(map(str, values))
    return _with_names(MaskEncoding(kind, tuple(values), found, colors, ignore_value), names)


def _merge_palettes(masks: Sequence[MaskValues]) -> tuple[dict[int, RGB], bool]:
    """Return the first color of each palette index that occurs, and whether all palettes agree."""
    palette: dict[int, RGB] = {}
    agree = True
    for mask in masks:
        for value, color in zip(sorted(mask.values), mask.palette, strict=False):
            agree &= palette.setdefault(value, color) == color
    return palette, agree


def _apply_class_values(
    class_values: Sequence[int | str],
    kind: Literal["values", "colors"],
    values: list[int],
    palette: Mapping[int, RGB],
    ignore: int | str | None,
) -> tuple[Literal["values", "colors"], list[int]]:
    """Return the kind and values that the user gives, or those that occur if these are the same classes."""
    given_kind = "colors" if any(isinstance(value, str) for value in class_values) else "values"
    given = [_packed_color(value) if given_kind == "colors" else int(value) for value in class_values]
    occurring = set(values)
    if given_kind == "colors" and kind == "values":
        # The same classes by the colors of their palette, or as gray values.
        occurring = {_pack_color(palette.get(value, (value, value, value))) for value in values if value < 256}
    ignored = {255} if ignore == "auto" and given_kind == kind == "values" and 255 not in given else set()
    counted = occurring - ignored
    # As many other values are the same classes in another encoding; a value that does not occur leaves the others.
    if counted <= set(given) or len(counted) != len(given):
        return given_kind, given
    return kind, values


def _is_blurred_binary(masks: Sequence[MaskValues], values: Sequence[int]) -> bool:
    """Return whether masks are black and white, except for edges that a lossy format or resizing has changed."""
    many_values = len(values) > MIN_LOSSY_VALUES or (len(values) > 2 and any(mask.lossy for mask in masks))
    intermediate = float(np.mean([mask.intermediate for mask in masks]))
    return many_values and INTERMEDIATE_VALUES[1] <= max(values) < 256 and intermediate < MAX_BLURRED_FRACTION


def _is_picture(masks: Sequence[MaskValues]) -> bool:
    """Return whether a typical mask has more values than it can have classes."""
    return float(np.median([len(mask.values) for mask in masks])) > MAX_GRAY_CLASSES


def _ignore_value(
    kind: str,
    values: Sequence[int],
    ignore: int | str | None,
    palette: Mapping[int, RGB],
    *,
    values_given: bool,
) -> int | None:
    """Return the value of ignored pixels. If class values are given, auto ignores 255 unless it is one of them."""
    if ignore is None:
        return None
    if ignore != "auto":
        if kind == "colors":
            return _packed_color(ignore)
        if isinstance(ignore, int) or ignore.isdigit():
            return int(ignore)
        target = _packed_color(ignore)
        matching = [value for value, color in palette.items() if _pack_color(color) == target]
        return matching[0] if matching else target & 255
    if kind == "colors":
        return None
    if values_given:
        return None if 255 in values else 255
    others = list(values[:-1])
    return 255 if values[-1] == 255 and len(others) > 1 and others == list(range(len(others))) else None


def mask_to_indices(image: Image.Image, encoding: MaskEncoding) -> np.ndarray:
    """Convert a mask to class indices.

    Returns:
        [h, w] uint8, `IGNORE_INDEX` for ignored pixels.

    Raises:
        ValueError: A value is not a class; the message names it.
    """
    pixels, kind = _pixel_values(image)
    if encoding.kind == "threshold":
        return (pixels >= BINARY_THRESHOLD).astype(np.uint8)
    if encoding.kind == "files":
        # Half of the largest value is a threshold for masks of 0 and 1, and for those that a lossy format has blurred.
        largest = int(pixels.max(initial=0))
        only_noise = image.format in ("JPEG", "MPO") and largest < MIN_LOSSY_VALUES
        return np.zeros_like(pixels, np.uint8) if only_noise else (pixels > largest / 2).astype(np.uint8)
    if encoding.kind == "colors" and kind == "values":
        palette = _palette(image)
        colors = np.array([_pack_color(c) for c in palette], np.int64) if palette else np.arange(256) * GRAY_TO_PACKED
        if pixels.max(initial=0) > 255:
            raise ValueError(f"the value {pixels.max()} is not a class of these masks")
        pixels = colors[pixels]
    known = [*encoding.values, *([] if encoding.ignore is None else [encoding.ignore])]
    order = np.argsort(known)
    position = np.searchsorted(np.array(known)[order], pixels)
    index = order[np.minimum(position, len(known) - 1)]
    wrong = np.array(known)[index] != pixels
    if wrong.any():
        text = _value_text(encoding.kind, int(pixels[wrong][0]))
        raise ValueError(f"the value {text} is not a class of these masks")
    indices = index.astype(np.uint8)
    if encoding.ignore is not None:
        indices[index == len(encoding.values)] = IGNORE_INDEX
    return indices


def _pixel_values(image: Image.Image) -> tuple[np.ndarray, Literal["values", "colors"]]:
    """Return a mask's pixels as one integer each, and whether they are values or packed colors."""
    if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64), "values"
    if image.mode in ("LA", "PA"):
        return np.asarray(image)[..., 0].astype(np.int64), "values"
    rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    if (rgb.max(2) == rgb.min(2)).all():
        return rgb[..., 0], "values"
    return rgb @ np.array([65536, 256, 1]), "colors"


def _palette(image: Image.Image) -> list[RGB] | None:
    if image.mode not in ("P", "PA"):
        return None
    flat = image.convert("P").getpalette("RGB") or []
    flat = [*flat, *[0] * (768 - len(flat))]
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, 768, 3)]


def _colors_of(mask: MaskValues) -> frozenset[int]:
    if mask.kind == "colors":
        return mask.values
    return mask.colors or frozenset(value * GRAY_TO_PACKED for value in mask.values if value < 256)


def _pack_color(color: RGB) -> int:
    return 65536 * color[0] + 256 * color[1] + color[2]


def _unpack_color(value: int) -> RGB:
    return value >> 16, value >> 8 & 255, value & 255


def _packed_color(value: int | str) -> int:
    """Return the packed color of a gray value or of a color as it is written in a recipe."""
    if isinstance(value, int):
        return value * GRAY_TO_PACKED
    try:
        return _pack_color(parse_color(value))
    except ValueError:
        raise DataError(f"'{value}' is not a color: give a gray value, a name such as white, or #rrggbb.") from None


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
