"""A folder with a model's graphs, what they take and give, and a script that samples with them."""

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

from ectype.errors import CheckpointError, ModelError
from ectype.models.base import Model, Samples
from ectype.share import graphs, onnx, openvino
from ectype.untrusted import inside, read_json

__all__ = ["Engine", "SCRIPT", "export", "filled"]

Engine = Literal["onnx", "openvino"]
ENGINES: dict[Engine, tuple[str, Callable[..., onnx.Exported]]] = {
    "onnx": (".onnx", onnx.export),
    "openvino": (".xml", openvino.export),
}
SAID = "export.json"
SCRIPT = "sample.py"
UNFINISHED = ".unfinished"
"""Where in its folder an export lies until it is whole; one that was killed leaves it behind."""


@contextmanager
def filled(out: Path, mark: str, earlier: Iterable[Path] = ()) -> Iterator[Path]:
    """A folder to fill, whose files come into another when all of them are there, and not at all if anything fails.

    Args:
        out: The other: a new one, an empty one, or one that holds an earlier export.
        mark: A file that every export has.
        earlier: Files of an earlier export, which go.

    Raises:
        ModelError: It holds something else, or cannot be made or written to.
    """
    scratch, earlier = out / UNFINISHED, list(earlier)
    try:
        if out.is_dir() and {file.name for file in out.iterdir()} - {UNFINISHED} and not (out / mark).is_file():
            raise ModelError(f"'{out}' holds other files, and nothing is written over: give another --out.")
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            yield scratch
            # The mark goes first: killed between two files, the same command finds a folder that it may write to.
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


def _earlier(out: Path) -> Iterator[Path]:
    """Files that an export into a folder has left there."""
    with suppress(CheckpointError, KeyError, TypeError, AttributeError):
        for graph in read_json(out / SAID)["graphs"].values():
            file = inside(out, graph["file"])
            yield from (file, file.with_name(f"{file.name}.data"))
            if file.suffix == ".xml":
                yield file.with_suffix(".bin")
        yield out / SCRIPT
        yield from out.glob("density-*.npz")


def export(model: Model, engine: Engine, out: Path, images: Float[Tensor, "b c h w"], *, preset: str) -> list[str]:
    """Export all graphs of a model, each held against it on real images.

    Args:
        model: In evaluation mode, on the CPU.
        engine: What runs the graphs.
        out: A folder.
        images: Held-out ones in [0, 1], of the model's size; two or more.
        preset: Its name, for the files.

    Returns:
        Lines to print.

    Raises:
        ModelError: A library is missing, the folder holds something else, or a graph cannot be exported or differs
            from the model by more than `graphs.LIMIT`.
    """
    if len(images) < 2:
        raise ModelError(f"{len(images)} held-out images are too few to try an export on: raise data.split.test.")
    with filled(out, SAID, _earlier(out)) as scratch:
        lines, scripted = _write(model, engine, scratch, images, preset)
    if scripted:
        lines.append(f"samples without ectype: python {out / SCRIPT} -n 64 --out samples.png")
    elif isinstance(model, Samples):
        lines.append("no sampler: chance enters this model otherwise than by one draw at its start")
    return lines


def _write(
    model: Model, engine: Engine, out: Path, images: Float[Tensor, "b c h w"], preset: str
) -> tuple[list[str], bool]:
    """Write all files of an export; a line for each graph, and whether a script to sample with is among them."""
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
    found: dict[str, dict[str, Any]] = {}
    lines = []
    for graph in graphs.graphs_of(model, images):
        made = write(graph, out / f"{graph.name}{suffix}", about)
        found[graph.name] = {
            "file": made.file.name,
            "inputs": made.inputs,
            "outputs": made.outputs,
            "multiple": made.multiple,
            "opset": made.opset,
            "difference": made.difference,
        }
        lines.append(_line(made, len(images)))
    sampler = graphs.sampler_of(model)
    if sampler is not None and sampler.graph not in found:
        sampler = None
    said = {
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
        "graphs": found,
        "sampler": None if sampler is None else _sampler(sampler, out),
    }
    (out / SAID).write_text(json.dumps(said, indent=1, ensure_ascii=False), encoding="utf-8")
    if sampler is not None:
        (out / SCRIPT).write_bytes(Path(__file__).with_name("standalone.py").read_bytes())
    return lines, sampler is not None


def _line(made: onnx.Exported, n: int) -> str:
    words = {None: "", 1: ", height and width of any length"}
    free = words.get(made.multiple, f", height and width any multiples of {made.multiple}")
    return f"{made.file}: any number of images{free}; within {made.difference:.1e} of the model on {n} held-out images"


def _sampler(sampler: graphs.Sampler, out: Path) -> dict[str, Any]:
    stored = [name for name, density in sampler.densities.items() if _mixture(density.state_dict())]
    for name in stored:
        np.savez(out / f"density-{name}.npz", **{k: v.numpy() for k, v in sampler.densities[name].state_dict().items()})
    return {
        "graph": sampler.graph,
        "latent": sampler.latent,
        "density": sampler.density if sampler.density in stored else "normal",
        "densities": ["normal", *stored],
        "labels": sampler.labels,
    }


def _mixture(state: dict[str, Tensor]) -> bool:
    """Whether the script knows how to draw from it."""
    return set(state) == {"weights", "means", "factors", "diagonals"}
