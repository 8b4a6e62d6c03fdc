"""Read images from Python objects: arrays, tensors, PyTorch and Hugging Face datasets. No torch.

Every object becomes a `MemorySplit`: blocks of uint8 images, their labels and their partners. PyTorch objects are
recognized only if PyTorch is imported already, so that this module does not import it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ectype.core.errors import DataError
from ectype.data.sources.base import SPLIT_FOLDERS, UNASSIGNED
from ectype.data.sources.memory_pixels import (
    SHAPES,
    Stored,
    as_array,
    channels_first,
    converter,
    stored_image,
    stored_target,
    target_converter,
)

__all__ = ["Block", "MemorySplit", "splits_of"]

IMAGES_PER_BLOCK = 256
IMAGE_COLUMNS = ("image", "images", "img", "pixel_values", "pixels", "input", "inputs")
LABEL_COLUMNS = ("label", "labels", "class", "target", "targets")


@dataclass(frozen=True)
class Block:
    """Some images in order: a block [k, h, w, c] of uint8, or a list where sizes differ; with what belongs to them."""

    images: np.ndarray | list[Stored]
    targets: np.ndarray | list[Stored] | None = None
    labels: list[Any] | None = None


@dataclass(frozen=True)
class MemorySplit:
    """The images of one split as a user gave them."""

    name: str
    count: int
    blocks: Callable[[], Iterator[Block]]
    code: int = UNASSIGNED
    """Split code of `ectype.data.sources.base`."""
    classes: tuple[str, ...] = ()
    """Class names in order of their indices, where the object knows them."""
    rereadable: bool = False
    """Whether reading twice costs little: arrays do, datasets decode each time."""
    warnings: list[str] = field(default_factory=list)


def splits_of(data: Any) -> list[MemorySplit]:
    """Recognize what a user passed as images.

    Args:
        data: See `ectype.data.sources.memory.register`.

    Returns:
        One element without a split code, or one for each named split.

    Raises:
        DataError: It is not a set of images; the message says what was given and what is needed.
    """
    if isinstance(data, Mapping):
        if not data or not all(isinstance(key, str) and key.lower() in SPLIT_FOLDERS for key in data):
            keys = ", ".join(map(repr, list(data)[:4])) or "none"
            raise DataError(
                f"a dict of images needs the names of splits as keys, such as 'train' and 'test' (it has {keys}): "
                "rename them, or pass the images themselves."
            )
        found = [_split(name, SPLIT_FOLDERS[name.lower()], part) for name, part in data.items()]
        if len({part.code for part in found}) < len(found):
            raise DataError(f"the keys {', '.join(map(repr, data))} name a split twice: keep one of each.")
        return sorted(found, key=lambda part: part.code)
    return [_split("images", UNASSIGNED, data)]


def _split(name: str, code: int, data: Any) -> MemorySplit:
    if isinstance(data, tuple) and not hasattr(data, "_fields"):
        if len(data) != 2:
            raise DataError(f"a tuple of {len(data)} elements: pass (images, labels) or (images, masks).")
        return _with_second(name, code, *data)
    if _is_hub_dataset(data):
        return _hub_split(name, code, data)
    if (array := as_array(data)) is not None:
        return _array_split(name, code, array)
    return _dataset_split(name, code, data)


# ── Arrays ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _array_split(
    name: str, code: int, array: np.ndarray, labels: list[Any] | None = None, targets: np.ndarray | None = None
) -> MemorySplit:
    first_axis = channels_first(array.shape)
    if not len(array):
        raise DataError(f"an array of shape {list(array.shape)} holds no images: pass at least three.")
    to_uint8 = converter(array, "images")
    convert = None if targets is None else target_converter(targets)

    def blocks() -> Iterator[Block]:
        for first in range(0, len(array), IMAGES_PER_BLOCK):
            piece = slice(first, first + IMAGES_PER_BLOCK)
            block = to_uint8(array[piece])
            block = block[..., None] if block.ndim == 3 else block.transpose(0, 2, 3, 1) if first_axis else block
            partners = None if targets is None or convert is None else convert(targets[piece])
            yield Block(block, partners, None if labels is None else labels[piece])

    warnings = []
    if array.dtype == np.uint8 and array.max(initial=0) == 1:
        warnings.append("no uint8 value is above 1, so the images are almost black: multiply by 255 if 1 is white")
    return MemorySplit(name, len(array), blocks, code, rereadable=True, warnings=warnings)


def _with_second(name: str, code: int, images: Any, second: Any) -> MemorySplit:
    """Images with labels or masks given separately."""
    if _is_hub_dataset(images) or isinstance(images, Mapping):
        raise DataError("a tuple (images, labels) needs images as an array or a list: pass the dataset by itself.")
    if isinstance(images, Image.Image):
        raise DataError("a tuple must be (images, labels) or (images, masks): pass a list of PIL images.")
    count = len(images)
    array, partner = as_array(images), as_array(second)
    if partner is not None and partner.ndim == 2 and partner.shape[1] == 1:
        partner = partner[:, 0]
    if not hasattr(second, "__len__") or len(second) != count:
        length = f"{len(second):,}" if hasattr(second, "__len__") else f"one {type(second).__name__}"
        raise DataError(f"{count:,} images and {length} labels or masks: pass one for each image.")
    if partner is not None and partner.ndim == 2:
        raise DataError(
            f"labels of shape {list(partner.shape)}: pass one class index or name per image (labels.argmax(1) of "
            "one-hot labels)."
        )
    if array is not None and partner is not None and partner.ndim > 2:
        return _array_split(name, code, array, targets=partner)
    if array is not None and (partner is not None or not _is_image(next(iter(second), None))):
        channels_first(array.shape)
        return _array_split(name, code, array, [_label(value, i) for i, value in enumerate(second)])
    if array is not None:
        images = [_moved_last(one) for one in array] if channels_first(array.shape) else array
    return _dataset_split(name, code, _Zipped(images, second))


def _moved_last(image: np.ndarray) -> np.ndarray:
    return image.transpose(1, 2, 0)


class _Zipped:
    """A dataset of (image, label) pairs from two sequences."""

    def __init__(self, images: Any, second: Any) -> None:
        self.images, self.second = images, second

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.second[index]


# ── Datasets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _dataset_split(name: str, code: int, data: Any) -> MemorySplit:
    kind = type(data).__name__
    if isinstance(data, str | bytes | os.PathLike):
        raise DataError(f"{str(data)[:60]!r} is text where images are needed: pass a path by itself, not in a set.")
    if isinstance(data, Image.Image):
        raise DataError("one PIL image is not a set of images: pass a list of them.")
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        if hasattr(data, "dataset") and hasattr(data, "batch_size"):
            raise DataError(f"a {kind} yields batches: pass its dataset, loader.dataset.")
        fix = "pass list(dataset)" if hasattr(data, "__iter__") else f"pass an array {SHAPES}, a Dataset or a path"
        raise DataError(f"an object of type {kind} is not a set of images with a length: {fix}.")
    count = len(data)
    if not count:
        raise DataError(f"the {kind} holds no images: pass at least three.")

    def blocks() -> Iterator[Block]:
        for first in range(0, count, IMAGES_PER_BLOCK):
            items = [_item(data, i) for i in range(first, min(first + IMAGES_PER_BLOCK, count))]
            images, targets, labels = (list(part) for part in zip(*items, strict=True))
            if len({target is None for target in targets}) > 1 or len({label is None for label in labels}) > 1:
                raise DataError(f"only some items of the {kind} have a label or mask: give one to each, or none.")
            yield Block(images, None if targets[0] is None else targets, None if labels[0] is None else labels)

    return MemorySplit(name, count, blocks, code, classes=_class_names(data))


def _class_names(data: Any) -> tuple[str, ...]:
    """The class names of a dataset in the style of torchvision, looked for inside of subsets."""
    while data is not None:
        if getattr(data, "target_transform", None) is not None:
            return ()  # it may have changed what the indices stand for
        names = getattr(data, "classes", None)
        if isinstance(names, Sequence) and not isinstance(names, str):
            return tuple(map(str, names))
        data = getattr(data, "dataset", None)
    return ()


def _item(data: Any, index: int) -> tuple[Stored, Stored | None, Any]:
    """Image, partner and label of one item."""
    try:
        item = data[index]
    except Exception as error:  # a user's own code
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"item {index} of the dataset cannot be read ({type(error).__name__}: {reason}).") from None
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise DataError(
                f"item {index} of the dataset has {len(item)} parts: it must be an image, (image, label) or "
                "(image, mask)."
            )
        image, second = item[0], item[1] if len(item) == 2 else None
    else:
        image, second = item, None
    stored = stored_image(image, f"item {index} of the dataset")
    if second is None:
        return stored, None, None
    if _is_image(second):
        return stored, stored_target(second, index, image), None
    return stored, None, _label(second, index)


def _is_image(value: Any) -> bool:
    if isinstance(value, Image.Image):
        return True
    array = as_array(value)
    return array is not None and array.ndim >= 2


def _label(value: Any, index: int) -> int | str:
    array = np.asarray(value) if isinstance(value, np.generic) else as_array(value)
    if array is not None:
        if array.size != 1:
            raise DataError(f"the label of item {index} has shape {list(array.shape)}: it must be one index or name.")
        value = array.item()
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | str):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    shown = f"{type(value).__name__} {str(value)[:40]!r}"
    raise DataError(f"the label of item {index} is a {shown}: it must be a class index or a class name.")


# ── Hugging Face ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_hub_dataset(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "datasets" and hasattr(value, "features")


def _hub_split(name: str, code: int, data: Any) -> MemorySplit:
    """A `datasets.Dataset`: encoded images are stored as they are, and decoded with all others."""
    if not hasattr(data, "__len__"):
        raise DataError("a streamed dataset has no length: load it without streaming=True.")
    if not len(data):
        raise DataError("the dataset holds no images: pass at least three.")
    image, target, label = _hub_columns(data)
    classes = tuple(getattr(data.features[label], "names", None) or ()) if label else ()
    columns = [column for column in (image, target, label) if column is not None]
    encoded = type(data.features[image]).__name__ == "Image"
    dtype = None if encoded else _dtype(data.features[image])
    table = data.select_columns(columns).with_format("arrow" if encoded else "numpy")

    def blocks() -> Iterator[Block]:
        read = 0
        for batch in table.iter(IMAGES_PER_BLOCK):
            column = (lambda key, b=batch: b.column(key).to_pylist()) if encoded else (lambda key, b=batch: b[key])
            cells = list(column(image))
            images: list[Stored] = (
                [_cell(cell) for cell in cells]
                if encoded
                else [stored_image(np.asarray(cell, dtype), f"row {read + i}") for i, cell in enumerate(cells)]
            )
            targets: list[Stored] | None = None if target is None else [_cell(cell) for cell in column(target)]
            labels = None if label is None else [-1 if v is None else _label(v, read) for v in column(label)]
            read += len(cells)
            yield Block(images, targets, labels)

    return MemorySplit(name, len(data), blocks, code, classes=classes)


def _hub_columns(data: Any) -> tuple[str, str | None, str | None]:
    """The columns of images, of their partners and of labels."""
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    target = None
    if len(images) == 2 and len(named := [name for name in images if name.lower() in IMAGE_COLUMNS]) == 1:
        target = next(name for name in images if name not in named)
        images = named
    if not images:
        images = [name for name in kinds if name.lower() in IMAGE_COLUMNS]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if not labels and target is None:
        integers = [name for name in kinds if getattr(data.features[name], "dtype", "").startswith(("int", "str"))]
        labels = [name for name in integers if name.lower() in LABEL_COLUMNS]
    for what, found, least in (("image", images, 1), ("label", labels, 0)):
        if not least <= len(found) <= 1:
            have = "several" if found else "no"
            raise DataError(
                f"the dataset has {have} {what} columns ({', '.join(found or kinds)}): keep one image and one label "
                "column with dataset.select_columns, or rename them to 'image' and 'label'."
            )
    return images[0], target, labels[0] if labels else None


def _dtype(feature: Any) -> Any:
    """The type of a column of arrays, which the library widens to int64 unless asked for it."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return getattr(feature, "dtype", None)


def _cell(value: Any) -> bytes:
    """The encoded image of a cell; nothing where it is missing, which is rejected later with all that is broken."""
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return value["bytes"]
        path = value.get("path")
        return Path(path).read_bytes() if path and Path(path).is_file() else b""
    return b"" if value is None else bytes(value)
