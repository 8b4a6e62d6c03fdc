"""Encode and decode images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ectype.core.errors import DataError, ModelError
from ectype.core.images import to_uint8
from ectype.core.tiling import apply_in_tiles
from ectype.data.loader import evaluation_batches
from ectype.data.preview import save_grid
from ectype.inference.image_io import (
    OVERVIEW,
    InferenceResult,
    at_model_size,
    decode_spec,
    exceeds_model_size,
    list_images,
    output_paths,
    png,
    read_images,
    rejected_note,
    require_capability,
    save_png,
)
from ectype.models.base import Reconstructs, SamplesPosterior, evaluating
from ectype.runs.load import load, recipe_of

__all__ = ["reconstruct"]


def reconstruct(
    run: Path,
    images: Sequence[str],
    out: Path,
    *,
    draws: int = 0,
    overlap: float = 0.25,
    resize: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> InferenceResult:
    """Write the reconstructions of images, and a picture of inputs next to outputs.

    An image that is larger than the model's size keeps its own size: it is processed in tiles that are blended where
    they overlap. Other images are brought to the model's size, as in training.

    Args:
        run: A run whose model reconstructs.
        images: Image files, or folders of them.
        out: A directory; files keep their names, as PNG.
        draws: Number of draws of q(z|x) for each image; 0 for the reconstruction from its mean.
        overlap: Minimum overlap of two tiles as a fraction of their side, in [0, 1).
        resize: Whether to resize larger images to the model's size.
        seed: Seed of the draws.
        device: See `choose_device`.

    Raises:
        ModelError: The model cannot reconstruct, has no posterior to draw from, or draws are asked for an image in
            tiles.
        DataError: An image is missing or broken, or `out` cannot be written.
    """
    files = list_images(images)
    places = output_paths(files, out, [f"-{k + 1}" for k in range(draws)] or [""])
    model = load(run, device=device)
    capable = require_capability(model, Reconstructs, run, "reconstruct")
    if draws and not isinstance(model, SamplesPosterior):
        raise ModelError(f"the model of '{run}' has no q(z|x) to draw from: leave --draws out, or train a vae.")
    info, spec = model.info, decode_spec(model.info, recipe_of(run))
    size = f"{info.size[1]}×{info.size[0]}"
    if draws and not resize and (large := next((path for _, path, _ in files if exceeds_model_size(path, spec)), None)):
        raise ModelError(
            f"'{large}' is larger than the model's {size}, and the draws of its tiles would not match: "
            "add --resize, or leave --draws out."
        )
    here = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    shown: list[Tensor] = []
    skipped: list[str] = []
    batch_size, in_tiles = evaluation_batches(info, 0, here)[0], 0

    def reconstruct_pixels(pixels: Tensor) -> Tensor:
        return capable.reconstruct(pixels.to(here).float() / 255)

    with evaluating(model):
        for names, pixels in read_images(files, spec, skipped, batch_size=batch_size, resize=resize):
            if pixels.shape[2:] != info.size:
                back = apply_in_tiles(reconstruct_pixels, pixels[0], info.size, overlap=overlap, batch_size=batch_size)[
                    None, None
                ]
                in_tiles += 1
            elif draws and isinstance(model, SamplesPosterior):
                back = model.sample_posterior(pixels.to(here).float() / 255, draws, generator=generator)
            else:
                back = reconstruct_pixels(pixels)[None]
            for place, name in enumerate(names):
                for k in range(len(back)):
                    save_png(back[k, place], png(places[name], f"-{k + 1}" if draws else ""))
                if len(shown) < 32:
                    shown.append(torch.stack([at_model_size(each, spec) for each in (pixels[place], *back[:, place])]))
    note = f"; {in_tiles} larger than {size}, in tiles" if in_tiles else ""
    note += rejected_note(skipped)
    if not shown:
        raise DataError(f"no image in {', '.join(images)} can be used{note}: name others.")
    save_grid(to_uint8(torch.cat(shown)), out / OVERVIEW, columns=len(shown[0]) * (1 if draws else 4))
    what = f"{draws} draws of each" if draws else "reconstructions"
    done = len(files) - len(skipped)
    return InferenceResult(
        f"{done} images, {what} → {out}; the first next to their inputs in {out / OVERVIEW}{note}", out
    )
