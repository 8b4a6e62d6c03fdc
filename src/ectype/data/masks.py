"""How masks write classes, whatever it is, and from there to class indices. No torch.

Masks come as index or palette PNG, as black and white, as grey values, in colours, or as a file for each class. All
files are looked at once: which values there are decides what they stand for, the same in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from ectype.data.decode import colour
from ectype.errors import DataError

__all__ = ["IGNORED", "Coding", "find_coding", "indices", "look"]

IGNORED = 255
"""Index of pixels that count for nothing; so there are 255 classes at most."""
LOSSY = 32
"""More values than this, nearly all close to black or white, are a mask that a lossy format has blurred."""
MOST_GREYS = 64
"""Grey values in one file beyond which masks are taken for pictures."""
BLURRED = 0.05
"""Share of pixels in between, at most, that such a mask may have."""
PALETTE = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Colours of classes that have none of their own: Okabe and Ito's, which the colour-blind tell apart."""


class Look(NamedTuple):
    """What values one mask has."""

    kind: Literal["values", "colours"]
    values: frozenset[int]
    """Grey values or palette indices; of colours 65536 · red + 256 · green + blue."""
    palette: tuple[tuple[int, int, int], ...] = ()
    """Of a mask of indices: the colours of those in use, in order of the indices."""
    colours: frozenset[int] = frozenset()
    """Of a mask of indices, the same as colours, in case palettes disagree."""
    middle: float = 0.0
    """Share of pixels whose value is neither near 0 nor near 255."""
    lossy: bool = False
    """Whether its file format changes values."""


class Coding(NamedTuple):
    """What the values of masks stand for."""

    kind: Literal["values", "colours", "threshold", "files"]
    values: tuple[int, ...]
    """Of each class, in order; of a file for each class there are none."""
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    """To paint the classes with."""
    ignore: int | None = None
    """The value of pixels that count for nothing."""

    @property
    def written(self) -> tuple[int | str, ...]:
        """The value, or colour, of each class as a recipe would say it; none where files or a threshold decide."""
        if self.kind not in ("values", "colours"):
            return ()
        return tuple(value if self.kind == "values" else f"#{value:06x}" for value in self.values)

    @property
    def summary(self) -> str:
        """The mapping in one line."""
        if self.kind == "files":
            return f"masks: a file for each class, {', '.join(self.names[1:])}; the rest is {self.names[0]}"
        if self.kind == "threshold":
            return "masks: values between black and white (a lossy format?), cut at 128 into 0 and 1"
        shown = [f"{_written(self.kind, value)} → {i}" for i, value in enumerate(self.values)]
        shown = shown if len(shown) <= 12 else [*shown[:11], "…", shown[-1]]
        what = "colours" if self.kind == "colours" else "values"
        said = f"masks: {len(self.values)} classes by their {what} ({', '.join(shown)})"
        return said if self.ignore is None else f"{said}; {_written(self.kind, self.ignore)} counts for nothing"


def look(image: Image.Image) -> Look:
    """Which values a mask has."""
    palette = _palette(image)
    values, kind = _values(image)
    found = np.unique(values)
    if kind == "colours":
        return Look("colours", frozenset(found.tolist()))
    middle = float(((values > 32) & (values < 224)).mean())
    if palette is None:
        return Look("values", frozenset(found.tolist()), middle=middle, lossy=image.format in ("JPEG", "MPO"))
    used = tuple(palette[i] for i in found.tolist())
    return Look("values", frozenset(found.tolist()), used, frozenset(map(_packed, used)), middle)


def find_coding(
    looks: Iterable[Look],
    *,
    files: Sequence[str] = (),
    names: Sequence[str] | None = None,
    ignore: int | str | None = "auto",
    given: Sequence[int | str] | None = None,
) -> Coding:
    """What the values of all masks stand for.

    Args:
        looks: At every mask.
        files: Names of the classes where each has files of its own.
        names: What the user calls the classes, in order.
        ignore: A value that counts for nothing, None for none. auto: 255 beside classes 0, 1, … as in Pascal VOC.
        given: The value, or colour, of each class in order. Masks that have as many others are read in these' order.

    Raises:
        DataError: Too many values to be classes, only one, or another number of names.
    """
    if files:
        found = ("background", *files)
        return _named(Coding("files", (), found, _paints(len(found))), names)
    seen = list(looks)
    kind: Literal["values", "colours"]
    kinds = {one.kind for one in seen}
    palettes: dict[int, tuple[int, int, int]] = {}
    agree = True
    for one in seen:
        for value, paint in zip(sorted(one.values), one.palette, strict=False):
            agree &= palettes.setdefault(value, paint) == paint
    if kinds == {"values"} and agree:
        values = sorted(set().union(*(one.values for one in seen)))
        if given is None and not palettes and _blurred(seen, values):
            return _named(Coding("threshold", (0, 255), ("0", "1"), _paints(2)), names)
        kind = "values"
    else:
        values = sorted(set().union(*(_as_colours(one) for one in seen)))
        kind = "colours"
    if not values:
        raise DataError("no mask can be read: check that the files open elsewhere.")
    if given is not None:
        asked = "colours" if any(isinstance(value, str) for value in given) else "values"
        wanted = [_colour_value(value) if asked == "colours" else int(value) for value in given]
        seen_as = set(values)
        if asked == "colours" and kind == "values":
            # The same classes by the colours of their palette, or as greys.
            seen_as = {_packed(palettes.get(value, (value, value, value))) for value in values if value < 256}
        skipped = {255} if ignore == "auto" and asked == kind == "values" and 255 not in wanted else set()
        counted = seen_as - skipped
        # As many others are the same classes written in another way; but a value that is missing moves no other.
        if counted <= set(wanted) or len(counted) != len(wanted):
            kind, values = asked, wanted
    if given is None and not palettes and kind == "values" and _picture(seen):
        raise DataError(
            f"masks hold {len(values):,} grey values, which look like pictures, not like classes: give masks with "
            "sharp edges, pairs=images if they are pictures, or class_values=… if they are classes."
        )
    void = _void(kind, values, ignore, palettes, pinned=given is not None)
    values = [value for value in values if value != void]
    if len(values) > IGNORED:
        raise DataError(
            f"masks hold {len(values):,} {'colours' if kind == 'colours' else 'values'}, which are no classes: give "
            "masks in a lossless format such as PNG, or pairs=images if they are pictures."
        )
    if len(values) < 2:
        raise DataError(
            "masks hold one value only: there is nothing to tell apart; check that they are the right files."
        )
    if kind == "colours":
        colours = tuple(_unpacked(value) for value in values)
        found = tuple(f"#{value:06x}" for value in values)
    else:
        paints = _paints(len(values))
        colours = tuple(palettes.get(value, paints[i]) for i, value in enumerate(values))
        if len(set(colours)) < len(colours):
            colours = paints
        found = tuple(map(str, values))
    return _named(Coding(kind, tuple(values), found, colours, void), names)


def _blurred(seen: Sequence[Look], values: Sequence[int]) -> bool:
    """Whether masks are black and white but for what a lossy format, or resizing, has done to their edges."""
    many = len(values) > LOSSY or (len(values) > 2 and any(one.lossy for one in seen))
    return many and 224 <= max(values) < 256 and float(np.mean([one.middle for one in seen])) < BLURRED


def _picture(seen: Sequence[Look]) -> bool:
    """Whether one mask by itself has more values than it can have classes."""
    return float(np.median([len(one.values) for one in seen])) > MOST_GREYS


def _void(
    kind: str,
    values: Sequence[int],
    ignore: int | str | None,
    palettes: Mapping[int, tuple[int, int, int]],
    *,
    pinned: bool,
) -> int | None:
    """The value of pixels that count for nothing. Where the classes are given, 255 is no other than that."""
    if ignore is None:
        return None
    if ignore != "auto":
        if kind == "colours":
            return _colour_value(ignore)
        if isinstance(ignore, int) or ignore.isdigit():
            return int(ignore)
        wanted = _colour_value(ignore)
        near = [value for value, paint in palettes.items() if _packed(paint) == wanted]
        return near[0] if near else wanted & 255
    if kind == "colours":
        return None
    if pinned:
        return None if 255 in values else 255
    rest = list(values[:-1])
    return 255 if values[-1] == 255 and len(rest) > 1 and rest == list(range(len(rest))) else None


def indices(image: Image.Image, coding: Coding) -> np.ndarray:
    """A mask as class indices, [h, w] uint8, `IGNORED` where it counts for nothing.

    Raises:
        ValueError: A value that is no class; the message says which.
    """
    values, kind = _values(image)
    if coding.kind == "threshold":
        return (values >= 128).astype(np.uint8)
    if coding.kind == "files":
        # What a lossy format blurs is cut in the middle; masks of 0 and 1 stay what they are.
        top = int(values.max(initial=0))
        noise = image.format in ("JPEG", "MPO") and top < LOSSY
        return np.zeros_like(values, np.uint8) if noise else (values > top / 2).astype(np.uint8)
    if coding.kind == "colours" and kind == "values":
        palette = _palette(image)
        flat = np.array([_packed(paint) for paint in palette], np.int64) if palette else np.arange(256) * 0x010101
        if values.max(initial=0) > 255:
            raise ValueError(f"{values.max()} is no class of these masks")
        values = flat[values]
    known = [*coding.values, *([] if coding.ignore is None else [coding.ignore])]
    order = np.argsort(known)
    place = np.searchsorted(np.array(known)[order], values)
    place = order[np.minimum(place, len(known) - 1)]
    wrong = np.array(known)[place] != values
    if wrong.any():
        raise ValueError(f"{_written(coding.kind, int(values[wrong][0]))} is no class of these masks")
    result = place.astype(np.uint8)
    if coding.ignore is not None:
        result[place == len(coding.values)] = IGNORED
    return result


def _values(image: Image.Image) -> tuple[np.ndarray, Literal["values", "colours"]]:
    """A mask's pixels as one integer each."""
    if image.mode == "1":
        return np.asarray(image).astype(np.int64), "values"
    if image.mode in ("L", "P") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64), "values"
    if image.mode in ("LA", "PA"):
        return np.asarray(image)[..., 0].astype(np.int64), "values"
    colours = np.asarray(image.convert("RGB")).astype(np.int64)
    if (colours.max(2) == colours.min(2)).all():
        return colours[..., 0], "values"
    return colours @ np.array([65536, 256, 1]), "colours"


def _palette(image: Image.Image) -> list[tuple[int, int, int]] | None:
    if image.mode not in ("P", "PA"):
        return None
    flat = image.convert("P").getpalette("RGB") or []
    flat = [*flat, *[0] * (768 - len(flat))]
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, 768, 3)]


def _as_colours(one: Look) -> frozenset[int]:
    if one.kind == "colours":
        return one.values
    return one.colours or frozenset(value * 0x010101 for value in one.values if value < 256)


def _packed(paint: tuple[int, int, int]) -> int:
    return 65536 * paint[0] + 256 * paint[1] + paint[2]


def _unpacked(value: int) -> tuple[int, int, int]:
    return value >> 16, value >> 8 & 255, value & 255


def _colour_value(value: int | str) -> int:
    if isinstance(value, int):
        return value * 0x010101
    try:
        return _packed(colour(value))
    except ValueError:
        raise DataError(f"'{value}' is no colour: give a value, a name such as white, or #rrggbb.") from None


def _written(kind: str, value: int) -> str:
    return f"#{value:06x}" if kind == "colours" else str(value)


def _paints(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for classes: the first are chosen by hand, the others are spread over what is left."""
    more = [((37 * i) % 200 + 40, (91 * i) % 200 + 40, (151 * i) % 200 + 40) for i in range(len(PALETTE), count)]
    return (*PALETTE, *more)[:count]


def _named(coding: Coding, names: Sequence[str] | None) -> Coding:
    if names is None:
        return coding
    if len(names) != len(coding.names):
        raise DataError(
            f"data.class_names has {len(names)} names, the masks have {len(coding.names)} classes "
            f"({', '.join(coding.names[:8])}): give one for each, in this order."
        )
    return coding._replace(names=tuple(names))
