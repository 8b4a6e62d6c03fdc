"""Masks that lie next to the images that a model is applied to: which they are, and what they say about its masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ectype.config.schema import DataConfig, DataInfo
from ectype.core.errors import DataError
from ectype.core.escape import write_csv
from ectype.data.decode_pairs import class_indices, masks_of
from ectype.data.masks import MaskEncoding, find_encoding, inspect_mask
from ectype.data.preview import writing_file
from ectype.data.raw_image import Pair, Rejected
from ectype.data.sources.folder import FolderSource
from ectype.data.sources.pairs import HALVES, PairedFolder
from ectype.evaluation.figures import Figure, mean_figure
from ectype.evaluation.metrics import segmentation

__all__ = ["ImageScore", "NeighborMasks", "find_neighbor_masks", "image_score", "score_figures", "write_scores"]


class NeighborMasks(NamedTuple):
    """What lies next to images.

    Attributes:
        targets: Files that are the target of an image, and so are no images themselves.
        pairs: Image → its pair; empty for a model that does not predict masks.
        encoding: What the values of the masks mean; None without masks, and where they cannot be used.
        note: Why masks cannot be used; empty if they can, or if there are none.
    """

    targets: frozenset[Path] = frozenset()
    pairs: Mapping[Path, Pair] = MappingProxyType({})
    encoding: MaskEncoding | None = None
    note: str = ""

    def indices(self, image: Path, size: tuple[int, int]) -> np.ndarray | None:
        """Return the class of each pixel of an image of this height and width, uint8 [h, w]; None without a mask.

        Raises:
            Rejected: The mask cannot be used.
        """
        pair = self.pairs.get(image.resolve())
        return None if pair is None or self.encoding is None else class_indices(pair, self.encoding, size)


def find_neighbor_masks(inputs: Sequence[str], data: DataConfig, info: DataInfo) -> NeighborMasks:
    """Find the masks, or other targets, of the images in folders, by the rules that training follows.

    Args:
        inputs: Files and folders that a model is applied to.
        data: The data section of its recipe.
        info: The images that it was built for.
    """
    if info.target is None or data.pairs == "none" or data.input in HALVES or data.target in HALVES:
        return NeighborMasks()
    found = [each for text in inputs if Path(text).is_dir() and (each := _paired(text, data)) is not None]
    targets = frozenset(Path(each.source.path(name)).resolve() for each in found for name in each.targets)
    if info.target.kind != "masks" or not found:
        return NeighborMasks(targets)
    pairs = {Path(str(pair.image)).resolve(): pair for each in found for pair in each.file_pairs()}
    try:
        return NeighborMasks(targets, pairs, _encoding(found, list(pairs.values()), data, info))
    except DataError as error:
        return NeighborMasks(targets, note=f"the masks next to the images are not used: {error}")


def _paired(text: str, data: DataConfig) -> PairedFolder | None:
    source = FolderSource(text, Path(text))
    image_targets = data.pairs == "images"
    # The folders that the recipe names, else those whose names mean images and targets.
    for names in dict.fromkeys(((data.input, data.target), (None, None))):
        try:
            return PairedFolder(source, *names, image_targets=image_targets)
        except DataError:
            continue
    return None


def _encoding(found: Sequence[PairedFolder], pairs: Sequence[Pair], data: DataConfig, info: DataInfo) -> MaskEncoding:
    assert info.target is not None
    classes = {each.classes for each in found}
    if len(classes) > 1:
        raise DataError("one folder has a file for each class, another has one file for all.")
    (file_classes,) = classes
    values = []
    for pair in [] if file_classes else pairs:
        try:
            values += map(inspect_mask, masks_of(pair))
        except Rejected:
            continue  # reported with its image
    names, known = info.target.classes, info.target.values or None
    encoding = find_encoding(values, file_classes=file_classes, names=names, ignore=data.ignore, class_values=known)
    if file_classes and data.class_names is None and ("background", *file_classes) != names:
        raise DataError(f"they have the classes {', '.join(file_classes)}, the model has {', '.join(names[1:])}.")
    return encoding


class ImageScore(NamedTuple):
    """How well the mask of one image agrees with the true one."""

    name: str
    dice: float
    """Mean over the classes that occur in either mask."""
    iou: float
    """Likewise."""
    dice_of_classes: tuple[float, ...]
    """NaN for a class that occurs in neither."""


def image_score(name: str, predicted: Tensor, truth: np.ndarray, classes: int) -> ImageScore:
    """Compare a predicted mask with the true one.

    Args:
        name: Of the image.
        predicted: Class indices [h, w].
        truth: Class indices [h, w], `IGNORE_INDEX` where a pixel does not count.
        classes: Number of classes.
    """
    counts = segmentation.confusion_matrices(predicted[None], torch.from_numpy(truth).long()[None], classes)[0]
    dice, iou = segmentation.dice(counts), segmentation.iou(counts)
    return ImageScore(name, float(dice.nanmean()), float(iou.nanmean()), tuple(dice.tolist()))


def score_figures(scores: Sequence[ImageScore]) -> list[Figure]:
    """Return mean Dice and IoU over images, with their 95% intervals."""
    note = "mean over the classes of an image, then over images"
    means = {"mean_dice": [score.dice for score in scores], "mean_iou": [score.iou for score in scores]}
    return [
        mean_figure(key, torch.tensor([value for value in values if value == value]), "masks", note=note)
        for key, values in means.items()
    ]


def write_scores(scores: Sequence[ImageScore], classes: Sequence[str], out: Path) -> None:
    """Write one row for each image: its name, Dice, IoU, and the Dice of each class, empty where it does not occur."""
    rows: list[list[object]] = [["image", "dice", "iou", *(f"dice of {name}" for name in classes)]]
    for score in scores:
        values = (score.dice, score.iou, *score.dice_of_classes)
        rows.append([score.name, *("" if value != value else f"{value:.6g}" for value in values)])
    with writing_file(out), out.open("w", newline="", encoding="utf-8") as file:
        write_csv(file, rows)
