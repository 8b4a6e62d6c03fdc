"""What is done with a model from image to image: masks, pictures and restored images of files, at their own size."""

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

from ectype.data.decode import Rejected, Spec, colour, size_of
from ectype.data.decode import decode as decode_image
from ectype.data.prepare import LARGEST_OWN
from ectype.data.preview import fillable, save_grid, writing
from ectype.errors import DataError, ModelError
from ectype.loading import load, recipe_of
from ectype.models.base import evaluating
from ectype.models.translator import Restorer, Segmenter, Translator
from ectype.sections import DataConfig, DataInfo
from ectype.tiling import tiled
from ectype.training.watch import to_uint8
from ectype.use import OVERVIEW, able, destinations, files_of, left_out, png

__all__ = ["Scale", "trained_size", "translate"]

Scale = Literal["auto", "trained", "full"]
TILE, OVERLAP = 512, 0.25
"""Side in pixels beyond which an image goes through in tiles, and the share of a side that neighbours share."""
BLEND = 0.4
"""How much of an overlay is the mask's colour."""
SHOWN = 12
"""Images in the overview."""
LARGER = 1.5
"""How many times larger than those trained on an image may be before that is said."""


def translate(
    run: Path,
    images: Sequence[str],
    out: Path,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    flips: bool = False,
    scale: Scale = "auto",
    tile: int = TILE,
    device: str = "auto",
) -> str:
    """Save what the model makes of images, each at its own size and under its own name, as PNG.

    Masks are index PNGs with the classes' colours as palette. Where training shrank its images, so are these before
    they go through, so that things have the size that was learned, and what was made is brought back to theirs. What
    restores images sees each pixel instead, as its use is the fine detail. Sizes that do not divide are filled up
    inside and cut back; beyond `tile` pixels a side images go through in tiles that are blended.

    Args:
        run: Of a model from image to image.
        images: Files, or folders of them.
        out: A directory.
        overlay: Of masks: also save the image with the classes' colours laid over it.
        probabilities: Of masks: also save each class's probability as a grey picture.
        flips: Average what is made of an image and of its mirror image.
        scale: `trained`: through the model at the scale of its training images; `full`: at their own; `auto`: full for
            models that restore, else trained.
        tile: Side of a tile in pixels.
        device: See `choose_device`.

    Raises:
        ModelError: The model makes no images of images, or no masks where these are asked for.
        DataError: An image is missing or broken.
    """
    fillable(out)
    model = able(load(run, device=device), Translator, run, "translate")
    if (overlay or probabilities) and not isinstance(model, Segmenter):
        raise ModelError(f"the model of '{run}' makes pictures, not masks: leave --overlay and --probabilities out.")
    if tile < 64:
        raise DataError(f"--tile {tile} is too small to be seen in: 64 is the least.")
    files = files_of(images)
    endings = ["", *(["-overlay"] if overlay else []), *(_endings(model.info) if probabilities else [])]
    places = destinations(files, out, endings)
    data, info = recipe_of(run).data, model.info
    spec = Spec(info.size, info.channels, "squash", colour(data.background), 1)
    full = scale == "full" or (scale == "auto" and isinstance(model, Restorer))
    here = next(model.parameters()).device
    shown: list[Tensor] = []
    skipped: list[str] = []
    in_tiles = larger = scaled = 0

    def through(pixels: Tensor) -> Tensor:
        given = pixels.to(here).float() / 255
        made = model.translate(given)
        return (made + model.translate(given.flip(3)).flip(3)) / 2 if flips else made

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
            made, tiles = _made(through, seen, tile)
            if work != size:
                made = interpolate(made[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
            in_tiles += tiles
            scaled += work != size
            larger += min(work[0] / info.size[0], work[1] / info.size[1]) > LARGER
            with writing(png(places[name])):
                _write(model, made, pixels, places[name], path, overlay=overlay, probabilities=probabilities)
            if len(shown) < 2 * SHOWN:
                shown += [_square(pixels[None].float() / 255), _square(model.picture(made[None]).cpu())]
    said = f"; {in_tiles} larger than {tile} pixels, in tiles" if in_tiles else ""
    said += f"; {scaled} through the model at the scale of its training (--scale full: at their own)" if scaled else ""
    if full and larger and data.resize != "tiles":
        said += (
            f"; {larger} larger than the {info.size[1]}×{info.size[0]} it was trained at, where things were smaller: "
            "data.resize=tiles trains at full resolution"
        )
    said += left_out(skipped)
    if not shown:
        raise DataError(f"no image in {', '.join(images)} can be used{said}: name others.")
    save_grid(to_uint8(torch.cat(shown)), out / OVERVIEW, columns=4)
    what = "masks" if isinstance(model, Segmenter) else "pictures"
    return f"{len(files) - len(skipped)} {what} → {out}; the first beside their inputs in {out / OVERVIEW}{said}"


def _size(path: Path, spec: Spec) -> tuple[int, int]:
    """Height and width of an image as it is seen."""
    size = size_of(str(path))
    if size is None:
        decode_image(str(path), spec)  # says why
        raise Rejected("not an image")
    return size


def _pixels(path: Path, spec: Spec, size: tuple[int, int]) -> Tensor:
    """An image at some size, [c, h, w] uint8."""
    return torch.from_numpy(decode_image(str(path), spec._replace(size=size)).pixels.copy())


def trained_size(size: tuple[int, int], known: tuple[int, int], data: DataConfig) -> tuple[int, int]:
    """The size at which things in an image are as large as in training: what was cut off or filled up there is kept."""
    if data.resize == "tiles" or (data.size == "own" and max(known) < LARGEST_OWN):
        return size
    if data.resize == "squash":
        return known
    across = [k / s for k, s in zip(known, size, strict=True)]
    factor = max(across) if data.resize == "crop" else min(across)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _endings(info: DataInfo) -> list[str]:
    """Of the pictures of each class's probability."""
    assert info.target is not None
    return ["-p-" + "".join(c if c.isalnum() else "_" for c in name) for name in info.target.classes]


def _made(through: Callable[[Tensor], Tensor], pixels: Tensor, tile: int) -> tuple[Float[Tensor, "k h w"], bool]:
    """What becomes of an image, and whether it went through in tiles."""
    if max(pixels.shape[1:]) <= tile:
        return through(pixels[None])[0].cpu(), False
    sides = (min(tile, pixels.shape[1]), min(tile, pixels.shape[2]))
    return tiled(through, pixels, sides, overlap=OVERLAP, at_once=2).cpu(), True


def _write(
    model: Translator, made: Tensor, pixels: Tensor, place: Path, source: Path, *, overlay: bool, probabilities: bool
) -> None:
    kept = _kept(source, "L" if len(made) == 1 else "RGB")
    if not isinstance(model, Segmenter):
        values = to_uint8(made[None])[0].permute(1, 2, 0).numpy()
        Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(png(place), **kept)
        return
    assert model.info.target is not None
    mask = Image.fromarray(made.argmax(0).to(torch.uint8).numpy())
    mask.putpalette([number for colour_ in model.info.target.colours for number in colour_])
    mask.save(png(place), **{key: value for key, value in kept.items() if key == "dpi"})
    if overlay:
        painted = model.picture(made[None])[0]
        # The first class is what is not marked.
        marked = (made.argmax(0) > 0)[None] * BLEND
        laid = (pixels.float() / 255).expand(3, -1, -1) * (1 - marked) + painted * marked
        Image.fromarray(to_uint8(laid[None])[0].permute(1, 2, 0).numpy()).save(png(place, "-overlay"))
    if probabilities:
        for ending, chance in zip(_endings(model.info), to_uint8(made[None])[0].numpy(), strict=True):
            Image.fromarray(np.ascontiguousarray(chance)).save(png(place, ending))


def _kept(source: Path, mode: str) -> dict[str, Any]:
    """What a file says of its image that holds for what was made of it; the turn that EXIF asks for was made."""
    try:
        with Image.open(source) as opened:
            kept: dict[str, Any] = {"dpi": opened.info["dpi"]} if opened.info.get("dpi") else {}
            if opened.mode == mode and opened.info.get("icc_profile"):
                kept["icc_profile"] = opened.info["icc_profile"]  # it speaks of these channels alone
            exif = opened.getexif()
            if len(exif):
                exif.pop(0x0112, None)
                kept["exif"] = exif.tobytes()
            return kept
    except Exception:  # what cannot be read is not worth an image
        return {}


def _square(image: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 3 128 128"]:
    """An image in a square of the overview, its shape kept."""
    height, width = image.shape[2:]
    scale = 128 / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = interpolate(image.expand(-1, 3, -1, -1), size, mode="bilinear", antialias=True)
    top, left = (128 - size[0]) // 2, (128 - size[1]) // 2
    return pad(small, (left, 128 - size[1] - left, top, 128 - size[0] - top), value=1.0)
