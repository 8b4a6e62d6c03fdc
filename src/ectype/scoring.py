"""Which images a trained run finds odd, and which it finds alike."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.data.feed import Feed, evenly
from ectype.data.preview import save_grid, writable, writing
from ectype.data.sources import untiled
from ectype.data.store import Images
from ectype.errors import DataError
from ectype.loading import load, open_data, recipe_of
from ectype.measure.neighbours import nearest as nearest_points
from ectype.models.base import Encodes, Reconstructs, evaluating
from ectype.models.degradations import blur
from ectype.sections import DataConfig
from ectype.share.hub import located
from ectype.tiling import tiled
from ectype.training.position import looking
from ectype.training.watch import to_uint8
from ectype.use import (
    able,
    at_size,
    destinations,
    files_of,
    from_elsewhere,
    in_parts,
    left_out,
    png,
    readable,
    save,
    source_of,
    spec_of,
    unharmed,
)

__all__ = ["nearest", "score"]

BLUR = 2.0
"""Deviation in pixels of the Gaussian that errors are averaged by: one wrong pixel is noise, several are a fault."""
RED, WHITE = 95, 3.0
"""A heat map is red where an error is as large as the worst place of all but 5% of held-out images, white at three
times that."""
CALIBRATED = 2000
"""Held-out images that scores are compared with, at the most."""
PARTS = 20_000
"""And parts of such, of a run that learned from parts."""
SHOWN = 8
"""Oddest images in the overview."""


class _Errors(NamedTuple):
    """How far images come back from what they were."""

    mean: Float[Tensor, " b"]
    """Squared error over all pixels."""
    peak: Float[Tensor, " b"]
    """The largest of the averaged map."""
    map: Float[Tensor, "b h w"]


def _errors(image: Float[Tensor, "b c h w"], back: Float[Tensor, "b c h w"]) -> _Errors:
    squared = (image - back.clamp(0, 1)).square().mean(1, keepdim=True)
    averaged = blur(squared, torch.full((len(image),), BLUR, device=image.device))[:, 0]
    return _Errors(squared.flatten(1).mean(1).cpu(), averaged.flatten(1).amax(1).cpu(), averaged.cpu())


def score(
    run: Path,
    images: Sequence[str],
    out: Path,
    *,
    maps: Path | None = None,
    beside: str | None = None,
    device: str = "auto",
) -> str:
    """Write how badly a model reconstructs each image: what it has not learned comes back as something else.

    Two scores: `error`, the mean squared error of all pixels in [0, 1], and `peak`, the largest error of a place, for
    faults that are small beside the image. Beside each stands the share of the run's own held-out images, or of those
    in `beside`, that do at least as badly: an image is odd where that is small (a conformal p-value; Bates et al. 2023,
    "Testing for outliers with conformal p-values").

    Images are brought to the model's size as in training. Of a run that learned from parts of images (`resize=tiles`),
    they are cut as it cut them, and the scores of an image are the mean error of its parts and the highest peak of any;
    held-out images count whole in the same way.

    Args:
        run: Of a model that reconstructs.
        images: Files, or folders of them.
        out: A .csv file: image, error, share, peak, share of that; the oddest first.
        maps: A directory for a picture of each image's errors.
        beside: Usual images to compare with, anything that training accepts; None for those that the run held out,
            which a model that was handed on has none of.
        device: See `choose_device`.

    Raises:
        ModelError: The model does not reconstruct.
        DataError: Another suffix, a place that cannot be written, an image is missing or broken, or there is nothing to
            compare with.
    """
    writable(out, ".csv")
    overview = out.with_suffix(".png")
    writable(overview)
    files = files_of(images)
    unharmed(files, [overview])
    places = destinations(files, maps) if maps is not None else {}
    at = located(run)
    if beside is None and from_elsewhere(at):
        raise DataError(
            f"'{run}' was handed on without the images that its run held out: say what usual ones look like, "
            "--beside FOLDER."
        )
    model = load(at, device=device)
    capable = able(model, Reconstructs, run, "reconstruct, and so cannot score")
    recipe, info = recipe_of(at), model.info
    spec, here = spec_of(info, recipe), next(model.parameters()).device
    reference = recipe.data if beside is None else source_of(at, beside, info)
    usual_images, unusable = _reference(reference, own=beside is None)
    held_out = Feed(usual_images, _undrawn(reference), here, training=False)
    kind, parts = "held-out" if beside is None else "reference", recipe.data.resize == "tiles"
    at_once, moment = looking(info, recipe.train.seed, here)
    skipped: list[str] = []
    found: list[tuple[str, float, float]] = []
    kept: list[tuple[tuple[float, float], Tensor]] = []

    def through(pixels: Tensor) -> Tensor:
        return capable.reconstruct(pixels.to(here).float() / 255)

    def scored() -> Iterator[tuple[str, Tensor, Tensor, _Errors]]:
        """Name, image and reconstruction [c, h, w] of each, and its errors."""
        if not parts:
            for names, pixels in readable(files, spec, skipped, at_once=at_once, resize=True):
                back = through(pixels)
                errors = _errors(pixels.to(here).float() / 255, back)
                for i, name in enumerate(names):
                    yield name, pixels[i], back[i], _Errors(*(each[i] for each in errors))
            return
        for name, whole, pieces in in_parts(files, spec, skipped):
            each = [_errors(some.to(here).float() / 255, through(some))[:2] for some in pieces.split(at_once)]
            mean, peak = (torch.cat(values) for values in zip(*each, strict=True))
            # For the eye: its errors differ from those of the parts where these overlap.
            back = tiled(through, whole, info.size, overlap=0, at_once=at_once)
            shown = _errors(whole[None].to(here).float() / 255, back[None].to(here))
            yield name, whole, back, _Errors(mean.mean(), peak.amax(), shown.map[0])

    with evaluating(model):
        index, place = _chosen(held_out.images.names, parts)
        usual = []
        for start in range(0, len(index), at_once):
            batch = held_out(index[start : start + at_once], moment(start, len(index)))
            usual.append(_errors(batch.image, capable.reconstruct(batch.image))[:2])
        mean, peak = _by_image(place, *(torch.cat(some).double().numpy() for some in zip(*usual, strict=True)))
        white = max(WHITE * float(np.percentile(peak, RED)), 1e-12)
        for name, image, back, errors in scored():
            found.append((name, float(errors.mean), float(errors.peak)))
            heat = _heat(errors.map / white)
            if maps is not None:
                save(heat, png(places[name]))
            picture = [at_size(each, spec).expand(3, -1, -1) for each in (image, back.clamp(0, 1), heat)]
            oddness = _oddness(_share(mean, found[-1][1]), _share(peak, found[-1][2]), found[-1][1])
            kept = sorted([*kept, (oddness, torch.stack(picture))], key=lambda k: k[0])[:SHOWN]
    said = left_out(skipped) + unusable
    if not found:
        raise DataError(f"no image in {', '.join(images)} can be used{said}: name others.")
    rows = [(name, error, _share(mean, error), highest, _share(peak, highest)) for name, error, highest in found]
    rows.sort(key=lambda row: _oddness(row[2], row[4], row[1]))
    # Names of files may be no UTF-8, and come back as they are.
    with writing(out), out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "error", f"share of {kind} images", "peak", f"share of {kind} images' peaks"))
        writer.writerows((name, *(f"{value:.6g}" for value in values)) for name, *values in rows)
    save_grid(to_uint8(torch.cat([picture for _, picture in kept])), overview, columns=6)
    name, error, share, _, share_of_peak = rows[0]
    return (
        f"{len(rows)} images → {out}; the oddest is {name} (error {error:.4g}; of {len(mean)} {kind} images "
        f"{min(share, share_of_peak):.1%} are as odd); image, reconstruction and errors of the first → {overview}{said}"
    )


def _reference(config: DataConfig, *, own: bool) -> tuple[Images, str]:
    """What scores are compared with: images that choose nothing; and what cannot be used of them, in words."""
    prepared, store = open_data(config)
    if own:
        return store.split("val"), ""
    parts = dict(store.splits())
    return next(parts[name] for name in ("val", "test", "train") if name in parts), prepared.left_out


def _chosen(names: Sequence[str], parts: bool) -> tuple[Int[Tensor, " n"], np.ndarray]:
    """What to compare with, as indices, and the image that each is of or is part of; no image by half."""
    if not parts:
        index = evenly(len(names), CALIBRATED)
        return index, np.arange(len(index))
    place = np.unique([untiled(name) for name in names], return_inverse=True)[1]
    whole = int(place.max()) + 1
    some = evenly(whole, max(1, min(CALIBRATED, PARTS * whole // len(names)))).numpy()
    index = np.flatnonzero(np.isin(place, some))
    return torch.from_numpy(index), np.unique(place[index], return_inverse=True)[1]


def _by_image(place: np.ndarray, mean: np.ndarray, peak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores of images from those of their parts: the mean error of all, the highest peak of any."""
    highest = np.zeros(place.max() + 1)
    np.maximum.at(highest, place, peak)
    return np.bincount(place, mean) / np.bincount(place), highest


def _share(usual: np.ndarray, value: float) -> float:
    """Of held-out images and this one, how many score at least as high."""
    return float((1 + (usual >= value).sum()) / (1 + len(usual)))


def _oddness(share: float, share_of_peak: float, error: float) -> tuple[float, float]:
    """What images are sorted by, the oddest first."""
    return min(share, share_of_peak), -error


def _undrawn(config: DataConfig) -> DataConfig:
    """The same preparation without pixels drawn black or white: what differs by chance has no place in a comparison."""
    return config.model_copy(update={"binarise": "none"})


def _heat(values: Float[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """0 to 1 as black, red, yellow, white."""
    return torch.stack([(3 * values.clamp(0, 1) - k).clamp(0, 1) for k in range(3)])


def nearest(run: Path, images: Sequence[str], source: str, out: Path, *, k: int = 8, device: str = "auto") -> list[str]:
    """Find the images of a source whose codes are nearest to an image's, and save them in a picture.

    Args:
        run: Of a model that encodes.
        images: Files, or folders of them.
        source: Anything that training accepts.
        out: A picture: each image, then its neighbours, a row for each.
        k: Neighbours of each.
        device: See `choose_device`.

    Returns:
        A line for each image: its neighbours, the nearest first, with the Euclidean distance of their codes.

    Raises:
        ModelError: The model cannot encode.
        DataError: Unusable images, or fewer than k, or a place that cannot be written.
    """
    writable(out)
    files = files_of(images)
    unharmed(files, [out])
    at = located(run)
    model = load(at, device=device)
    capable = able(model, Encodes, run, "encode")
    recipe, info = recipe_of(at), model.info
    spec, here = spec_of(info, recipe), next(model.parameters()).device
    config = source_of(at, source, info)
    prepared, store = open_data(config)
    skipped: list[str] = []
    moments = looking(info, recipe.train.seed, here)
    codes, names, where = [], [], []
    with evaluating(model):
        asked = [
            (name, image)
            for some, pixels in readable(files, spec, skipped, at_once=moments[0], resize=True)
            for name, image in zip(some, pixels, strict=True)
        ]
        if not asked:
            raise DataError(f"no image in {', '.join(images)} can be used: name others.")
        mine = torch.stack([image for _, image in asked])
        points = torch.cat([capable.encode(some.to(here).float() / 255).cpu() for some in mine.split(moments[0])])
        for _, part in store.splits():
            for batch, _ in Feed(part, _undrawn(config), here, training=False).sequence(*moments):
                codes.append(capable.encode(batch.image).float().cpu())
            names += list(part.names)
            where += [(part, i) for i in range(len(part))]
    if k > len(names):
        raise DataError(f"-k {k}: there are {len(names)} images in '{source}'; ask for fewer.")
    found = nearest_points(points.float().flatten(1), torch.cat(codes).flatten(1), k)
    rows, lines = [], []
    for (name, image), distances, places in zip(asked, found.distance, found.place, strict=True):
        rows.append(image[None])
        for place in places.tolist():
            part, i = where[place]
            rows.append(part.gather(torch.tensor([i]))[:, : info.channels])
        said = ", ".join(f"{names[p]} ({d:.4g})" for d, p in zip(distances.tolist(), places.tolist(), strict=True))
        lines.append(f"{name}: {said}")
    save_grid(torch.cat(rows), out, columns=k + 1)
    return [*lines, f"→ {out}{left_out(skipped)}{prepared.left_out}"]
