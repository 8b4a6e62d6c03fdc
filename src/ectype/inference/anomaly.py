"""Find odd images by how badly a trained model reconstructs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from ectype.config.schema import DataConfig
from ectype.core.errors import DataError
from ectype.core.escape import write_csv
from ectype.core.images import to_uint8
from ectype.core.table import Table
from ectype.core.tiling import apply_in_tiles
from ectype.data.dataset import ImageSplit
from ectype.data.loader import Loader, evaluation_batches, evenly_spaced
from ectype.data.picture_rows import ColorBar, Histogram, RowTile, picture_of_rows, whole_image
from ectype.data.preview import check_file_writable, writing_file
from ectype.data.sources.base import strip_tile_suffix
from ectype.evaluation.metrics.error_maps import ErrorMaps, error_maps
from ectype.inference.image_io import (
    InferenceResult,
    at_model_size,
    check_not_overwriting,
    decode_spec,
    has_no_run,
    list_images,
    open_images,
    output_paths,
    png,
    read_images,
    read_tiles,
    rejected_note,
    require_capability,
    save_png,
)
from ectype.models.base import Reconstructs, evaluating
from ectype.runs.load import load, open_data, recipe_of
from ectype.runs.locate import locate_run

__all__ = ["score"]

HEAT_PERCENTILE = 95
"""A heat map is red where the error is as large as this percentile of the peaks of held-out images."""
HEAT_MAX_RATIO = 3.0
"""It is white where the error is this many times larger."""
MAX_REFERENCE_IMAGES = 2000
"""Maximum number of held-out images that scores are compared with."""
MAX_REFERENCE_TILES = 20_000
"""Maximum number of their tiles, for a run that was trained on tiles."""
NUM_SHOWN_IMAGES = 8
"""Number of the oddest images in the overview."""
ITEMS_PER_LINE = 2
CUTOFF_SHARE = 0.05
"""Fraction of the images that scores are compared with beyond the cut-off that the overview shows."""


def _errors(image: Float[Tensor, "b c h w"], back: Float[Tensor, "b c h w"]) -> ErrorMaps:
    return ErrorMaps(*(each.cpu() for each in error_maps(image, back)))


def score(
    run: Path,
    images: Sequence[str],
    out: Path | None,
    *,
    maps: Path | None = None,
    beside: str | None = None,
    device: str = "auto",
) -> InferenceResult:
    """Measure how badly a model reconstructs each image, compared with images that it should know.

    There are two scores: `error`, the mean squared error of all pixels in [0, 1], and `peak`, the largest local error,
    for defects that are small compared with the image. Each comes with the fraction of the run's held-out images, or of
    those in `beside`, that score at least as high: a small fraction means an odd image (a conformal p-value; Bates et
    al. 2023, "Testing for outliers with conformal p-values").

    Images are brought to the model's size as in training. For a run that was trained on tiles (`resize=tiles`), they
    are cut in the same way; the scores of an image are the mean error of its tiles and the highest peak of any.
    Held-out images are scored in the same way.

    Args:
        run: A run whose model reconstructs.
        images: Image files, or folders of them.
        out: A .csv file: image, error, share, peak, share of peaks; the oddest image first. A picture of the oddest
            images is written next to it. None writes nothing.
        maps: A directory for a heat map of the errors of each image.
        beside: Normal images to compare with, any source that training accepts. None for the run's held-out images,
            which an exported model does not have.
        device: See `choose_device`.

    Returns:
        With a table: image, error, error_share, peak, peak_share.

    Raises:
        ModelError: The model does not reconstruct.
        DataError: The suffix is another one, a file cannot be written, an image is missing or broken, or there is
            nothing to compare with.
    """
    overview = None if out is None else out.with_suffix(".png")
    files = list_images(images)
    if out is not None and overview is not None:
        check_not_overwriting(files, [overview])  # first, as it names the reason
        check_file_writable(out, ".csv")
        check_file_writable(overview)
    places = output_paths(files, maps) if maps is not None else {}
    at = locate_run(run)
    if beside is None and has_no_run(at):
        raise DataError(
            f"'{run}' is an exported model without held-out images: give normal images to compare with, "
            "--beside FOLDER."
        )
    model = load(at, device=device)
    capable = require_capability(model, Reconstructs, run, "reconstruct, and so cannot score")
    recipe, info = recipe_of(at), model.info
    spec, here = decode_spec(info, recipe), next(model.parameters()).device
    reference = recipe.data if beside is None else open_images(at, beside, info)
    reference_images, unusable = _reference(reference, own=beside is None)
    held_out = Loader(reference_images, _without_binarization(reference), here, training=False)
    kind, parts = ("held-out" if beside is None else "reference", recipe.data.resize == "tiles")
    batch_size, context = evaluation_batches(info, recipe.train.seed, here)
    skipped: list[str] = []
    found: list[tuple[str, float, float]] = []
    kept: list[_Odd] = []
    paths = {name: path for name, path, _ in files}

    def reconstruct_pixels(pixels: Tensor) -> Tensor:
        return capable.reconstruct(pixels.to(here).float() / 255)

    def scored() -> Iterator[tuple[str, Tensor, Tensor, ErrorMaps]]:
        """Yield name, image and reconstruction [c, h, w], and errors of each image."""
        if not parts:
            for names, pixels in read_images(files, spec, skipped, batch_size=batch_size, resize=True):
                back = reconstruct_pixels(pixels)
                errors = _errors(pixels.to(here).float() / 255, back)
                for i, name in enumerate(names):
                    yield (name, pixels[i], back[i], ErrorMaps(*(each[i] for each in errors)))
            return
        for name, whole, pieces in read_tiles(files, spec, skipped):
            each = [
                _errors(some.to(here).float() / 255, reconstruct_pixels(some))[:2] for some in pieces.split(batch_size)
            ]
            mean, peak = (torch.cat(values) for values in zip(*each, strict=True))
            # For the picture only: its errors differ from those of the tiles where these overlap.
            back = apply_in_tiles(reconstruct_pixels, whole, info.size, overlap=0, batch_size=batch_size)
            shown = _errors(whole[None].to(here).float() / 255, back[None].to(here))
            yield name, whole, back, ErrorMaps(mean.mean(), peak.amax(), shown.map[0])

    with evaluating(model):
        index, place = _reference_indices(held_out.images.names, parts)
        reference_errors = []
        for start in range(0, len(index), batch_size):
            batch = held_out(index[start : start + batch_size], context(start, len(index)))
            reference_errors.append(_errors(batch.image, capable.reconstruct(batch.image))[:2])
        mean, peak = _scores_of_images(
            place, *(torch.cat(some).double().numpy() for some in zip(*reference_errors, strict=True))
        )
        white = max(HEAT_MAX_RATIO * float(np.percentile(peak, HEAT_PERCENTILE)), 1e-12)
        for name, image, back, errors in scored():
            found.append((name, float(errors.mean), float(errors.peak)))
            heat = _heat(errors.map / white)
            if maps is not None:
                save_png(heat, png(places[name]))
            picture = [at_model_size(each, spec).expand(3, -1, -1) for each in (image, back.clamp(0, 1), heat)]
            oddness = _oddness(
                _fraction_at_least(mean, found[-1][1]), _fraction_at_least(peak, found[-1][2]), found[-1][1]
            )
            entry = _Odd(oddness, name, found[-1][1], torch.stack(picture))
            kept = sorted([*kept, entry], key=lambda each: each.oddness)[:NUM_SHOWN_IMAGES]
    note = rejected_note(skipped) + unusable
    if not found:
        raise DataError(f"no image in {', '.join(images)} can be used{note}: name others.")
    rows = [
        (name, error, _fraction_at_least(mean, error), highest, _fraction_at_least(peak, highest))
        for name, error, highest in found
    ]
    rows.sort(key=lambda row: _oddness(row[2], row[4], row[1]))
    if out is not None:
        headings = ("image", "error", f"share of {kind} images", "peak", f"share of {kind} images' peaks")
        with writing_file(out) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
            write_csv(file, [headings, *((name, *(f"{value:.6g}" for value in values)) for name, *values in rows)])
    pictures = torch.cat([each.pictures for each in kept])
    if overview is not None:
        outlines = {} if parts else {each.name: whole_image(str(paths[each.name]), spec) for each in kept}
        with writing_file(overview) as scratch:
            _overview(kept, outlines, mean, white, kind).save(scratch)
    name, error, share, _, share_of_peak = rows[0]
    written = f" → {out}" if out is not None else ""
    summary = (
        f"{len(rows)} images{written}; the oddest is {name} (error {error:.4g}; {min(share, share_of_peak):.1%} of "
        f"{len(mean)} {kind} images are as odd)"
    )
    if overview is not None:
        summary += f"; image, reconstruction and errors of the first → {overview}"
    table = Table(
        [dict(zip(("image", "error", "error_share", "peak", "peak_share"), row, strict=True)) for row in rows]
    )
    return InferenceResult(summary + note, out, table, pictures)


class _Odd(NamedTuple):
    """One of the oddest images."""

    oddness: tuple[float, float]
    name: str
    error: float
    pictures: Tensor
    """[3, 3, h, w] in [0, 1]: the image, its reconstruction, and its errors."""


def _overview(
    kept: Sequence[_Odd], outlines: Mapping[str, RowTile | None], reference: np.ndarray, white: float, kind: str
) -> Image.Image:
    """Draw the oddest images, their reconstructions and errors, above the errors that are usual.

    Args:
        kept: The images, the oddest first.
        outlines: Name → whole image with the part outlined that the model sees.
        reference: Errors of the images that are compared with.
        white: The error that is white in a heat map.
        kind: What the images of the reference are called.
    """
    rows = []
    for each in kept:
        image, back, heat = to_uint8(each.pictures).numpy()
        first = outlines.get(each.name) or RowTile(image)
        share = f"{each.oddness[0]:.1%} are as odd"
        rows.append([first._replace(name=each.name), RowTile(back, f"error {each.error:.4g}"), RowTile(heat, share)])
    cutoff = float(np.quantile(reference, 1 - CUTOFF_SHARE))
    histogram = Histogram(
        f"errors of {len(reference):,} {kind} images, and of the images above",
        reference,
        cutoff,
        f"{CUTOFF_SHARE:.0%} lie beyond {cutoff:.3g}",
        [each.error for each in kept],
    )
    colors = to_uint8(_heat(torch.linspace(0, 1, 256)[None])[None])[0, :, 0].T.numpy()
    labels = [f"{white * i / 3:.2g}" for i in range(4)]
    bar = ColorBar("local squared error", colors, labels)
    headings = ("image", "reconstruction", "errors")
    return picture_of_rows(rows, headings=headings, items_per_line=ITEMS_PER_LINE, histogram=histogram, color_bar=bar)


def _reference(config: DataConfig, *, own: bool) -> tuple[ImageSplit, str]:
    """Return the images that scores are compared with, and a note on those that cannot be used."""
    prepared, store = open_data(config)
    if own:
        return store.split("val"), ""
    parts = dict(store.splits())
    return next(parts[name] for name in ("val", "test", "train") if name in parts), prepared.rejects_note


def _reference_indices(names: Sequence[str], parts: bool) -> tuple[Int[Tensor, " n"], np.ndarray]:
    """Return the indices of the reference images or tiles, and the image that each belongs to. Tiles come complete."""
    if not parts:
        index = evenly_spaced(len(names), MAX_REFERENCE_IMAGES)
        return index, np.arange(len(index))
    place = np.unique([strip_tile_suffix(name) for name in names], return_inverse=True)[1]
    whole = int(place.max()) + 1
    some = evenly_spaced(whole, max(1, min(MAX_REFERENCE_IMAGES, MAX_REFERENCE_TILES * whole // len(names)))).numpy()
    index = np.flatnonzero(np.isin(place, some))
    return torch.from_numpy(index), np.unique(place[index], return_inverse=True)[1]


def _scores_of_images(place: np.ndarray, mean: np.ndarray, peak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of images from those of their tiles: the mean error, and the highest peak."""
    highest = np.zeros(place.max() + 1)
    np.maximum.at(highest, place, peak)
    return np.bincount(place, mean) / np.bincount(place), highest


def _fraction_at_least(reference: np.ndarray, value: float) -> float:
    """Return the fraction of held-out images, this one included, that score at least as high."""
    return float((1 + (reference >= value).sum()) / (1 + len(reference)))


def _oddness(share: float, share_of_peak: float, error: float) -> tuple[float, float]:
    """Return the sort key of an image; the oddest comes first."""
    return min(share, share_of_peak), -error


def _without_binarization(config: DataConfig) -> DataConfig:
    """Return the same preparation without binarization, whose random draws would disturb a comparison."""
    return config.model_copy(update={"binarise": "none"})


def _heat(values: Float[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """Map values from 0 to 1 to black, red, yellow, white."""
    return torch.stack([(3 * values.clamp(0, 1) - k).clamp(0, 1) for k in range(3)])
