"""A folder with the graphs of a model, a description of their inputs and outputs, and a script that samples images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ectype.core.errors import ModelError
from ectype.core.outputs import ForeignFileError, check_output_folder, output_folder
from ectype.export import graphs, onnx, openvino
from ectype.models.base import Model, Samples

__all__ = ["Engine", "SCRIPT_FILE", "check_folder", "export", "staged_folder"]

Engine = Literal["onnx", "openvino"]
ENGINES: dict[Engine, tuple[str, Callable[..., onnx.ExportedGraph]]] = {
    "onnx": (".onnx", onnx.export),
    "openvino": (".xml", openvino.export),
}
EXPORT_FILE = "export.json"
SCRIPT_FILE = "sample.py"


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Yield a directory to fill; on success, its files are moved into `out`. See `output_folder`.

    Raises:
        ModelError: The folder contains other files, or cannot be created or written.
    """
    with _one_line(out), output_folder(out) as scratch:
        yield scratch


def check_folder(out: Path) -> None:
    """Check a folder before the work whose results it will hold.

    Raises:
        ModelError: It contains other files.
    """
    with _one_line(out):
        check_output_folder(out)


@contextmanager
def _one_line(out: Path) -> Iterator[None]:
    try:
        yield
    except ForeignFileError as error:
        place = error.filename or out
        raise ModelError(
            f"'{place}' is not overwritten: {error.strerror}; give another --out, or move it away."
        ) from None
    except OSError as error:
        raise ModelError(f"cannot write '{out}' ({error.strerror or error}): give another --out.") from None


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
    with staged_folder(out) as scratch:
        lines, scripted = _write(model, engine, scratch, out, images, preset)
    if scripted:
        lines.append(f"to sample without ectype: python {out / SCRIPT_FILE} -n 64 --out samples.png")
    elif isinstance(model, Samples):
        lines.append("no sampler: this model draws random numbers in addition to its input")
    return lines


def _write(
    model: Model, engine: Engine, scratch: Path, out: Path, images: Float[Tensor, "b c h w"], preset: str
) -> tuple[list[str], bool]:
    """Write all files of an export into `scratch`.

    Returns:
        A line for each graph, which names the file in `out`, and whether a script for sampling was written.
    """
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
        exported = write(graph, scratch / f"{graph.name}{suffix}", about)
        written[graph.name] = {
            "file": exported.file.name,
            "inputs": exported.inputs,
            "outputs": exported.outputs,
            "multiple": exported.multiple,
            "opset": exported.opset,
            "difference": exported.difference,
        }
        lines.append(_line(exported, out / exported.file.name, len(images)))
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
        "sampler": None if sampler is None else _sampler(sampler, scratch),
    }
    (scratch / EXPORT_FILE).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")
    if sampler is not None:
        (scratch / SCRIPT_FILE).write_bytes(Path(__file__).with_name("standalone.py").read_bytes())
    return lines, sampler is not None


def _line(exported: onnx.ExportedGraph, file: Path, n: int) -> str:
    texts = {None: "", 1: ", any height and width"}
    sizes = texts.get(exported.multiple, f", height and width any multiples of {exported.multiple}")
    difference = f"within {exported.difference:.1e} of the model on {n} held-out images"
    return f"{file}: any number of images{sizes}; {difference}"


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
