"""Using a trained model from Python. Each function takes a run or its path, as the command of its name does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ectype.api.images import ImageBatch
from ectype.core.console import ActivityConsole
from ectype.core.errors import DataError
from ectype.core.table import Table
from ectype.inference import anomaly, codes
from ectype.inference import nearest as neighbors
from ectype.inference import reconstruct as reconstruction
from ectype.inference import sample as sampling
from ectype.inference import translate as translation
from ectype.inference.codes import CodeTable
from ectype.inference.image_io import require_capability
from ectype.models.base import Encodes, Model, Reconstructs, Translates
from ectype.runs.load import load

__all__ = ["AnyRun", "decode", "encode", "nearest", "path_of", "reconstruct", "sample", "score", "translate", "walk"]


@runtime_checkable
class HasPath(Protocol):
    """A `Run`."""

    @property
    def path(self) -> Path:
        """The run's directory."""
        ...

    @property
    def model(self) -> Model:
        """The run's model, loaded once."""
        ...


AnyRun = str | Path | HasPath
Images = str | Path | Sequence[str | Path]


def path_of(run: AnyRun) -> Path:
    """Return the path of a run, given one, its path, or a name on the Hub."""
    return Path(run) if isinstance(run, str | Path) else run.path


def _files(images: Images) -> list[str]:
    files = [images] if isinstance(images, str | Path) else list(images)
    if kinds := {type(file).__name__ for file in files if not isinstance(file, str | Path)}:
        raise DataError(f"images are given as {kinds.pop()}: this function takes image files and folders.")
    return [str(file) for file in files]


def sample(
    run: AnyRun,
    n: int = 16,
    *,
    seed: int = 0,
    density: str | None = None,
    label: str | int | None = None,
    truncation: float | None = None,
    steps: int | None = None,
    solver: Literal["euler", "heun"] | None = None,
    guidance: float | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> ImageBatch:
    """Generate images.

    Args:
        run: A run, its path, or `user/name` on the Hub.
        n: Number of images.
        seed: Seed of the draws.
        density: The density of an autoencoder's codes: `normal`, `gaussian`, `gmm`, or `flow`, which is trained when it
            is first used. The model's own if not given.
        label: A class name or index, several separated by commas, or `all`; for a conditional model.
        truncation: Noise beyond ± this value is drawn again.
        steps: Steps of a flow.
        solver: Solver of a flow.
        guidance: Guidance scale of a flow with classes.
        out: A picture to write as well.
        device: `cpu`, `cuda`, `mps` or `auto`.
        progress: Whether to print progress if a density must be trained first.

    Returns:
        [n, c, h, w] in [0, 1].

    Raises:
        ModelError: The model cannot sample, or there is no such density or class.
    """
    found = sampling.sample(
        path_of(run),
        None if out is None else Path(out),
        n=n,
        seed=seed,
        density=density,
        label=None if label is None else str(label),
        truncation=truncation,
        way=sampling.SamplingOptions(steps, solver, guidance),
        device=device,
        console=ActivityConsole() if progress else None,
    )
    assert found.images is not None
    return ImageBatch(found.images)


def walk(run: AnyRun, out: str | Path, *, frames: int = 120, n: int = 16, **options: Any) -> Path:
    """Write a film of walks through the latent space.

    Args:
        run: See `sample`.
        out: .mp4 (the extra `video`), .webp, .gif or .png.
        frames: Number of frames; 24 are a second.
        n: Number of walks side by side.
        options: `seed`, `density`, `label`, `truncation` and `device`, as for `sample`.

    Returns:
        The file.
    """
    sampling.walk(path_of(run), Path(out), frames=frames, n=n, **options)
    return Path(out)


def reconstruct(
    run: AnyRun,
    images: Images | Tensor | np.ndarray,
    out: str | Path = "reconstructions",
    *,
    draws: int = 0,
    resize: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> ImageBatch | Path:
    """Encode and decode images.

    Args:
        run: See `sample`.
        images: Images [n, c, h, w] in [0, 1]; or files and folders.
        out: For files: a directory; outputs keep the names of their inputs, as PNG.
        draws: For files: posterior draws per image, for a variational model.
        resize: For files: resize large images instead of processing them in tiles.
        seed: Seed of the draws.
        device: See `sample`.

    Returns:
        The reconstructions; for files, the directory.
    """
    if isinstance(images, Tensor | np.ndarray):
        model = _model(run, device)
        capable = require_capability(model, Reconstructs, path_of(run), "reconstruct")
        with torch.no_grad():
            return ImageBatch(capable.reconstruct(_tensor(images, model)))
    reconstruction.reconstruct(
        path_of(run), _files(images), Path(out), draws=draws, resize=resize, seed=seed, device=device
    )
    return Path(out)


def translate(
    run: AnyRun,
    images: Images | Tensor | np.ndarray,
    out: str | Path = "translated",
    *,
    device: str = "auto",
    **options: Any,
) -> Tensor | Path:
    """Predict masks, translated images or restored images.

    Args:
        run: See `sample`.
        images: Images [n, c, h, w] in [0, 1]; or files and folders.
        out: For files: a directory; outputs keep the names and sizes of their inputs.
        device: See `sample`.
        options: For files: `overlay`, `probabilities`, `flips`, `scale` and `tile`; see `ectype translate --help`.

    Returns:
        For tensors: images, or class probabilities [n, classes, h, w]; for files, the directory.
    """
    if isinstance(images, Tensor | np.ndarray):
        model = _model(run, device)
        capable = require_capability(model, Translates, path_of(run), "translate")
        with torch.no_grad():
            return capable.translate(_tensor(images, model)).cpu()
    translation.translate(path_of(run), _files(images), Path(out), device=device, **options)
    return Path(out)


def score(
    run: AnyRun,
    images: Images,
    *,
    beside: str | Path | None = None,
    out: str | Path | None = None,
    maps: str | Path | None = None,
    device: str = "auto",
) -> Table:
    """Measure how odd images are: how badly the model reconstructs them, compared with held-out images.

    Args:
        run: See `sample`.
        images: Image files, or folders of them.
        beside: Normal images to compare with instead of the run's held-out ones.
        out: A .csv file to write as well.
        maps: A directory for a heat map of the errors of each image.
        device: See `sample`.

    Returns:
        image, error, error_share, peak, peak_share; the oddest image first. The shares are the fractions of held-out
        images that score at least as high, so a small share means an odd image.
    """
    found = anomaly.score(
        path_of(run),
        _files(images),
        None if out is None else Path(out),
        maps=None if maps is None else Path(maps),
        beside=None if beside is None else str(beside),
        device=device,
    )
    assert found.table is not None
    return found.table


def nearest(
    run: AnyRun, images: Images, source: str | Path, *, k: int = 8, out: str | Path | None = None, device: str = "auto"
) -> Table:
    """Find the images of a source whose codes are nearest to those of given images.

    Args:
        run: See `sample`.
        images: Image files, or folders of them.
        source: The images to search.
        k: Number of neighbors of each image.
        out: A picture to write as well, and the table next to it.
        device: See `sample`.

    Returns:
        image, rank, neighbor, class (None without labels), distance; the nearest first. An image with exactly the same
        pixels is left out.
    """
    found = neighbors.nearest(
        path_of(run), _files(images), str(source), None if out is None else Path(out), k=k, device=device
    )
    assert found.table is not None
    return found.table


def encode(
    run: AnyRun, images: str | Path | Tensor | np.ndarray, *, out: str | Path | None = None, device: str = "auto"
) -> Tensor | CodeTable:
    """Encode images.

    Args:
        run: See `sample`.
        images: Images [n, c, h, w] in [0, 1]; or any source of images that training accepts.
        out: For a source: a .parquet, .csv or .npz file to write as well.
        device: See `sample`.

    Returns:
        The codes [n, ...]; for a source, with paths, labels and splits.
    """
    if isinstance(images, Tensor | np.ndarray):
        model = _model(run, device)
        capable = require_capability(model, Encodes, path_of(run), "encode")
        with torch.no_grad():
            return capable.encode(_tensor(images, model)).cpu()
    return codes.encode(path_of(run), str(images), None if out is None else Path(out), device=device)[0]


def decode(
    run: AnyRun, code: Tensor | np.ndarray | str | Path, out: str | Path = "decoded", *, device: str = "auto"
) -> ImageBatch | Path:
    """Turn codes into images.

    Args:
        run: See `sample`.
        code: Codes [n, ...]; or a file that `encode` wrote.
        out: For a file: a directory.
        device: See `sample`.

    Returns:
        The images; for a file, the directory.
    """
    if isinstance(code, Tensor | np.ndarray):
        model = _model(run, device)
        capable = require_capability(model, Encodes, path_of(run), "decode")
        here = next(model.parameters()).device
        with torch.no_grad():
            return ImageBatch(capable.decode(torch.as_tensor(code, dtype=torch.float32).to(here)))
    codes.decode(path_of(run), Path(code), Path(out), device=device)
    return Path(out)


def _model(run: AnyRun, device: str) -> Any:
    if not isinstance(run, str | Path) and device == "auto":
        return run.model
    return load(path_of(run), device=device)


def _tensor(images: Tensor | np.ndarray, model: Any) -> Tensor:
    return torch.as_tensor(np.asarray(images)).to(next(model.parameters()).device)
