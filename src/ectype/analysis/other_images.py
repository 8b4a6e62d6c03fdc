"""Images that a run was not trained on, prepared and labelled so that its model can be measured on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ectype.config.schema import DataConfig, DataInfo
from ectype.core.errors import DataError
from ectype.data.dataset import ImageSplit, ImageStore
from ectype.data.sources.base import same_name_key, strip_tile_suffix
from ectype.data.sources.walk import resolve_source

__all__ = ["check_targets_match", "count_training_images", "evaluation_split", "other_source"]


def other_source(config: DataConfig, source: str, info: DataInfo) -> DataConfig:
    """Return the data section of a recipe for other images, prepared in the same way.

    Args:
        config: The data section of the run's recipe.
        source: Other images; a path or any other source.
        info: Describes the images that the model takes.

    Returns:
        `config` itself if `source` is the run's own source. Otherwise no image is held out, images are brought to the
        model's size, and rejected images are reported and left out, because there is no recipe that a user could
        change.
    """
    text = resolve_source(source)
    if text == config.source:
        return config
    changes: dict[str, object] = {"source": text, "labels": None, "label_column": None, "max_rejects": 1.0}
    changes |= {"split": {"val": 0, "test": 0}}
    if info.target is not None and info.target.kind == "masks":
        # A class without pixels in the other images must not shift the indices of the classes after it.
        changes |= {"class_names": info.target.classes, "class_values": info.target.values or None}
    return DataConfig.model_validate({**config.model_dump(), **changes, "size": info.size, "channels": info.channels})


def evaluation_split(other: ImageStore, own: DataInfo) -> tuple[str, ImageSplit]:
    """Return the name and the images of the split that is evaluated: the held-out one if there is one, else all.

    Labels are translated to the run's class indices. They are dropped if one of the classes is unknown to the run.
    """
    parts = dict(other.splits())
    part = next(name for name in ("test", "val", "train") if name in parts)
    images = parts[part]
    if images.labels is not None:
        number = {same_name_key(name): i for i, name in enumerate(own.classes)}
        known = [number.get(same_name_key(name), -1) for name in other.info.classes]
        images.labels = None if -1 in known else torch.tensor(known)[images.labels]
    return part, images


def count_training_images(evaluated: np.ndarray, trained: np.ndarray, names: Sequence[str]) -> int:
    """Count the evaluated images that were trained on, by digest. A tiled image counts if all of its tiles do."""
    known: dict[str, bool] = {}
    for name, same in zip(names, np.isin(evaluated, trained), strict=True):
        image = strip_tile_suffix(name)
        known[image] = known.get(image, True) and bool(same)
    return sum(known.values())


def check_targets_match(own: DataInfo, other: DataInfo, source: str) -> None:
    """Raise `DataError` unless the masks or target images of `source` are of the kind that the model produces."""
    if own.target is None or other.target is None:
        return
    if len(own.target.classes) != len(other.target.classes):
        found, known = (", ".join(info.target.classes[:6]) for info in (other, own) if info.target is not None)
        raise DataError(
            f"masks in '{source}' have {len(other.target.classes)} classes ({found}), the model knows "
            f"{len(own.target.classes)} ({known}): give masks with the same classes."
        )
    if own.target.channels != other.target.channels:
        kinds = {1: "grey", 3: "in color"}
        raise DataError(
            f"target images in '{source}' are {kinds[other.target.channels]}, the model produces images "
            f"{kinds[own.target.channels]}: convert them."
        )
