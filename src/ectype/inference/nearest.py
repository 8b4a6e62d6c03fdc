"""Find the images whose codes are nearest to those of other images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ectype.core.errors import DataError
from ectype.core.table import Table
from ectype.data.loader import Loader, evaluation_batches
from ectype.data.preview import check_file_writable, save_grid
from ectype.evaluation.metrics.precision_recall import nearest_neighbors
from ectype.inference.image_io import (
    InferenceResult,
    check_not_overwriting,
    decode_spec,
    list_images,
    open_images,
    read_images,
    rejected_note,
    require_capability,
)
from ectype.models.base import Encodes, evaluating
from ectype.runs.load import load, open_data, recipe_of
from ectype.runs.locate import locate_run

__all__ = ["nearest"]


def nearest(
    run: Path, images: Sequence[str], source: str, out: Path | None, *, k: int = 8, device: str = "auto"
) -> InferenceResult:
    """Find the images of a source whose codes are nearest to those of given images.

    Args:
        run: A run whose model encodes.
        images: Image files, or folders of them.
        source: The images to search; any source that training accepts.
        out: A picture to write: each image, then its neighbors, in a row. None writes nothing.
        k: Number of neighbors of each image.
        device: See `choose_device`.

    Returns:
        With a table: image, rank, neighbor, distance (Euclidean, of the codes); the nearest first.

    Raises:
        ModelError: The model cannot encode.
        DataError: The images cannot be used, there are fewer than k, or `out` cannot be written.
    """
    if out is not None:
        check_file_writable(out)
    files = list_images(images)
    check_not_overwriting(files, [] if out is None else [out])
    at = locate_run(run)
    model = load(at, device=device)
    capable = require_capability(model, Encodes, run, "encode")
    recipe, info = recipe_of(at), model.info
    spec, here = decode_spec(info, recipe), next(model.parameters()).device
    config = open_images(at, source, info)
    prepared, store = open_data(config)
    skipped: list[str] = []
    batching = evaluation_batches(info, recipe.train.seed, here)
    codes, names, where = [], [], []
    with evaluating(model):
        asked = [
            (name, image)
            for some, pixels in read_images(files, spec, skipped, batch_size=batching[0], resize=True)
            for name, image in zip(some, pixels, strict=True)
        ]
        if not asked:
            raise DataError(f"no image in {', '.join(images)} can be used: name others.")
        mine = torch.stack([image for _, image in asked])
        points = torch.cat([capable.encode(some.to(here).float() / 255).cpu() for some in mine.split(batching[0])])
        for _, part in store.splits():
            for batch, _ in Loader(part, config.model_copy(update={"binarise": "none"}), here, training=False).batches(
                *batching
            ):
                codes.append(capable.encode(batch.image).float().cpu())
            names += list(part.names)
            where += [(part, i) for i in range(len(part))]
    if k > len(names):
        raise DataError(f"-k {k}: there are {len(names)} images in '{source}'; ask for fewer.")
    found = nearest_neighbors(points.float().flatten(1), torch.cat(codes).flatten(1), k)
    pictures, lines, rows = [], [], []
    for (name, image), distances, places in zip(asked, found.distance, found.place, strict=True):
        pictures.append(image[None])
        neighbors = list(zip(places.tolist(), distances.tolist(), strict=True))
        for rank, (place, distance) in enumerate(neighbors, 1):
            part, i = where[place]
            pictures.append(part.gather(torch.tensor([i]))[:, : info.channels])
            rows.append({"image": name, "rank": rank, "neighbor": names[place], "distance": distance})
        lines.append(f"{name}: " + ", ".join(f"{names[place]} ({distance:.4g})" for place, distance in neighbors))
    images_in_rows = torch.cat(pictures)
    if out is not None:
        save_grid(images_in_rows, out, columns=k + 1)
        lines.append(f"→ {out}{rejected_note(skipped)}{prepared.rejects_note}")
    return InferenceResult("\n".join(lines), out, Table(rows), images_in_rows.float() / 255)
