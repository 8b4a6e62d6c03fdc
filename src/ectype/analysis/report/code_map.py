"""A map of codes: images of the test set as thumbnails, each where its code lies."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from ectype.analysis.report.components import Row, Section
from ectype.analysis.report.pictures import Picture, data_uri
from ectype.analysis.run_view import RunView
from ectype.core.images import to_uint8

__all__ = ["code_map", "thumbnail_cells"]

MIN_COLUMNS, MAX_COLUMNS = 8, 28
CELLS_PER_IMAGE = 1.3
ASPECT = 0.6
"""Height ÷ width of the map."""
WIDTH_PX = 1232
TRIMMED = 0.01
"""Fraction of the codes on each side that lie beyond the edge of the map and are moved to it."""


def thumbnail_cells(
    points: Float[Tensor, "n 2"], columns: int, rows: int
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Choose at most one point for each cell of a grid, the one nearest to the middle of the cell.

    Args:
        points: Coordinates, the second growing upwards.
        columns: Cells from left to right.
        rows: Cells from top to bottom.

    Returns:
        The chosen points in ascending order, and the number of the cell of each, row by row from the top left.

    >>> import torch
    >>> thumbnail_cells(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.9, 1.0]]), 2, 2)
    (tensor([0, 2]), tensor([2, 1]))
    """
    low, high = torch.quantile(points, TRIMMED, dim=0), torch.quantile(points, 1 - TRIMMED, dim=0)
    share = ((points - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    place = torch.stack([share[:, 0], 1 - share[:, 1]], dim=1) * torch.tensor([columns, rows])
    cell = place.long().minimum(torch.tensor([columns - 1, rows - 1]))
    number = cell[:, 1] * columns + cell[:, 0]
    distance = (place - cell - 0.5).square().sum(1)
    best: dict[int, int] = {}
    for index in distance.argsort(stable=True).tolist():
        best.setdefault(int(number[index]), index)
    pairs = sorted((index, key) for key, index in best.items())
    return torch.tensor([index for index, _ in pairs]), torch.tensor([key for _, key in pairs])


def code_map(view: RunView) -> Section | None:
    """Show held-out images at the places of their codes; None if the model has no codes of two dimensions or more."""
    codes = view.codes
    if codes is None or codes.code.shape[1] < 2 or len(codes.directions) < 2:
        return None
    points = codes.code if codes.code.shape[1] == 2 else codes.project(2)
    if not bool(points.isfinite().all()):
        return None
    wanted = round((CELLS_PER_IMAGE * len(points) / ASPECT) ** 0.5)
    columns = min(MAX_COLUMNS, max(MIN_COLUMNS, wanted))
    rows, cell_px = max(2, round(ASPECT * columns)), WIDTH_PX // columns
    chosen, cells = thumbnail_cells(points, columns, rows)
    images = to_uint8(view.images(codes.places[chosen]).cpu())
    sheet = Image.new("RGBA", (columns * cell_px, rows * cell_px))
    for pixels, cell in zip(images.permute(0, 2, 3, 1).numpy(), cells.tolist(), strict=True):
        thumbnail = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGBA")
        side = cell_px - 2
        small = max(thumbnail.size) <= side
        scale = side // max(thumbnail.size) if small else side / max(thumbnail.size)
        size = (max(1, round(thumbnail.width * scale)), max(1, round(thumbnail.height * scale)))
        thumbnail = thumbnail.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC)
        left, top = cell % columns * cell_px, cell // columns * cell_px
        sheet.paste(thumbnail, (left + (cell_px - size[0]) // 2, top + (cell_px - size[1]) // 2))
    alt = f"{len(chosen)} held-out images, each at the place of its code"
    picture = Picture(data_uri(sheet, lossless=False), alt, *sheet.size, across=columns, crisp=False)
    what = "the two dimensions of the code" if codes.code.shape[1] == 2 else "the first two principal components"
    caption = (
        f"{len(chosen)} of {len(points):,} held-out images, each at the place of its code, by {what}. Where several "
        "codes are close together, one image stands for them."
    )
    return Section("map", "Map of codes", caption, [Row("", [picture])])
