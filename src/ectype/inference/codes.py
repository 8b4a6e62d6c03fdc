"""Write the codes of images, and turn codes into images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ectype.core.errors import DataError
from ectype.data.codes import read_codes, write_codes
from ectype.data.loader import Loader, evaluation_batches
from ectype.data.preview import check_file_writable
from ectype.inference.image_io import (
    MAX_CODES_PER_BATCH,
    InferenceResult,
    open_images,
    output_paths,
    png,
    require_capability,
    save_png,
)
from ectype.models.base import Encodes, evaluating
from ectype.runs.load import load, open_data, recipe_of
from ectype.runs.locate import locate_run

__all__ = ["CodeTable", "decode", "encode"]


class CodeTable(NamedTuple):
    """The codes of images."""

    paths: list[str]
    labels: list[str | None]
    """Class names; None if there are no classes."""
    splits: list[str]
    """`train`, `val` or `test`."""
    codes: np.ndarray
    """[n, ...] float32."""


def encode(run: Path, source: str, out: Path | None, *, device: str = "auto") -> tuple[CodeTable, str]:
    """Encode every image of a source.

    Args:
        run: A run whose model encodes.
        source: Any source of images that training accepts.
        out: A file to write: `.parquet` (columns path, label, split, code; the code's shape in the metadata), `.npz`
            (the same), or `.csv` (path, label, split, and a column for each dimension: z0, z1, …). None writes nothing.
        device: See `choose_device`.

    Returns:
        The codes, and the line that a command prints.

    Raises:
        ModelError: The model cannot encode.
        DataError: The images cannot be used, the suffix is another one, or `out` cannot be written.
    """
    if out is not None:
        check_file_writable(out, ".parquet", ".csv", ".npz")
    at = locate_run(run)
    model = load(at, device=device)
    capable = require_capability(model, Encodes, run, "encode")
    recipe, info = recipe_of(at), model.info
    config = open_images(at, source, info)
    prepared, store = open_data(config)
    here = next(model.parameters()).device
    paths: list[str] = []
    labels: list[str | None] = []
    splits: list[str] = []
    codes: list[Tensor] = []
    with evaluating(model):
        for name, part in store.splits():
            loader = Loader(part, config, here, training=False, seed=recipe.train.seed)
            for batch, _ in loader.batches(*evaluation_batches(info, recipe.train.seed, here)):
                codes.append(capable.encode(batch.image).float().cpu())
            paths += list(part.names)
            splits += [name] * len(part)
            known = part.labels
            labels += [None] * len(part) if known is None else [store.info.classes[int(k)] for k in known]
    code = torch.cat(codes)
    if out is not None:
        write_codes(out, paths, labels, splits, code)
    shape = "×".join(map(str, code.shape[1:]))
    summary = f"{len(code):,} codes of {shape} values{f' → {out}' if out is not None else ''}{prepared.rejects_note}"
    return CodeTable(paths, labels, splits, code.numpy()), summary


def decode(run: Path, codes: Path, out: Path, *, device: str = "auto") -> InferenceResult:
    """Turn a file of codes into images.

    Args:
        run: A run whose model decodes.
        codes: A file as `encode` writes it; only the column `code` is needed.
        out: A directory.
        device: See `choose_device`.

    Raises:
        ModelError: The model cannot decode.
        DataError: The file holds no codes, codes of another size, or two of one path; or `out` cannot be written.
    """
    paths, flat = read_codes(codes)
    places = output_paths([(name, codes, True) for name in paths], out, overview=False)
    model = load(run, device=device)
    capable = require_capability(model, Encodes, run, "decode")
    shape = capable.code_shape
    if flat[:1].size != (len(flat) > 0) * int(np.prod(shape)):
        raise DataError(
            f"'{codes}' holds codes of {flat[:1].size} values, the model of '{run}' has {int(np.prod(shape))}: "
            "encode with the same run."
        )
    here = next(model.parameters()).device
    with evaluating(model):
        for at in range(0, len(flat), MAX_CODES_PER_BATCH):
            code = torch.from_numpy(np.ascontiguousarray(flat[at : at + MAX_CODES_PER_BATCH], np.float32)).to(here)
            for path, image in zip(paths[at:], capable.decode(code.view(-1, *shape)), strict=False):
                save_png(image, png(places[path]))
    return InferenceResult(f"{len(flat):,} images → {out}", out)
