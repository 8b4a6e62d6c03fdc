"""Graphs as OpenVINO's intermediate representation, converted from ONNX and held against the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ectype.errors import ModelError
from ectype.extras import needed
from ectype.share import onnx
from ectype.share.graphs import Graph, compared

__all__ = ["compiled", "export", "runner"]


def export(graph: Graph, file: Path, about: dict[str, str]) -> onnx.Exported:
    """Write a graph as `.xml`, and its weights in float32 as `.bin` beside it. See `onnx.export`.

    Raises:
        ModelError: See `onnx.export`.
    """
    openvino = needed("openvino", "openvino", "OpenVINO")
    with TemporaryDirectory() as folder:
        made = onnx.export(graph, Path(folder) / f"{graph.name}.onnx", about)
        try:
            model = openvino.convert_model(str(made.file))
        except Exception as error:
            # Its errors have no class of their own in common; the last lines of each name the operations.
            reason = str(error).strip().splitlines()[-1].removeprefix("-- ")[:160]
            raise ModelError(f"OpenVINO cannot take the graph '{graph.name}' ({reason}): export --to onnx.") from None
    for key, value in about.items():
        model.set_rt_info(value, ["ectype", key])
    apart = compared(graph, runner(compiled(model)))
    try:
        openvino.save_model(model, str(file), compress_to_fp16=False)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot write '{file}' ({reason}): give another --out.") from None
    return dataclasses.replace(made, file=file, difference=max(apart, made.difference))


def compiled(model: Any) -> Any:
    """A model, or a file of one, ready to run on the CPU in float32, which OpenVINO would lower where it is faster."""
    openvino = needed("openvino", "openvino", "OpenVINO")
    given = str(model) if isinstance(model, Path) else model
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return openvino.Core().compile_model(given, "CPU", settings)


def runner(made: Any) -> Callable[[dict[str, Tensor]], Tensor]:
    """Calls a compiled model with tensors by name."""

    def run(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(made({name: value.numpy() for name, value in inputs.items()})[0].copy())

    return run
