"""Export graphs to OpenVINO's intermediate representation, via ONNX, and compare them with the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ectype.core.errors import ModelError
from ectype.core.optional import optional_import
from ectype.export import onnx
from ectype.export.graphs import Graph, check_graph

__all__ = ["compile_model", "export", "runner"]


def export(graph: Graph, file: Path, about: dict[str, str]) -> onnx.ExportedGraph:
    """Write a graph as `.xml`, and its weights in float32 as a `.bin` next to it. See `onnx.export`.

    Raises:
        ModelError: See `onnx.export`.
    """
    openvino = optional_import("openvino", "openvino", "OpenVINO")
    with TemporaryDirectory() as folder:
        exported = onnx.export(graph, Path(folder) / f"{graph.name}.onnx", about)
        try:
            model = openvino.convert_model(str(exported.file))
        except Exception as error:
            # Its errors have no common class; their last line names the operation.
            reason = str(error).strip().splitlines()[-1].removeprefix("-- ")[:160]
            raise ModelError(f"OpenVINO cannot read the graph '{graph.name}' ({reason}): export --to onnx.") from None
    for key, value in about.items():
        model.set_rt_info(value, ["ectype", key])
    difference = check_graph(graph, runner(compile_model(model)))
    try:
        openvino.save_model(model, str(file), compress_to_fp16=False)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot write '{file}' ({reason}): give another --out.") from None
    return dataclasses.replace(exported, file=file, difference=max(difference, exported.difference))


def compile_model(model: Any) -> Any:
    """Compile a model, or a file of one, for the CPU in float32; OpenVINO would use lower precision if it is faster."""
    openvino = optional_import("openvino", "openvino", "OpenVINO")
    source = str(model) if isinstance(model, Path) else model
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return openvino.Core().compile_model(source, "CPU", settings)


def runner(compiled: Any) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return a function that calls a compiled model with tensors by name."""

    def run(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(compiled({name: value.numpy() for name, value in inputs.items()})[0].copy())

    return run
