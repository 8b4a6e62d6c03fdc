"""Decoding a pair of files, or the two halves of one, to an image and its target. Nothing here imports PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ectype.data.bit_depth import to_eight_bits
from ectype.data.decode import Decoded, Spec, decode, resize_image
from ectype.data.image_file import image_size, load_upright
from ectype.data.masks import IGNORE_INDEX, MaskEncoding, mask_to_indices
from ectype.data.raw_image import Pair, Rejected, SideBySide

__all__ = ["decode_pair", "masks_of", "split_halves"]

MAX_ASPECT_DIFFERENCE = 0.02
"""Relative difference by which the aspect ratios of two images of a pair may differ: both are resized anyway."""


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
    pair = split_halves(raw)
    size, image = image_size(pair.image), decode(pair.image, spec)
    encoding = spec.target.encoding
    with _prefix_rejection("target"):
        if encoding is not None:
            indices = _class_indices(pair, encoding, size)
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
        target_spec = Spec(spec.size, spec.target.channels, spec.resize, spec.background, 1, spec.target.assume_gray)
        target = decode(target_file, target_spec)
    pixels = np.concatenate([image.pixels, target.pixels])
    return Decoded(pixels, image.marks | target.marks, image.is_color or target.is_color, image.max_16_bit_value)


def masks_of(raw: Pair | SideBySide) -> list[Image.Image]:
    """Return the masks of a pair at their full size and with their own values.

    Raises:
        Rejected: A mask cannot be read.
    """
    return [load_upright(target) for target in split_halves(raw).targets if target is not None]


def _class_indices(pair: Pair, encoding: MaskEncoding, size: tuple[int, int] | None) -> np.ndarray:
    """Return [h, w] uint8 class indices of the mask files of a pair whose image has this size."""
    result: np.ndarray | None = None
    for class_index, target in enumerate(pair.targets, 1):
        if target is None:
            continue
        mask = load_upright(target)
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
    """Return the halves of a file as a pair of pixels; pairs are returned unchanged.

    Raises:
        Rejected: The file cannot be read, or is too small.
    """
    if isinstance(raw, Pair):
        return raw
    image = load_upright(raw.file)
    image, _ = to_eight_bits(image)
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB")
    width, height = image.size
    if min(width, height) < 2:
        raise Rejected(f"too small to be split in halves ({width}×{height} pixels)")
    if raw.image_half in ("left", "right"):
        boxes = [(0, 0, width // 2, height), (width - width // 2, 0, width, height)]
    else:
        boxes = [(0, 0, width, height // 2), (0, height - height // 2, width, height)]
    first, second = (np.asarray(image.crop(box)) for box in boxes)
    return Pair(first, (second,)) if raw.image_half in ("left", "top") else Pair(second, (first,))


@contextlib.contextmanager
def _prefix_rejection(prefix: str) -> Iterator[None]:
    try:
        yield
    except Rejected as reason:
        raise Rejected(f"{prefix}: {reason}") from None


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
