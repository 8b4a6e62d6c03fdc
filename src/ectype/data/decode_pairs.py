"""Decoding a pair of files, or the two halves of one, to an image and its target. Nothing here imports PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from ectype.core.errors import DataError
from ectype.data.decode import Decoded, Spec, decode, resize_image
from ectype.data.image_file import (
    LoadOptions,
    exif_orientation,
    image_size,
    load_upright,
    open_image,
    swaps_axes,
    transpose_method,
)
from ectype.data.mask_values import MaskValues, inspect_mask
from ectype.data.masks import IGNORE_INDEX, MaskEncoding, mask_to_indices
from ectype.data.raw_image import Pair, Rejected, SideBySide, Single, Tile, Transposed, Unreadable

__all__ = [
    "Orientation",
    "PairFacts",
    "decode_pair",
    "inspect_pair",
    "orient_targets",
    "resolve_orientation",
    "split_halves",
]

MAX_ASPECT_DIFFERENCE = 0.02
"""Relative difference by which the aspect ratios of two images of a pair may differ: both are resized anyway."""

Orientation: TypeAlias = Literal["same", "upright", "stored", "unknown"]
"""How a target without an EXIF orientation lies next to an image with one, by its size: as the upright image, as the
stored pixels, or unknown because both have the same size. same: the image has no orientation, or the target has one."""


class PairFacts(NamedTuple):
    """What is found out about a pair before it is decoded."""

    masks: list[MaskValues]
    """The values of each mask that can be read."""
    orientation: Orientation
    """The orientation of its targets."""


def inspect_pair(raw: Pair | SideBySide, options: LoadOptions, *, read_masks: bool) -> PairFacts:
    """Return facts about a pair. What cannot be read is left out: decoding will report it.

    Args:
        raw: The pair.
        options: How files are loaded.
        read_masks: Whether targets are masks whose values are needed.
    """
    found: list[MaskValues] = []
    try:
        pair = split_halves(raw)
    except Rejected:
        return PairFacts(found, "same")
    for target in pair.targets if read_masks else ():
        if target is not None:
            with contextlib.suppress(Rejected):
                found.append(inspect_mask(load_upright(target, options._replace(is_mask=True)).image))
    return PairFacts(found, _orientation(pair)[0])


def resolve_orientation(
    found: Mapping[Orientation, int], rule: Literal["auto", "upright", "stored"]
) -> tuple[bool, str | None]:
    """Decide how targets of unknown orientation lie.

    Args:
        found: The number of pairs of each orientation.
        rule: The rule that the user gives. auto: as all targets whose sizes show how they lie.

    Returns:
        Whether they lie as the pixels of their image are stored, and a line for the user; None if no image has an
        orientation that its targets lack.

    Raises:
        DataError: The rule is auto, and no pair, or pairs of both kinds, show how the others lie.
    """
    upright, stored, unknown = (found.get(kind, 0) for kind in ("upright", "stored", "unknown"))
    if not upright + stored + unknown:
        return False, None
    is_stored = rule == "stored" or (rule == "auto" and stored > 0)
    if unknown and rule == "auto" and bool(upright) == bool(stored):
        evidence = "others show both" if upright else "no sizes show it"
        raise DataError(
            f"{unknown:,} images have an EXIF orientation and their targets have none, so it is unclear whether these "
            f"lie as the images are shown or as their pixels are stored ({evidence}): set data.target_orientation="
            "upright or stored and look at the picture that `ectype data` writes, or save the images without EXIF data."
        )
    counts = [
        (upright, "as the images are shown", "by their size"),
        (stored, "as the pixels are stored", "by their size"),
        (
            unknown,
            "as the pixels are stored" if is_stored else "as the images are shown",
            f"data.target_orientation={rule}" if rule != "auto" else "like the others",
        ),
    ]
    text = ", ".join(f"{count:,} {how} ({why})" for count, how, why in counts if count)
    note = f"images have an EXIF orientation and their targets have none; targets are read {text}"
    if unknown and rule == "auto":
        note += f"; data.target_orientation={'upright' if is_stored else 'stored'} changes the last {unknown:,}"
    return is_stored, note


def orient_targets(pair: Pair, *, is_stored: bool | None) -> Pair:
    """Return a pair whose targets lie as its image does.

    Args:
        pair: The pair.
        is_stored: Whether targets of unknown orientation lie as the pixels of the image are stored; None to leave them.
    """
    orientation, method = _orientation(pair)
    if method is None or not (orientation == "stored" or (orientation == "unknown" and is_stored)):
        return pair
    return pair._replace(targets=tuple(_transposed(target, method) for target in pair.targets))


def _transposed(target: Single | None, method: Image.Transpose) -> Single | None:
    """Return a target that is transposed after it was loaded. The position of a tile counts in the upright image."""
    if isinstance(target, Tile) and isinstance(target.file, str | bytes):
        return target._replace(file=Transposed(target.file, method))
    return Transposed(target, method) if isinstance(target, str | bytes) else target


def _orientation(pair: Pair) -> tuple[Orientation, Image.Transpose | None]:
    """Return the orientation of the targets, and the operation that makes the image upright."""
    image = _file(pair.image)
    files = [file for target in pair.targets if (file := _file(target)) is not None]
    if image is None or not files:
        return "same", None
    image_orientation, upright_size = _header(image)
    method = transpose_method(image_orientation)
    if method is None:
        return "same", None
    seen: set[Orientation] = set()
    for file in files:
        orientation, size = _header(file)
        if orientation != 1:
            return "same", method
        stored_size = upright_size[::-1] if swaps_axes(method) else upright_size
        if stored_size == upright_size:
            seen.add("unknown")
        else:
            # Image pairs may differ in scale, but a side that is longer stays longer.
            is_stored = (size[0] > size[1]) == (stored_size[0] > stored_size[1])
            seen.add("stored" if is_stored else "upright")
    return (seen.pop() if len(seen) == 1 else "unknown"), method


def _file(single: Single | None) -> str | bytes | None:
    """Return the file of an item; None if it is no file of its own, or its orientation was taken care of."""
    if isinstance(single, Tile):
        single = single.file
    return single if isinstance(single, str | bytes) else None


def _header(file: str | bytes) -> tuple[int, tuple[int, int]]:
    """Return the EXIF orientation, and the height and width of the upright image; (1, (0, 0)) for what is no image."""
    with contextlib.suppress(Rejected), open_image(file, None) as image:
        orientation = exif_orientation(image)
        height, width = image.height, image.width
        is_swapped = swaps_axes(transpose_method(orientation)) and image.format != "TIFF"
        return orientation, (width, height) if is_swapped else (height, width)
    return 1, (0, 0)


def decode_pair(raw: Pair | SideBySide, spec: Spec) -> Decoded:
    """Decode an image and its target.

    Args:
        raw: The pair.
        spec: What to decode to, with a target.

    Returns:
        Pixels [c + c', h, w] uint8, the target's channels after the image's.

    Raises:
        Rejected: One of the two cannot be used, or their sizes do not match.
    """
    assert spec.target is not None
    pair = orient_targets(split_halves(raw), is_stored=spec.target.is_stored)
    size, image = image_size(pair.image), decode(pair.image, spec)
    encoding = spec.target.encoding
    with _prefix_rejection("target"):
        if encoding is not None:
            indices = _class_indices(pair, encoding, size, spec.load)
            extent = (indices.shape[1], indices.shape[0])
            mask = resize_image(Image.fromarray(indices), spec, extent, border_index=IGNORE_INDEX)
            return image._replace(pixels=np.concatenate([image.pixels, np.asarray(mask)[None]]))
        target_files = [target for target in pair.targets if target is not None]
        if len(target_files) != 1:
            raise Rejected(f"{len(target_files)} images instead of one")
        target_file = target_files[0]
        target_size = image_size(target_file)
        if size is not None and target_size is not None:
            aspect_ratio = size[0] * target_size[1] / (size[1] * target_size[0])
            if abs(aspect_ratio - 1) > MAX_ASPECT_DIFFERENCE:
                raise Rejected(f"{_size_text(target_size)}, but its image is {_size_text(size)}")
        target_spec = spec._replace(
            channels=spec.target.channels, min_size=1, assume_gray=spec.target.assume_gray, target=None
        )
        target = decode(target_file, target_spec)
    return image._replace(
        pixels=np.concatenate([image.pixels, target.pixels]),
        marks=image.marks | target.marks,
        is_color=image.is_color or target.is_color,
    )


def _class_indices(
    pair: Pair, encoding: MaskEncoding, size: tuple[int, int] | None, options: LoadOptions
) -> np.ndarray:
    """Return [h, w] uint8 class indices of the mask files of a pair whose image has this size."""
    result: np.ndarray | None = None
    for class_index, target in enumerate(pair.targets, 1):
        if target is None:
            continue
        mask = load_upright(target, options._replace(is_mask=True)).image
        mask_size = (mask.height, mask.width)
        if size is not None and mask_size != size:
            raise Rejected(f"{_size_text(mask_size)}, but its image is {_size_text(size)}")
        try:
            indices = mask_to_indices(mask, encoding)
        except ValueError as error:
            raise Rejected(str(error)) from None
        if encoding.kind != "files":
            return indices
        result = np.zeros_like(indices) if result is None else result
        result[indices > 0] = class_index
    if result is None:
        raise Rejected("no mask")
    return result


def split_halves(raw: Pair | SideBySide) -> Pair:
    """Return the halves of a file as a pair of tiles; pairs are returned unchanged.

    Raises:
        Rejected: The file cannot be read, or is too small.
    """
    if isinstance(raw, Pair):
        return raw
    if isinstance(raw.file, Unreadable):
        raise Rejected(raw.file.reason)
    assert not isinstance(raw.file, Tile)
    size = image_size(raw.file)
    if size is None:
        load_upright(raw.file, LoadOptions())  # raises the reason
        raise Rejected("not an image")
    height, width = size
    if min(width, height) < 2:
        raise Rejected(f"too small to be split in halves ({width}×{height} pixels)")
    if raw.image_half in ("left", "right"):
        first, second = (Tile(raw.file, 0, left, height, width // 2) for left in (0, width - width // 2))
    else:
        first, second = (Tile(raw.file, top, 0, height // 2, width) for top in (0, height - height // 2))
    return Pair(first, (second,)) if raw.image_half in ("left", "top") else Pair(second, (first,))


@contextlib.contextmanager
def _prefix_rejection(prefix: str) -> Iterator[None]:
    try:
        yield
    except Rejected as reason:
        raise Rejected(f"{prefix}: {reason}") from None


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
