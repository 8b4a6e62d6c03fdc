"""Find the images whose codes are nearest to those of other images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.core.errors import DataError
from ectype.core.table import Table
from ectype.data.loader import Loader, evaluation_batches
from ectype.data.picture_rows import RowTile, picture_of_rows, whole_image
from ectype.data.preview import check_file_writable, writing_file
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

MAX_DRAWN_ROWS = 100
"""Images in the picture; all are in the table."""
COLUMNS = ("image", "rank", "neighbor", "class", "distance")


def nearest(
    run: Path, images: Sequence[str], source: str, out: Path | None, *, k: int = 8, device: str = "auto"
) -> InferenceResult:
    """Find the images of a source whose codes are nearest to those of given images.

    An image of the source with exactly the same pixels, such as the given image itself, is left out.

    Args:
        run: A run whose model encodes.
        images: Image files, or folders of them.
        source: The images to search; any source that training accepts.
        out: A picture to write: each image, then its neighbors, in a row. The table is written next to it, as `.csv`.
            None writes nothing.
        k: Number of neighbors of each image.
        device: See `choose_device`.

    Returns:
        With a table: image, rank, neighbor, class (None without labels), distance (Euclidean, of the codes); the
        nearest first.

    Raises:
        ModelError: The model cannot encode.
        DataError: The images cannot be used, there are fewer than k, or `out` cannot be written.
    """
    files = list_images(images)
    csv = Path() if out is None else out.with_suffix(".csv")
    if out is not None:
        check_not_overwriting(files, [out, csv])  # first, as it names the reason
        check_file_writable(out)
        check_file_writable(csv, ".csv")
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
    code = torch.cat(codes).flatten(1)

    def pixels_of(place: int) -> Tensor:
        part, i = where[place]
        return part.gather(torch.tensor([i]))[:, : info.channels]

    paths = {name: path for name, path, _ in files}
    pictures, rows, same, drawn = [], [], 0, []
    for (name, image), point in zip(asked, points.float().flatten(1), strict=True):
        pictures.append(image[None])
        whole = whole_image(str(paths[name]), spec) if len(drawn) < MAX_DRAWN_ROWS else None
        line = [(whole or RowTile(image.numpy()))._replace(name=name)]
        neighbors = []
        for place, distance in _by_distance(point, code, k):
            picture = pixels_of(place)
            if torch.equal(picture[0], image):
                same += 1
                continue
            neighbors.append((place, distance, picture))
            if len(neighbors) == k:
                break
        for rank, (place, distance, picture) in enumerate(neighbors, 1):
            part, i = where[place]
            label = None if part.labels is None else store.info.classes[int(part.labels[i])]
            row = {"image": name, "rank": rank, "neighbor": names[place], "class": label, "distance": distance}
            rows.append(row)
            pictures.append(picture)
            value = f"{distance:.4g}" if label is None else f"{distance:.4g} · {label}"
            line.append(RowTile(picture[0].numpy(), names[place], value))
        pictures += [torch.full_like(image[None], 255)] * (k - len(neighbors))
        drawn.append([*line, *[RowTile(None)] * (k - len(neighbors))])
    images_in_rows, table = torch.cat(pictures), Table(rows, COLUMNS)
    summary = f"{k} nearest of {len(names):,} images to each of {len(asked)}"
    if same:
        summary += f"; identical images left out ({same})"
    if out is not None:
        headings = ["image", *(f"{rank}. nearest" for rank in range(1, k + 1))]
        with writing_file(out) as scratch:
            picture_of_rows(drawn[:MAX_DRAWN_ROWS], headings=headings).save(scratch)
        table.to_csv(csv)
        summary += f" → {out}, {csv}"
        if len(drawn) > MAX_DRAWN_ROWS:
            summary += f" (the picture has the first {MAX_DRAWN_ROWS})"
    summary += f"{rejected_note(skipped)}{prepared.rejects_note}"
    return InferenceResult(summary, out, table, images_in_rows.float() / 255)


def _by_distance(point: Float[Tensor, " d"], codes: Float[Tensor, "n d"], k: int) -> Iterator[tuple[int, float]]:
    """Yield the positions of all codes and their distances from a point, the nearest first."""
    done, n = 0, min(len(codes), k + 1)  # one more, as the image itself may be among them
    while done < len(codes):
        found = nearest_neighbors(point[None], codes, n)
        both = zip(found.place[0].tolist(), found.distance[0].tolist(), strict=True)
        yield from list(both)[done:]
        done, n = n, min(len(codes), 4 * n)
