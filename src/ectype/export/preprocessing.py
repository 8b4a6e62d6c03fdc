"""What has to be done to an image before an exported model sees it, and the scores that held-out images get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.analysis.run_view import RunView
from ectype.config.schema import DataConfig, DataInfo
from ectype.data.colors import parse_color
from ectype.data.loader import Loader, evaluation_batches, evenly_spaced
from ectype.evaluation.metrics.error_maps import error_maps
from ectype.models.base import Reconstructs, evaluating
from ectype.runs.load import open_data

__all__ = ["describe_preprocessing", "held_out_scores", "preprocessing_of"]

MAX_REFERENCE_IMAGES = 500
"""Maximum number of held-out images that the scores of an exported model are compared with."""
RESIZE_RULES = {
    "crop": "scaled until both sides are covered, then the centre is cut out",
    "pad": "scaled until it fits, then centred on the background",
    "squash": "scaled to the size, whatever its aspect ratio",
    "tiles": "cut into tiles of this size",
}


def preprocessing_of(info: DataInfo, data: DataConfig, value_range: tuple[float, float] = (0.0, 1.0)) -> dict[str, Any]:
    """Return what a program has to do to an image, as JSON can store it.

    Args:
        info: The images that the model was built for.
        data: How they were prepared.
        value_range: The values that 0 and 255 become.
    """
    return {
        "size": list(info.size),
        "size_order": "height, width",
        "channels": info.channels,
        "channel_order": "gray" if info.channels == 1 else "RGB",
        "color_space": "sRGB",
        "orientation": "upright, as its EXIF data say",
        "layout": "NCHW",
        "type": "float32",
        "range": list(value_range),
        "resize": data.resize,
        "resize_rule": RESIZE_RULES[data.resize],
        "filter": "bicubic with antialiasing (Pillow's BICUBIC)",
        "background": list(parse_color(data.background)),
        "background_for": "transparent pixels, and the border of resize=pad",
        "binarise": data.binarise,
        "classes": list(info.classes),
        "target": None if info.target is None else info.target._asdict(),
    }


def describe_preprocessing(found: Mapping[str, Any]) -> str:
    """Return preprocessing as one sentence."""
    height, width = found["size"]
    low, high = found["range"]
    color = "gray" if found["channels"] == 1 else "RGB"
    return (
        f"Images are made upright, painted on RGB({', '.join(map(str, found['background']))}) where they are "
        f"transparent, {found['resize_rule']} ({width}×{height} pixels, bicubic), {color}, float32 in "
        f"[{low:g}, {high:g}], [batch, {found['channels']}, height, width]."
    )


def held_out_scores(view: RunView) -> Float[Tensor, "n 2"] | None:
    """Return the mean and the peak error of validation images, which `ectype score` compares others with.

    None for a model that does not reconstruct, and for one that was trained on tiles, which are scored together.
    """
    model, data = view.model, view.recipe.data
    if not isinstance(model, Reconstructs) or data.resize == "tiles":
        return None
    images = open_data(data)[1].split("val")
    plain = data.model_copy(update={"binarise": "none"})
    loader = Loader(images, plain, view.device, training=False)
    batch_size, context = evaluation_batches(view.info, view.recipe.train.seed, view.device)
    index = evenly_spaced(len(images), MAX_REFERENCE_IMAGES)
    scores = []
    with evaluating(view.model):
        for start in range(0, len(index), batch_size):
            batch = loader(index[start : start + batch_size], context(start, len(index)))
            found = error_maps(batch.image, model.reconstruct(batch.image))
            scores.append(torch.stack([found.mean, found.peak], 1).cpu())
    return torch.cat(scores) if scores else None
