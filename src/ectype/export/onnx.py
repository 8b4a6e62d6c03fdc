"""Export graphs as ONNX with torch's dynamo exporter, and compare them with the model in ONNX Runtime."""

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

from ectype.core.errors import ModelError
from ectype.core.optional import optional_import
from ectype.export.graphs import MAX_DIFFERENCE, Graph, MethodModule, check_graph, max_difference
from ectype.models.base import evaluating

__all__ = ["ExportedGraph", "export", "runner", "create_session"]

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""Candidates for what height and width have to be multiples of."""


@dataclass
class ExportedGraph:
    """An exported graph."""

    file: Path
    difference: float
    """Largest difference from the model, on held-out images and on other sizes."""
    multiple: int | None
    """What height and width have to be multiples of; None if they are fixed."""
    opset: int
    inputs: dict[str, list[int | str]]
    """Shape of each input: lengths, and names of dynamic axes."""
    outputs: dict[str, list[int | str]]


def export(graph: Graph, file: Path, about: dict[str, str]) -> ExportedGraph:
    """Write a graph for any number of images and, if the network allows it, any height and width.

    Args:
        graph: The graph.
        file: The file to write, `.onnx`.
        about: Metadata of the file.

    Raises:
        ModelError: A library is missing, torch cannot export the graph, or it differs from the model by more than
            `MAX_DIFFERENCE`.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        optional_import(module, "onnx", "ONNX")
    if graph.spatial and (dynamic := _export_any_size(graph)) is not None:
        program, run, multiple, difference = dynamic
    else:
        program, multiple, difference = _export_program(graph, graph.inputs, {}), None, 0.0
        run = runner(create_session(program.model_proto.SerializeToString()))
    difference = max(difference, check_graph(graph, run))
    opset = next(each.version for each in program.model_proto.opset_import if not each.domain)
    metadata = about | {
        "graph": graph.name,
        "opset": str(opset),
        "multiple": "fixed" if multiple is None else str(multiple),
    }
    program.model.metadata_props.update({f"ectype.{key}": value for key, value in metadata.items()})
    try:
        program.save(file)
    except OSError as error:
        raise ModelError(f"cannot write '{file}' ({error.strerror or error}): give another --out.") from None
    inputs, outputs = (_shapes(program.model_proto.graph.input), _shapes(program.model_proto.graph.output))
    return ExportedGraph(file, difference, multiple, opset, inputs, outputs)


def _shapes(values: Any) -> dict[str, list[int | str]]:
    """Return the shape of each value; lengths that depend on other lengths are formulas."""
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values
    }


def create_session(model: bytes | Path) -> Any:
    """Return a session of ONNX Runtime on the CPU for a file, or for the content of one."""
    runtime = optional_import("onnxruntime", "onnx", "ONNX")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # sizes that do not fit are tried, too
    # Threads that spin while they wait would slow down torch's threads, which run next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def runner(session: Any) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return a function that calls a session with tensors by name."""

    def run(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])

    return run


def _export_program(graph: Graph, inputs: dict[str, Tensor], size_axes: dict[int, str]) -> Any:
    """Return the exported program of a graph; `size_axes` are further dynamic axes of its first input."""
    dynamic = torch.export.Dim.DYNAMIC
    first = next(iter(inputs))
    axes = {name: dict.fromkeys(graph.axes.get(name, {}), dynamic) for name in inputs}
    axes[first] |= dict.fromkeys(size_axes, dynamic)
    # A batch of one image would be exported as a constant size.
    examples = {
        name: torch.cat([value] * 2) if len(value) == 1 and 0 in axes[name] else value for name, value in inputs.items()
    }
    try:
        with evaluating(graph.module), _quiet():
            program = torch.onnx.export(
                MethodModule(graph.module, graph.module),
                tuple(examples.values()),
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
    for position, axis, name in _axis_names(graph, program, size_axes):
        _rename_axis(program, position, axis, name)
    return program


def _axis_names(graph: Graph, program: Any, size_axes: dict[int, str]) -> Iterator[tuple[int, int, str]]:
    """Yield the dynamic axes: position of the input, axis, and name."""
    for position, (input_name, _) in enumerate(zip(graph.inputs, program.model.graph.inputs, strict=True)):
        for axis, name in (graph.axes.get(input_name, {}) | (size_axes if position == 0 else {})).items():
            yield position, axis, name


def _rename_axis(program: Any, position: int, axis: int, name: str) -> None:
    """Rename a dynamic axis, which torch has numbered, in all inputs and outputs."""
    import onnx_ir as ir

    shape = program.model.graph.inputs[position].shape
    old = str(shape[axis])
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        for k, length in enumerate(value.shape):
            if str(length) == old:
                value.shape[k] = ir.SymbolicDim(name)


def _export_any_size(graph: Graph) -> tuple[Any, Callable[[dict[str, Tensor]], Tensor], int, float] | None:
    """Export a graph for images of any size.

    Returns:
        The program, a function that runs it, what sides have to be multiples of, and the largest difference from the
        model. None if the network has a fixed size, if torch cannot export it for other sizes, or if the exported graph
        differs from the model at the size of training.
    """
    first = next(iter(graph.inputs))
    value = graph.inputs[first]
    height, width = value.shape[2:]
    # Not the size of training, for which a network may have a branch of its own, and not square.
    larger = _resized(value, (height // graph.step + 1) * graph.step, (width // graph.step + 2) * graph.step)
    try:
        with evaluating(graph.module):
            graph.module(larger[:1])
        program = _export_program(graph, graph.inputs | {first: larger[:2]}, {2: "height", 3: "width"})
    except (RuntimeError, ModelError, ValueError, AssertionError, TypeError):
        return None
    run = runner(create_session(program.model_proto.SerializeToString()))

    def difference_at(height: int, width: int, n: int = 1) -> float:
        try:
            return max_difference(graph, graph.inputs | {first: _resized(value, height, width)[:n]}, run)
        except MemoryError:
            raise
        except Exception:
            # ONNX Runtime has errors of its own for sizes that do not fit.
            return float("inf")

    if difference_at(height, width, 2) > MAX_DIFFERENCE:
        return None
    for multiple in MULTIPLES:
        if height % multiple or width % multiple:
            break
        sizes = ((height + multiple, width + 3 * multiple), (height + 5 * multiple, width + multiple))
        difference = max(difference_at(*size) for size in sizes)
        if difference <= MAX_DIFFERENCE:
            return program, run, multiple, difference
    return None


def _resized(value: Tensor, height: int, width: int) -> Tensor:
    """Return images or maps of another size: repeated, and cut."""
    down, right = -(-height // value.shape[2]), -(-width // value.shape[3])
    return value.repeat(1, 1, down, right)[:, :, :height, :width]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages and warnings of torch's exporter; errors are found by comparing results."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
