"""Graphs as ONNX: exported by torch's dynamo exporter, and held against the model by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ectype.errors import ModelError
from ectype.extras import needed
from ectype.models.base import evaluating
from ectype.share.graphs import LIMIT, Graph, Taken, compared, difference

__all__ = ["Exported", "export", "runner", "session"]

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""What the sides of an image may have to be multiples of."""


@dataclass
class Exported:
    """A graph in a file."""

    file: Path
    difference: float
    """Largest, from the model, on held-out images and on other sizes."""
    multiple: int | None
    """What height and width must be multiples of; None where they are fixed."""
    opset: int
    inputs: dict[str, list[int | str]]
    """Shape of each: numbers, and names where any length will do."""
    outputs: dict[str, list[int | str]]


def export(graph: Graph, file: Path, about: dict[str, str]) -> Exported:
    """Write a graph, with any number of images and, where the network allows it, any height and width.

    Args:
        graph: What to write.
        file: Its place, `.onnx`.
        about: What the file says of itself, its metadata.

    Raises:
        ModelError: A library is missing, torch cannot export it, or it differs from the model by more than `LIMIT`.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        needed(module, "onnx", "ONNX")
    if graph.spatial and (free := _free(graph)) is not None:
        program, run, multiple, apart = free
    else:
        program, multiple, apart = _exported(graph, graph.inputs, {}), None, 0.0
        run = runner(session(program.model_proto.SerializeToString()))
    apart = max(apart, compared(graph, run))
    opset = next(each.version for each in program.model_proto.opset_import if not each.domain)
    said = about | {
        "graph": graph.name,
        "opset": str(opset),
        "multiple": "fixed" if multiple is None else str(multiple),
    }
    program.model.metadata_props.update({f"ectype.{key}": value for key, value in said.items()})
    try:
        program.save(file)
    except OSError as error:
        raise ModelError(f"cannot write '{file}' ({error.strerror or error}): give another --out.") from None
    inputs, outputs = _shapes(program.model_proto.graph.input), _shapes(program.model_proto.graph.output)
    return Exported(file, apart, multiple, opset, inputs, outputs)


def _shapes(values: Any) -> dict[str, list[int | str]]:
    """Shape of each value; lengths that depend on the inputs' carry a formula."""
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values
    }


def session(model: bytes | Path) -> Any:
    """ONNX Runtime's session on the CPU for a file, or for its content."""
    runtime = needed("onnxruntime", "onnx", "ONNX")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # sizes are tried that may not fit
    # Threads that spin while they wait would slow torch's, whose turn is next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def runner(opened: Any) -> Callable[[dict[str, Tensor]], Tensor]:
    """Calls a session with tensors by name."""

    def run(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(opened.run(None, {name: value.numpy() for name, value in inputs.items()})[0])

    return run


def _exported(graph: Graph, inputs: dict[str, Tensor], more: dict[int, str]) -> Any:
    """Torch's program of a graph; `more` are axes of the first input that may be of any length too."""
    free = torch.export.Dim.DYNAMIC
    first = next(iter(inputs))
    axes = {name: dict.fromkeys(graph.axes.get(name, {}), free) for name in inputs}
    axes[first] |= dict.fromkeys(more, free)
    # Inputs of one image would be taken for a constant.
    given = {
        name: torch.cat([value] * 2) if len(value) == 1 and 0 in axes[name] else value for name, value in inputs.items()
    }
    try:
        with evaluating(graph.module), _quiet():
            program = torch.onnx.export(
                Taken(graph.module, graph.module),
                tuple(given.values()),
                dynamo=True,
                dynamic_shapes=(tuple(axes.values()),),
                input_names=list(inputs),
                output_names=[graph.output],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        causes = [str(each) for each in (error.__cause__, error) if each is not None]
        reason = " ".join(causes[0].split())[:160]
        raise ModelError(f"torch cannot export the graph '{graph.name}' ({reason}); export --to safetensors.") from None
    assert program is not None
    for name, axis, word in _names(graph, program, more):
        _rename(program, name, axis, word)
    return program


def _names(graph: Graph, program: Any, more: dict[int, str]) -> Iterator[tuple[int, int, str]]:
    """Place of an input, axis, and the name that its length should have."""
    for place, (name, _) in enumerate(zip(graph.inputs, program.model.graph.inputs, strict=True)):
        for axis, word in (graph.axes.get(name, {}) | (more if place == 0 else {})).items():
            yield place, axis, word


def _rename(program: Any, place: int, axis: int, word: str) -> None:
    """Give a length that torch numbered a name that people read, wherever it stands alone."""
    import onnx_ir as ir

    shape = program.model.graph.inputs[place].shape
    old = str(shape[axis])
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        for k, length in enumerate(value.shape):
            if str(length) == old:
                value.shape[k] = ir.SymbolicDim(word)


def _free(graph: Graph) -> tuple[Any, Callable[[dict[str, Tensor]], Tensor], int, float] | None:
    """A program for images of any size, what it is run by, what sides must be multiples of, and how far it was off.

    None where the network is for one size, where torch cannot say what it does at others, or where it does something
    else at the size that it was trained at.
    """
    first = next(iter(graph.inputs))
    value = graph.inputs[first]
    height, width = value.shape[2:]
    # Another size than the trained one, which a network may treat in a way of its own, and not the same for both sides.
    larger = _sized(value, (height // graph.step + 1) * graph.step, (width // graph.step + 2) * graph.step)
    try:
        with evaluating(graph.module):
            graph.module(larger[:1])
        program = _exported(graph, graph.inputs | {first: larger[:2]}, {2: "height", 3: "width"})
    except (RuntimeError, ModelError, ValueError, AssertionError, TypeError):
        return None
    run = runner(session(program.model_proto.SerializeToString()))

    def off(high: int, wide: int, n: int = 1) -> float:
        try:
            return difference(graph, graph.inputs | {first: _sized(value, high, wide)[:n]}, run)
        except MemoryError:
            raise
        except Exception:
            # ONNX Runtime has errors of its own for lengths that do not fit; what is asked is whether they do.
            return float("inf")

    if off(height, width, 2) > LIMIT:
        return None
    for multiple in MULTIPLES:
        if height % multiple or width % multiple:
            break
        apart = max(off(height + multiple, width + 3 * multiple), off(height + 5 * multiple, width + multiple))
        if apart <= LIMIT:
            return program, run, multiple, apart
    return None


def _sized(value: Tensor, height: int, width: int) -> Tensor:
    """Images or maps of another size, from those given: repeated, and cut."""
    down, right = -(-height // value.shape[2]), -(-width // value.shape[3])
    return value.repeat(1, 1, down, right)[:, :, :height, :width]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what torch says while it exports: what is wrong is found by comparing."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
