"""Convert arrays, tensors and PIL images that a user passed to uint8, and refuse what is out of range. No torch."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from ectype.core.errors import DataError
from ectype.data.bit_depth import to_eight_bits
from ectype.data.color_profile import convert_to_srgb
from ectype.data.image_file import exif_orientation
from ectype.data.raw_image import Rejected

__all__ = [
    "SHAPES",
    "Stored",
    "as_array",
    "channels_first",
    "converter",
    "is_tensor",
    "mask_values",
    "stored_image",
    "stored_target",
    "target_converter",
]

Stored: TypeAlias = np.ndarray | bytes
"""An image as it is stored: uint8 pixels [h, w, c], or an encoded file."""

CHANNELS = (1, 3, 4)
"""Grey, RGB, and RGB with transparency."""
HALF_LEVEL = 0.5 / 255
"""Floats this far outside of [0, 1] still round to a valid uint8 value."""
WANTED = "images must be uint8, or floats in [0, 1]"
SHAPES = "[n, h, w], [n, h, w, c] or [n, c, h, w] with 1, 3 or 4 channels"
IMAGES_PER_CHECK = 256


def is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(value: Any) -> np.ndarray | None:
    """An array or tensor as a NumPy array, without a copy where possible; None for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if not is_tensor(value):
        return None
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":  # NumPy has no such type
        value = value.float()
    return value.numpy()


def channels_first(shape: tuple[int, ...], axes: tuple[int, int] = (1, 3)) -> bool:
    """Whether images [n, c, h, w] are meant rather than [n, h, w, c] or [n, h, w]. Raises `DataError` if unclear."""
    said = f"an array of shape {list(shape)}"
    if len(shape) == 3 and (shape[2] in CHANNELS or shape[0] in (1, 3)):
        raise DataError(f"{said} looks like one image: pass a set of them, {SHAPES}.")
    if len(shape) == 2:
        side = round(shape[1] ** 0.5)
        fix = f"images.reshape(-1, {side}, {side})" if side > 1 and side**2 == shape[1] else "reshape them"
        raise DataError(f"{said} has no height and width: images must be {SHAPES}; {fix}.")
    if len(shape) not in (3, 4):
        raise DataError(f"{said} is not a set of images: they must be {SHAPES}.")
    if len(shape) == 3:
        return False
    first, last = (shape[axis] in CHANNELS for axis in axes)
    if first and last:
        raise DataError(
            f"{said} can be read as [n, c, h, w] and as [n, h, w, c]: pass a list of PIL images "
            "([PIL.Image.fromarray(image) for image in images]), or make the sides at least 5 pixels long."
        )
    if not first and not last:
        raise DataError(f"{said} has neither 1, 3 nor 4 channels: images must be {SHAPES}; select or average channels.")
    return first


def converter(array: np.ndarray, what: str) -> Callable[[np.ndarray], np.ndarray]:
    """What converts blocks of an array to uint8, after a check of all its values. Raises `DataError`."""
    if array.dtype == np.uint8:
        return lambda block: block
    if array.dtype == bool:
        return lambda block: block.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind != "f":
        numeric = array.dtype.kind in "iu"
        span = f" from {array.min(initial=0)} to {array.max(initial=0)}" if numeric and array.size else ""
        fits = numeric and array.min(initial=0) >= 0 and array.max(initial=0) <= 255
        fix = "convert them, .astype('uint8')" if fits else "convert them"
        if array.dtype == np.uint16 and not fits:
            fix = "reduce them, (images // 257).astype('uint8')"
        raise DataError(f"{what}: values of type {array.dtype}{span}, but {WANTED}; {fix}.")
    _check_floats(array, what)

    def rounded(block: np.ndarray) -> np.ndarray:
        return np.rint(block.astype(np.float32) * 255).clip(0, 255).astype(np.uint8)

    return rounded


def _check_floats(array: np.ndarray, what: str) -> None:
    low, high = float("inf"), float("-inf")
    for first in range(0, len(array), IMAGES_PER_CHECK):
        block = array[first : first + IMAGES_PER_CHECK]
        least, most = float(block.min(initial=0)), float(block.max(initial=0))
        if not (np.isfinite(least) and np.isfinite(most)):
            raise DataError(f"{what}: NaN or infinite values, but {WANTED}; remove these images, or repair them.")
        low, high = min(low, least), max(high, most)
    if low >= -HALF_LEVEL and high <= 1 + HALF_LEVEL:
        return
    if low >= 0 and high <= 255:
        fix = "divide by 255"
    elif low >= -1 - HALF_LEVEL and high <= 1 + HALF_LEVEL:
        fix = "rescale them, (x + 1) / 2, if they are in [-1, 1]"
    elif abs(low) < 10 and abs(high) < 10:
        fix = "undo the normalization, x * std + mean"
    else:
        fix = "rescale them"
    raise DataError(f"{what}: floats from {low:.4g} to {high:.4g}, but {WANTED}; {fix}.")


def target_converter(array: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What converts blocks of masks or pictures [n, h, w(, c)] or [n, c, h, w] to uint8 [n, h, w, c]."""
    first = array.ndim == 4 and channels_first(array.shape)
    convert = mask_values(array)

    def block_of(block: np.ndarray) -> np.ndarray:
        block = convert(block)
        return block[..., None] if block.ndim == 3 else block.transpose(0, 2, 3, 1) if first else block

    return block_of


def mask_values(array: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What converts blocks of masks to uint8: integers are class indices and stay, floats are treated as pixels."""
    if array.dtype == bool:
        return lambda block: block.astype(np.uint8)
    if array.dtype.kind in "iu":
        if array.min(initial=0) < 0 or array.max(initial=0) > 255:
            raise DataError(
                f"masks hold values from {array.min()} to {array.max()}: class indices must be in 0 to 255; use 255 "
                "for pixels that are to be ignored."
            )
        return lambda block: block.astype(np.uint8)
    return converter(array, "masks")


def stored_image(value: Any, where: str) -> Stored:
    if isinstance(value, Image.Image):
        return _pil_pixels(value, where)
    array = as_array(value)
    if array is None:
        raise DataError(
            f"{where} is a {type(value).__name__}: it must be a PIL image, an array or a tensor; alone, or with a "
            "label or mask behind it."
        )
    if array.ndim == 2:
        return converter(array, where)(array)[..., None]
    if array.ndim != 3:
        raise DataError(f"{where} has shape {list(array.shape)}: an image must be [h, w], [h, w, c] or [c, h, w].")
    first, last = array.shape[0] in CHANNELS, array.shape[2] in CHANNELS
    if first == last:
        reason = "can be read as [c, h, w] and as [h, w, c]" if first else "has neither 1, 3 nor 4 channels"
        raise DataError(f"{where} has shape {list(array.shape)}, which {reason}: give it as a PIL image.")
    pixels = converter(array, where)(array)
    return pixels.transpose(1, 2, 0) if first else pixels


def _pil_pixels(image: Image.Image, where: str) -> np.ndarray:
    """Pixels [h, w, c] of a PIL image, turned as its EXIF data say, with 1, 3 or 4 channels."""
    image = ImageOps.exif_transpose(image) or image
    try:
        image, _ = to_eight_bits(image)
    except Rejected as reason:
        raise DataError(f"{where} has {reason}: convert it to mode L or RGB.") from None
    image = convert_to_srgb(image, set())
    if image.mode not in ("L", "RGB", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def stored_target(value: Any, index: int, image: Any) -> Stored:
    """A mask or picture: class indices as they are, the colors of a palette kept.

    Args:
        value: The mask or picture.
        index: Its position, for errors.
        image: The image that it belongs to.

    Raises:
        DataError: It is not a mask or picture, or only its image has an EXIF orientation, so that the two may be
            turned differently.
    """
    own = exif_orientation(value) if isinstance(value, Image.Image) else 1
    orientation = exif_orientation(image) if isinstance(image, Image.Image) else 1
    if orientation != 1 and own == 1:
        raise DataError(
            f"the image of item {index} has an EXIF orientation ({orientation}), which its mask lacks, so it is "
            "unclear how the mask lies: pass ImageOps.exif_transpose(image) if the mask was drawn on the image as it "
            "is shown, or np.asarray(image) if it was drawn on the stored pixels."
        )
    if isinstance(value, Image.Image):
        value = ImageOps.exif_transpose(value) or value
        if value.mode in ("P", "PA"):
            held = io.BytesIO()
            value.save(held, "PNG")
            return held.getvalue()
        if value.mode in ("L", "RGB", "RGBA"):
            pixels = np.asarray(value)
            return pixels[..., None] if pixels.ndim == 2 else pixels
        array = np.asarray(value)
    else:
        found = as_array(value)
        assert found is not None
        array = found
    if array.ndim == 3 and array.shape[0] in CHANNELS and array.shape[2] not in CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in CHANNELS:
        raise DataError(
            f"the mask of item {index} has shape {list(array.shape)}: it must hold one class index per pixel, [h, w] "
            "(mask.argmax(0) of one-hot masks)."
        )
    return mask_values(array)(array)
