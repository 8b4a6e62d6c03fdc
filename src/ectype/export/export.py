"""A folder with the graphs of a model, a description of their inputs and outputs, and a script that samples images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ectype.core.errors import CheckpointError, ModelError
from ectype.core.safe_loading import path_inside, read_json
from ectype.export import graphs, onnx, openvino
from ectype.models.base import Model, Samples

__all__ = ["Engine", "SCRIPT_FILE", "export", "staged_folder"]

Engine = Literal["onnx", "openvino"]
ENGINES: dict[Engine, tuple[str, Callable[..., onnx.ExportedGraph]]] = {
    "onnx": (".onnx", onnx.export),
    "openvino": (".xml", openvino.export),
}
EXPORT_FILE = "export.json"
SCRIPT_FILE = "sample.py"
SCRATCH_NAME = ".unfinished"
"""Subfolder in which an export is written until it is complete; a killed process leaves it behind."""


@contextmanager
def staged_folder(out: Path, mark: str, earlier: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a directory to fill; on success, move its files into `out`, next to other files that are there.

    If the body raises, `out` stays as it was. Unlike `ectype.core.files.atomic_directory`, this keeps files that a user
    has put into a folder with an earlier export.

    Args:
        out: A folder that is new, empty, or contains an earlier export.
        mark: A file that every export contains, by which an earlier one is recognized.
        earlier: Files of an earlier export, which are removed if they are not written again.

    Raises:
        ModelError: The folder contains something else, or cannot be created or written.
    """
    scratch, earlier = out / SCRATCH_NAME, list(earlier)
    try:
        if out.is_dir() and {file.name for file in out.iterdir()} - {SCRATCH_NAME} and not (out / mark).is_file():
            raise ModelError(f"'{out}' contains other files, and nothing is overwritten: give another --out.")
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            yield scratch
            # The mark is moved first: if the process is killed between two files, the same command can be repeated.
            files = sorted(scratch.iterdir(), key=lambda file: file.name != mark)
            for file in files:
                file.replace(out / file.name)
            for old in earlier:
                if old.name not in {file.name for file in files}:
                    old.unlink(missing_ok=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise ModelError(f"cannot write '{out}' ({error.strerror or error}): give another --out.") from None


def _earlier_files(out: Path) -> Iterator[Path]:
    """Yield the files of an earlier export into a folder."""
    with suppress(CheckpointError, KeyError, TypeError, AttributeError):
        for graph in read_json(out / EXPORT_FILE)["graphs"].values():
            file = path_inside(out, graph["file"])
            yield from (file, file.with_name(f"{file.name}.data"))
            if file.suffix == ".xml":
                yield file.with_suffix(".bin")
        yield out / SCRIPT_FILE
        yield from out.glob("density-*.npz")


def export(model: Model, engine: Engine, out: Path, images: Float[Tensor, "b c h w"], *, preset: str) -> list[str]:
    """Export all graphs of a model, and compare each with the model on real images.

    Args:
        model: The model, in evaluation mode, on the CPU.
        engine: What runs the graphs.
        out: A folder that is new, empty, or contains an earlier export.
        images: At least two held-out images in [0, 1], of the model's size.
        preset: The name of the preset, for the description.

    Returns:
        Lines to print.

    Raises:
        ModelError: A library is missing, the folder contains other files, or a graph cannot be exported or differs
            from the model by more than `graphs.LIMIT`.
    """
    if len(images) < 2:
        raise ModelError(f"{len(images)} held-out images are too few to check an export: raise data.split.test.")
    with staged_folder(out, EXPORT_FILE, _earlier_files(out)) as scratch:
        lines, scripted = _write(model, engine, scratch, images, preset)
    if scripted:
        lines.append(f"to sample without ectype: python {out / SCRIPT_FILE} -n 64 --out samples.png")
    elif isinstance(model, Samples):
        lines.append("no sampler: this model draws random numbers in addition to its input")
    return lines


def _write(
    model: Model, engine: Engine, out: Path, images: Float[Tensor, "b c h w"], preset: str
) -> tuple[list[str], bool]:
    """Write all files of an export. Returns a line per graph, and whether a script for sampling was written."""
    info = model.info
    about = {
        "by": f"ectype {version('ectype')}",
        "preset": preset,
        "input": "float32 NCHW in [0, 1]",
        "channels": str(info.channels),
        "size": "×".join(map(str, info.size)),
        "classes": json.dumps(info.classes, ensure_ascii=False),
    }
    if info.target is not None:
        about["target classes"] = json.dumps(info.target.classes, ensure_ascii=False)
    suffix, write = ENGINES[engine]
    written: dict[str, dict[str, Any]] = {}
    lines = []
    for graph in graphs.graphs_of(model, images):
        exported = write(graph, out / f"{graph.name}{suffix}", about)
        written[graph.name] = {
            "file": exported.file.name,
            "inputs": exported.inputs,
            "outputs": exported.outputs,
            "multiple": exported.multiple,
            "opset": exported.opset,
            "difference": exported.difference,
        }
        lines.append(_line(exported, len(images)))
    sampler = graphs.sampler_of(model)
    if sampler is not None and sampler.graph not in written:
        sampler = None
    description = {
        "by": about["by"],
        "engine": engine,
        "preset": preset,
        "images": {
            "channels": info.channels,
            "size": info.size,
            "range": [0, 1],
            "layout": "NCHW",
            "classes": info.classes,
            "frequencies": info.frequencies,
        },
        "target": None if info.target is None else info.target._asdict(),
        "graphs": written,
        "sampler": None if sampler is None else _sampler(sampler, out),
    }
    (out / EXPORT_FILE).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")
    if sampler is not None:
        (out / SCRIPT_FILE).write_bytes(Path(__file__).with_name("standalone.py").read_bytes())
    return lines, sampler is not None


def _line(exported: onnx.ExportedGraph, n: int) -> str:
    texts = {None: "", 1: ", any height and width"}
    sizes = texts.get(exported.multiple, f", height and width any multiples of {exported.multiple}")
    difference = f"within {exported.difference:.1e} of the model on {n} held-out images"
    return f"{exported.file}: any number of images{sizes}; {difference}"


def _sampler(sampler: graphs.Sampler, out: Path) -> dict[str, Any]:
    """Save the densities that the script can sample, and return the description of the sampler."""
    stored = [name for name, density in sampler.densities.items() if _is_gaussian_mixture(density.state_dict())]
    for name in stored:
        np.savez(out / f"density-{name}.npz", **{k: v.numpy() for k, v in sampler.densities[name].state_dict().items()})
    return {
        "graph": sampler.graph,
        "latent": sampler.latent,
        "density": sampler.density if sampler.density in stored else "normal",
        "densities": ["normal", *stored],
        "labels": sampler.labels,
    }


def _is_gaussian_mixture(state: dict[str, Tensor]) -> bool:
    """Return whether the script can sample a density with these tensors."""
    return set(state) == {"weights", "means", "factors", "diagonals"}
