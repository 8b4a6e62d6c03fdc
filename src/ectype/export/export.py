"""A folder with the graphs of a model, a description of their inputs and outputs, and a script that samples images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ectype.config.schema import DataConfig
from ectype.core.errors import ModelError
from ectype.core.outputs import ForeignFileError, check_output_folder, output_folder
from ectype.export import graphs, onnx, openvino
from ectype.export.preprocessing import preprocessing_of
from ectype.models.base import Model, Reconstructs, Samples
from ectype.models.densities import Density

__all__ = ["Engine", "SCRIPT_FILE", "check_folder", "export", "staged_folder"]

Engine = Literal["onnx", "openvino"]
ENGINES: dict[Engine, tuple[str, Callable[..., onnx.ExportedGraph]]] = {
    "onnx": (".onnx", onnx.export),
    "openvino": (".xml", openvino.export),
}
EXPORT_FILE = "export.json"
SCRIPT_FILE = "sample.py"
APPLY_FILE = "apply.py"
APPLIED_GRAPHS = frozenset({"score", "encode", "reconstruct", "translate"})
"""Graphs that `apply.py` runs on image files."""
SCORE_SHARES = (0.05, 0.01)
"""Shares of held-out images that exceed the thresholds of the scores."""


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


def export(
    model: Model,
    engine: Engine,
    out: Path,
    images: Float[Tensor, "b c h w"],
    *,
    preset: str,
    preprocessing: Mapping[str, Any] | None = None,
    scores: Float[Tensor, "n 2"] | None = None,
) -> list[str]:
    """Export all graphs of a model, and compare each with the model on real images.

    Args:
        model: The model, in evaluation mode, on the CPU.
        engine: What runs the graphs.
        out: A folder that is new, empty, or contains an earlier export.
        images: At least two held-out images in [0, 1], of the model's size.
        preset: The name of the preset, for the description.
        preprocessing: As `preprocessing_of` returns it; None for what follows from the model alone.
        scores: Mean and peak errors of held-out images, as `held_out_scores` returns them; None exports no scores.

    Returns:
        Lines to print.

    Raises:
        ModelError: A library is missing, the folder contains other files, or a graph cannot be exported or differs
            from the model by more than `graphs.LIMIT`.
    """
    if len(images) < 2:
        raise ModelError(f"{len(images)} held-out images are too few to check an export: raise data.split.test.")
    with staged_folder(out) as scratch:
        description = _write(model, engine, scratch, images, preset, preprocessing, scores)
    lines = [_line(out / graph["file"], graph, len(images)) for graph in description["graphs"].values()]
    if description["score"] is not None:
        lines.append(f"odd images: {_thresholds_text(description['score'])}")
    if set(description["graphs"]) & APPLIED_GRAPHS:
        lines.append(f"to use it without ectype: python {out / APPLY_FILE} --help")
    if description["sampler"] is not None:
        lines.append(f"to sample without ectype: python {out / SCRIPT_FILE} -n 64 --out samples.png")
    elif isinstance(model, Samples):
        lines.append("no sampler: this model draws random numbers in addition to its input")
    return lines


def _write(
    model: Model,
    engine: Engine,
    out: Path,
    images: Float[Tensor, "b c h w"],
    preset: str,
    preprocessing: Mapping[str, Any] | None,
    scores: Float[Tensor, "n 2"] | None,
) -> dict[str, Any]:
    """Write all files of an export, and return the content of `export.json`."""
    info = model.info
    preprocessing = preprocessing or preprocessing_of(info, DataConfig(source=""))
    score = None if scores is None or not isinstance(model, Reconstructs) else _score(scores)
    sampler = graphs.sampler_of(model)
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
    about["preprocessing"] = json.dumps(preprocessing, ensure_ascii=False)
    if score is not None:
        about["score"] = json.dumps({key: value for key, value in score.items() if key != "reference"})
    if sampler is not None:
        about["sampler"] = json.dumps(_describe_sampler(sampler))
    suffix, write = ENGINES[engine]
    written: dict[str, dict[str, Any]] = {}
    for graph in graphs.graphs_of(model, images, **({} if score is None else {"scores": True})):
        exported = write(graph, out / f"{graph.name}{suffix}", about)
        written[graph.name] = {
            "file": exported.file.name,
            "inputs": exported.inputs,
            "outputs": exported.outputs,
            "multiple": exported.multiple,
            "opset": exported.opset,
            "difference": exported.difference,
        }
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
        "preprocessing": preprocessing,
        "graphs": written,
        "score": score,
        "sampler": None if sampler is None else _describe_sampler(sampler),
    }
    (out / EXPORT_FILE).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")
    if sampler is not None:
        (out / SCRIPT_FILE).write_bytes(Path(__file__).with_name("standalone.py").read_bytes())
        for name, density in _mixtures(sampler).items():
            np.savez(out / f"density-{name}.npz", **{key: value.numpy() for key, value in density.state_dict().items()})
    if set(written) & APPLIED_GRAPHS:
        (out / APPLY_FILE).write_bytes(Path(__file__).with_name("standalone_apply.py").read_bytes())
    return description


def _line(file: Path, graph: Mapping[str, Any], n: int) -> str:
    texts = {None: "", 1: ", any height and width"}
    sizes = texts.get(graph["multiple"], f", height and width any multiples of {graph['multiple']}")
    difference = f"within {graph['difference']:.1e} of the model on {n} held-out images"
    return f"{file}: any number of images{sizes}; {difference}"


def _score(scores: Float[Tensor, "n 2"]) -> dict[str, Any]:
    """Return what the output of the graph of scores means, and the scores of held-out images."""
    ordered = scores.double().sort(0).values
    thresholds = []
    for share in SCORE_SHARES:
        # The smallest value that at most this share of normal images reaches (conformal, as in `ectype score`).
        place = math.ceil((len(ordered) + 1) * (1 - share)) - 1
        if place < len(ordered):
            error, peak = ordered[place].tolist()
            thresholds.append({"share": share, "error": error, "peak": peak})
    names = ("error", "peak")
    reference = {name: [float(f"{value:.6g}") for value in ordered[:, k].tolist()] for k, name in enumerate(names)}
    return {"graph": "score", "columns": list(names), "thresholds": thresholds, "reference": reference}


def _thresholds_text(score: Mapping[str, Any]) -> str:
    n = len(score["reference"]["error"])
    if not score["thresholds"]:
        return f"{n} held-out images are too few for a threshold; score.onnx returns the error and its peak"
    each = (
        f"{t['share']:.0%} of {n} held-out images have an error above {t['error']:.3g}, or a peak above {t['peak']:.3g}"
        for t in score["thresholds"]
    )
    return "; ".join(each)


def _mixtures(sampler: graphs.Sampler) -> dict[str, Density]:
    return {name: density for name, density in sampler.densities.items() if graphs.is_gaussian_mixture(density)}


def _describe_sampler(sampler: graphs.Sampler) -> dict[str, Any]:
    """Return how images are sampled, as JSON can store it."""
    stored = _mixtures(sampler)
    mixture = sampler.mixture
    return {
        "graph": sampler.graph,
        "latent": sampler.latent,
        "density": sampler.density if sampler.density in stored else "normal",
        "densities": ["normal", *stored],
        "labels": sampler.labels,
        # Of the graph `sample` with the density in it: standard normal noise, and a component drawn with these weights.
        "component_weights": None if mixture is None else mixture.state_dict()["weights"].tolist(),
    }
