"""Two files, or the halves of one, as an image and its partner: of one size, one behind the other. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ectype.data.decode import Decoded, Rejected, Spec, decode, eight_bits, fit, size_of, upright
from ectype.data.masks import IGNORED, Coding, indices
from ectype.data.raw import Halves, Pair

__all__ = ["decode_pair", "masks_of", "parted"]

TOLERANCE = 0.02
"""How far the shapes of two pictures may differ: they are brought to one size anyway."""


def decode_pair(raw: Pair | Halves, spec: Spec) -> Decoded:
    """An image and its partner, [c + c', h, w] uint8.

    Raises:
        Rejected: Either cannot be used, or they do not lie on each other.
    """
    assert spec.target is not None
    pair = parted(raw)
    size, first = size_of(pair.image), decode(pair.image, spec)
    coding = spec.target.coding
    with _partner():
        if coding is not None:
            found = _mask(pair, coding, size)
            mask = fit(Image.fromarray(found), spec, (found.shape[1], found.shape[0]), ground=IGNORED)
            return first._replace(pixels=np.concatenate([first.pixels, np.asarray(mask)[None]]))
        pictures = [target for target in pair.targets if target is not None]
        if len(pictures) != 1:
            raise Rejected(f"{len(pictures)} pictures where there should be one")
        picture = pictures[0]
        other = size_of(picture)
        if size is not None and other is not None and abs(size[0] * other[1] / (size[1] * other[0]) - 1) > TOLERANCE:
            raise Rejected(f"{_pixels(other)}, its image {_pixels(size)}")
        own = Spec(spec.size, spec.target.channels, spec.resize, spec.background, 1, spec.target.guess)
        second = decode(picture, own)
    notes, coloured = first.notes | second.notes, first.coloured or second.coloured
    return Decoded(np.concatenate([first.pixels, second.pixels]), notes, coloured, first.brightest)


def masks_of(raw: Pair | Halves) -> list[Image.Image]:
    """The masks of a pair, whole and as they are. Raises `Rejected`."""
    return [upright(target) for target in parted(raw).targets if target is not None]


def _mask(pair: Pair, coding: Coding, size: tuple[int, int] | None) -> np.ndarray:
    """[h, w] class indices."""
    result: np.ndarray | None = None
    for number, target in enumerate(pair.targets, 1):
        if target is None:
            continue
        mask = upright(target)
        found = (mask.height, mask.width)
        if size is not None and found != size:
            raise Rejected(f"{_pixels(found)}, its image {_pixels(size)}")
        try:
            values = indices(mask, coding)
        except ValueError as error:
            raise Rejected(str(error)) from None
        if coding.kind != "files":
            return values
        result = np.zeros_like(values) if result is None else result
        result[values > 0] = number
    if result is None:
        raise Rejected("none")
    return result


def parted(raw: Pair | Halves) -> Pair:
    """A pair of halves as a pair of pixels. Raises `Rejected`."""
    if isinstance(raw, Pair):
        return raw
    whole = upright(raw.file)
    whole, _ = eight_bits(whole)
    if whole.mode not in ("L", "RGB", "RGBA"):
        whole = whole.convert("RGBA" if whole.has_transparency_data else "L" if whole.mode == "1" else "RGB")
    width, height = whole.size
    if min(width, height) < 2:
        raise Rejected(f"too small to have halves ({width}×{height} pixels)")
    if raw.first in ("left", "right"):
        boxes = [(0, 0, width // 2, height), (width - width // 2, 0, width, height)]
    else:
        boxes = [(0, 0, width, height // 2), (0, height - height // 2, width, height)]
    one, other = (np.asarray(whole.crop(box)) for box in boxes)
    return Pair(one, (other,)) if raw.first in ("left", "top") else Pair(other, (one,))


@contextlib.contextmanager
def _partner() -> Iterator[None]:
    try:
        yield
    except Rejected as reason:
        raise Rejected(f"partner: {reason}") from None


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
