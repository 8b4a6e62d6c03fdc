"""Masks that lie next to the images that a model is applied to: which they are, and what they say about its masks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ectype.analysis.other_images import other_source
from ectype.config.schema import DataConfig, DataInfo
from ectype.core.errors import DataError
from ectype.core.escape import write_csv
from ectype.data.cache import MANIFEST
from ectype.data.decode import Spec, TargetSpec
from ectype.data.decode_pairs import decode_pair
from ectype.data.masks import MaskEncoding
from ectype.data.prepare import prepare
from ectype.data.preview import writing_file
from ectype.data.raw_image import Pair
from ectype.data.sources.folder import FolderSource
from ectype.data.sources.pairs import HALVES, PairedFolder
from ectype.evaluation.figures import Figure, mean_figure
from ectype.evaluation.metrics import segmentation

__all__ = ["ImageScore", "NeighborMasks", "find_neighbor_masks", "image_score", "score_figures", "write_scores"]


class NeighborMasks(NamedTuple):
    """What lies next to images.

    Attributes:
        targets: Files that are the target of an image, and so are no images themselves.
        pairs: Image → its pair, and what the values of its mask mean; empty for a model that does not predict masks.
        note: Which masks cannot be used and why; empty if all can.
    """

    targets: frozenset[Path] = frozenset()
    pairs: Mapping[Path, tuple[Pair, MaskEncoding]] = MappingProxyType({})
    note: str = ""

    def indices(self, image: Path, spec: Spec) -> np.ndarray | None:
        """Return the class of each pixel of an image, uint8 [h, w]; None without a mask.

        Args:
            image: The file.
            spec: What it is decoded to, at its own size.

        Raises:
            Rejected: The mask cannot be used.
        """
        if (found := self.pairs.get(image.resolve())) is None:
            return None
        pair, encoding = found
        return decode_pair(pair, spec._replace(target=TargetSpec(encoding))).pixels[-1]


def find_neighbor_masks(inputs: Sequence[str], data: DataConfig, info: DataInfo) -> NeighborMasks:
    """Find the masks, or other targets, of the images in folders, by the rules that training follows.

    Args:
        inputs: Files and folders that a model is applied to.
        data: The data section of its recipe.
        info: The images that it was built for.
    """
    if info.target is None or data.pairs in ("none", "alpha") or data.input in HALVES or data.target in HALVES:
        return NeighborMasks()
    folders = [Path(text).expanduser() for text in inputs if text and Path(text).expanduser().is_dir()]
    found = [(each, config) for each, config in (_paired(folder, data) for folder in folders) if each is not None]
    targets = frozenset(Path(each.source.path(name)).resolve() for each, _ in found for name in each.targets)
    if info.target.kind != "masks":
        return NeighborMasks(targets)
    pairs: dict[Path, tuple[Pair, MaskEncoding]] = {}
    problems = []
    for each, config in found:
        try:
            encoding = _encoding(config, info)
            pairs |= {Path(str(pair.image)).resolve(): (pair, encoding) for pair in each.file_pairs()}
        except DataError as error:
            problems.append(f"the masks in '{each.text}' are not used: {error}")
    return NeighborMasks(targets, pairs, "; ".join(problems))


def _paired(folder: Path, data: DataConfig) -> tuple[PairedFolder | None, DataConfig]:
    """Return the pairs in a folder, if there are any, and the data section that finds them."""
    source = FolderSource(str(folder), folder)
    # The folders that the recipe names, else those whose names mean images and targets.
    for input, target in dict.fromkeys(((data.input, data.target), (None, None))):
        try:
            paired = PairedFolder(source, input, target, "images" if data.pairs == "images" else "masks")
            changes = {"source": str(folder), "input": input, "target": target}
            return paired, data.model_copy(update=changes)
        except DataError:
            continue
    return None, data


def _encoding(config: DataConfig, info: DataInfo) -> MaskEncoding:
    """Return what the values of the masks in a folder mean; its images are prepared for that, as for `evaluate`."""
    assert info.target is not None
    # Another path of the run's own images is not its own source, whose sizes and classes are still to be found.
    prepared = prepare(other_source(config.model_copy(update={"source": ""}), str(config.source), info))
    found = json.loads((prepared.root / MANIFEST).read_text(encoding="utf-8"))["target"]["encoding"]
    return MaskEncoding(**found)


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
    with writing_file(out) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        write_csv(file, rows)
