"""Predict masks, translated images or restored images at the size of the input files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ectype.config.schema import DataConfig, DataInfo
from ectype.core.errors import DataError, ModelError
from ectype.core.images import to_uint8
from ectype.core.table import Table
from ectype.core.tiling import apply_in_tiles
from ectype.data.build_entry import MAX_OWN_SIDE_PX
from ectype.data.decode import Spec
from ectype.data.decode import decode as decode_image
from ectype.data.image_file import image_size
from ectype.data.preview import check_folder_writable, contact_sheet, writing_file
from ectype.data.raw_image import Rejected
from ectype.inference.image_io import (
    OVERVIEW,
    InferenceResult,
    decode_spec,
    list_images,
    output_paths,
    png,
    rejected_note,
    require_capability,
)
from ectype.inference.outlines import add_legend, draw_outlines
from ectype.inference.true_masks import ImageScore, find_neighbor_masks, image_score, score_figures, write_scores
from ectype.models.base import evaluating
from ectype.models.translator import Restorer, Segmenter, Translator
from ectype.runs.load import load, recipe_of

__all__ = ["Scale", "trained_size", "translate"]

Scale = Literal["auto", "trained", "full"]
TILE_SIDE_PX = 512
"""Side beyond which an image is processed in tiles."""
TILE_OVERLAP = 0.25
"""Overlap of neighboring tiles as a fraction of their side."""
OVERLAY_OPACITY = 0.4
"""Opacity of a mask's colors in an overlay."""
NUM_SHOWN_IMAGES = 12
"""Images in the overview."""
SCORES = "scores.csv"
"""The table of Dice and IoU of each image, if there are true masks."""
LINES = "whole lines: true, dashed lines: predicted"
MAX_ENLARGEMENT = 1.5
"""Images that are larger than the training images by more than this factor are reported."""


def translate(
    run: Path,
    images: Sequence[str],
    out: Path,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    flips: bool = False,
    scale: Scale = "auto",
    tile: int = TILE_SIDE_PX,
    device: str = "auto",
) -> InferenceResult:
    """Write the model's output for images as PNG, each at the size of its input and under its name.

    Masks are index PNGs with the classes' colors as palette. If training images were downscaled, inputs are downscaled
    in the same way, so that objects have the size that was learned, and outputs are upscaled again. Restoration models
    see every pixel instead, because fine detail is what they are for. Sizes that do not divide are padded inside of the
    model; images with a side beyond `tile` pixels are processed in blended tiles.

    Targets that lie next to the images, as they do for training, are not taken for images. From true masks, the Dice
    and IoU of each image are written to `scores.csv`, and its outlines over the image next to its mask.

    Args:
        run: A run whose model translates images.
        images: Image files, or folders of them.
        out: A directory.
        overlay: For masks: also write the image with the classes' colors on top.
        probabilities: For masks: also write the probability of each class as a grey image.
        flips: Average the outputs for an image and for its mirror image.
        scale: `trained`: process images at the scale of the training images; `full`: at their own size; `auto`: full
            for restoration models, else trained.
        tile: Side of a tile in pixels.
        device: See `choose_device`.

    Returns:
        With a table of the scores if there are true masks: image, dice, iou.

    Raises:
        ModelError: The model does not translate images, or has no masks where these are asked for.
        DataError: An image is missing or broken.
    """
    check_folder_writable(out)
    model = require_capability(load(run, device=device), Translator, run, "translate")
    if (overlay or probabilities) and not isinstance(model, Segmenter):
        raise ModelError(f"the model of '{run}' predicts images, not masks: leave --overlay and --probabilities out.")
    if tile < 64:
        raise DataError(f"--tile {tile} is too small: use at least 64.")
    recipe, info = recipe_of(run), model.info
    data, spec = recipe.data, decode_spec(info, recipe)._replace(resize="squash")
    truth = find_neighbor_masks(images, data, info)
    files = [file for file in list_images(images) if file[1].resolve() not in truth.targets]
    endings = ["", *(["-overlay"] if overlay else []), *(["-outlines"] if truth.pairs else [])]
    places = output_paths(files, out, [*endings, *(_endings(info) if probabilities else [])])
    full = scale == "full" or (scale == "auto" and isinstance(model, Restorer))
    here = next(model.parameters()).device
    shown: list[Tensor] = []
    skipped: list[str] = []
    scores: list[ImageScore] = []
    in_tiles = larger = scaled = count = 0

    def apply_model(pixels: Tensor) -> Tensor:
        inputs = pixels.to(here).float() / 255
        outputs = model.translate(inputs)
        return (outputs + model.translate(inputs.flip(3)).flip(3)) / 2 if flips else outputs

    with evaluating(model):
        for name, path, asked in files:
            try:
                size = _size(path, spec)
                pixels = _pixels(path, spec, size)
                work = size if full else trained_size(size, info.size, data)
                seen = pixels if work == size else _pixels(path, spec, work)
            except Rejected as reason:
                if asked:
                    raise DataError(f"'{path}' cannot be used ({reason}): leave it out.") from None
                skipped.append(f"{name} ({reason})")
                continue
            count += 1
            output, tiles = _apply(apply_model, seen, tile)
            if work != size:
                output = interpolate(output[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
            in_tiles += tiles
            scaled += work != size
            larger += min(work[0] / info.size[0], work[1] / info.size[1]) > MAX_ENLARGEMENT
            _write(model, output, pixels, places[name], path, overlay=overlay, probabilities=probabilities)
            pictures = [pixels[None].float() / 255, model.to_rgb(output[None]).cpu()]
            try:
                mask = truth.indices(path, spec._replace(size=size))
            except Rejected as reason:
                skipped.append(f"the mask of {name} ({reason})")
                mask = None
            if mask is not None:
                scores.append(image_score(name, output.argmax(0), mask, model.channels))
                outlines = _outlines(pixels, output, mask, info)
                _save(_with_legend(Image.fromarray(outlines), info, LINES), png(places[name], "-outlines"))
                pictures.append(torch.from_numpy(outlines).permute(2, 0, 1)[None].float() / 255)
            if len(shown) < NUM_SHOWN_IMAGES:
                shown.append(torch.cat(list(map(_square, pictures))))
    note = f"; {in_tiles} larger than {tile} pixels, in tiles" if in_tiles else ""
    note += f"; {scaled} processed at the scale of the training images (--scale full: at their own)" if scaled else ""
    if full and larger and data.resize != "tiles":
        note += (
            f"; {larger} larger than the training size {info.size[1]}×{info.size[0]}, where objects were smaller: "
            "data.resize=tiles trains at full resolution"
        )
    note += rejected_note(skipped) + (f"; {truth.note}" if truth.note else "")
    if not shown:
        raise DataError(f"no image in {', '.join(images)} can be used{note}: name others.")
    _save_overview(shown, out / OVERVIEW, info, LINES if scores else "")
    what = "masks" if isinstance(model, Segmenter) else "images"
    summary = f"{count} {what} → {out}; the first next to their inputs in {out / OVERVIEW}{note}"
    if not scores:
        return InferenceResult(summary, out)
    assert info.target is not None
    write_scores(scores, info.target.classes, out / SCORES)
    means = (
        f"{figure.name} {figure.text}{f' (95% interval {figure.interval})' * bool(figure.interval)}"
        for figure in score_figures(scores)
    )
    summary += (
        f"\nagainst {len(scores)} true masks, means over images: {', '.join(means)}; of each image → {out / SCORES}"
    )
    rows = [{"image": score.name, "dice": score.dice, "iou": score.iou} for score in scores]
    return InferenceResult(summary, out, Table(rows))


def _outlines(pixels: Tensor, output: Tensor, mask: np.ndarray, info: DataInfo) -> np.ndarray:
    assert info.target is not None
    image = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return draw_outlines(image, output.argmax(0).numpy(), mask, info.target.colours)


def _with_legend(picture: Image.Image, info: DataInfo, lines: str) -> Image.Image:
    target = info.target
    if target is None or target.kind != "masks":
        return picture
    return add_legend(picture, target.classes, target.colours, lines)


def _save_overview(shown: Sequence[Tensor], out: Path, info: DataInfo, lines: str) -> None:
    """Write the first inputs and outputs, two images in a row; those with outlines have three pictures each."""
    most = max(map(len, shown))
    blank = torch.ones_like(shown[0][:1])
    pictures = torch.cat([torch.cat([each, *[blank] * (most - len(each))]) for each in shown])
    sheet = contact_sheet(to_uint8(pictures), columns=2 * most)
    _save(_with_legend(sheet, info, lines), out)


def _size(path: Path, spec: Spec) -> tuple[int, int]:
    """Return the height and width of an image, with its EXIF orientation applied."""
    size = image_size(str(path))
    if size is None:
        decode_image(str(path), spec)  # raises the reason
        raise Rejected("not an image")
    return size


def _pixels(path: Path, spec: Spec, size: tuple[int, int]) -> Tensor:
    """Return an image [c, h, w] uint8 at a size."""
    return torch.from_numpy(decode_image(str(path), spec._replace(size=size)).pixels.copy())


def trained_size(size: tuple[int, int], known: tuple[int, int], data: DataConfig) -> tuple[int, int]:
    """Return the size at which objects are as large as in training; what was cropped or padded there is kept."""
    if data.resize == "tiles" or (data.size == "own" and max(known) < MAX_OWN_SIDE_PX):
        return size
    if data.resize == "squash":
        return known
    across = [k / s for k, s in zip(known, size, strict=True)]
    factor = max(across) if data.resize == "crop" else min(across)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _endings(info: DataInfo) -> list[str]:
    """Return the file name endings of the probabilities of each class."""
    assert info.target is not None
    return ["-p-" + "".join(c if c.isalnum() else "_" for c in name) for name in info.target.classes]


def _apply(function: Callable[[Tensor], Tensor], pixels: Tensor, tile: int) -> tuple[Float[Tensor, "k h w"], bool]:
    """Return the output for an image, and whether it was processed in tiles."""
    if max(pixels.shape[1:]) <= tile:
        return function(pixels[None])[0].cpu(), False
    sides = (min(tile, pixels.shape[1]), min(tile, pixels.shape[2]))
    return apply_in_tiles(function, pixels, sides, overlap=TILE_OVERLAP, batch_size=2).cpu(), True


def _write(
    model: Translator, output: Tensor, pixels: Tensor, place: Path, source: Path, *, overlay: bool, probabilities: bool
) -> None:
    kept = _kept(source)
    if not isinstance(model, Segmenter):
        values = to_uint8(output[None])[0].permute(1, 2, 0).numpy()
        _save(Image.fromarray(values[..., 0] if values.shape[2] == 1 else values), png(place), **kept)
        return
    assert model.info.target is not None
    mask = Image.fromarray(output.argmax(0).to(torch.uint8).numpy())
    mask.putpalette([value for color in model.info.target.colours for value in color])
    _save(mask, png(place), **{key: value for key, value in kept.items() if key == "dpi"})
    if overlay:
        colored = model.to_rgb(output[None])[0]
        # The first class is the background.
        marked = (output.argmax(0) > 0)[None] * OVERLAY_OPACITY
        blended = (pixels.float() / 255).expand(3, -1, -1) * (1 - marked) + colored * marked
        _save(Image.fromarray(to_uint8(blended[None])[0].permute(1, 2, 0).numpy()), png(place, "-overlay"))
    if probabilities:
        for ending, chance in zip(_endings(model.info), to_uint8(output[None])[0].numpy(), strict=True):
            _save(Image.fromarray(np.ascontiguousarray(chance)), png(place, ending))


def _save(image: Image.Image, path: Path, **metadata: Any) -> None:
    with writing_file(path) as scratch:
        image.save(scratch, **metadata)


def _kept(source: Path) -> dict[str, Any]:
    """Return the metadata of a file that also applies to its output.

    The EXIF orientation was applied already, and the color profile too: outputs are in sRGB.
    """
    try:
        with Image.open(source) as opened:
            kept: dict[str, Any] = {"dpi": opened.info["dpi"]} if opened.info.get("dpi") else {}
            exif = opened.getexif()
            if len(exif):
                exif.pop(0x0112, None)
                kept["exif"] = exif.tobytes()
            return kept
    except Exception:  # unreadable metadata must not lose the output
        return {}


def _square(image: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 3 128 128"]:
    """Return an image padded to a square of the overview, with its aspect ratio kept."""
    height, width = image.shape[2:]
    scale = 128 / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = interpolate(image.expand(-1, 3, -1, -1), size, mode="bilinear", antialias=True)
    top, left = (128 - size[0]) // 2, (128 - size[1]) // 2
    return pad(small, (left, 128 - size[1] - left, top, 128 - size[0] - top), value=1.0)
