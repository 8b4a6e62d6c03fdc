"""Inference at 512 px outside of eager PyTorch: the exported network of the preset `ae` in other runtimes, alternately.

    python benchmarks/exported.py [--size 512] [--batch 1] [--threads 2]

The peer is eager PyTorch with its default memory format. Measured against it: channels last, compiled with frozen
weights, ONNX Runtime and OpenVINO, the last two from the files that `ectype export` writes. The largest difference of a
pixel from eager, and PSNR, are reported.
"""

from __future__ import annotations

import copy
import math
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

# As the command sets it, and before torch is imported: threads that spin while they wait slow down the next contestant.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from common import Clock, Row, Spent, arguments, console, tell
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.export import onnx, openvino
from ectype.export.graphs import MAX_DIFFERENCE, graphs_of


def timed(use: Callable[[], Tensor], seconds: float) -> Spent:
    """Return the time of one call, over as many calls as fill the given time."""
    calls, clock = 0, Clock()
    while (spent := clock.read()).wall < seconds or not calls:
        use()
        calls += 1
    return Spent(spent.wall / calls, spent.cpu / calls)


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Return the PSNR of images in [0, 1] in dB; infinite where they are equal."""
    error = float((found.double() - wanted.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def main() -> None:
    """Measure and report."""
    given = arguments(
        __doc__, size=(512, "pixels of a side"), batch=(1, "images at a time"), threads=(2, "of each, for all")
    )
    torch.set_num_threads(given.threads)
    turns, seconds = (3, 0.5) if given.quick else (15, 2.0)
    torch.manual_seed(0)
    recipe = load_recipe("ae", {"net": "conv", "size": given.size, "channels": 3})
    model = recipe.model.build(DataInfo(3, (given.size, given.size))).eval()
    image = torch.rand(given.batch, 3, given.size, given.size)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    beside = image.to(memory_format=torch.channels_last)
    compiled = torch.compile(last.reconstruct, options={"freezing": True})
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        place = Path(folder)
        took: dict[str, float] = {}
        start = time.perf_counter()
        with torch.inference_mode(False), torch.no_grad():
            graph = next(graph for graph in graphs_of(model, torch.cat([image] * 2)) if graph.name == "reconstruct")
            console.print("exporting …")
            written = onnx.export(graph, place / "reconstruct.onnx", {})
            took["ONNX Runtime"] = time.perf_counter() - start
            start = time.perf_counter()
            openvino.export(graph, place / "reconstruct.xml", {})
            took["OpenVINO"] = time.perf_counter() - start
        by_onnx = onnx.runner(onnx.create_session(written.file))
        by_openvino = openvino.runner(openvino.compile_model(place / "reconstruct.xml"))
        uses: dict[str, Callable[[], Tensor]] = {
            "eager": lambda: model.reconstruct(image),
            "channels last": lambda: last.reconstruct(beside),
            "compiled, channels last": lambda: compiled(beside),
            "ONNX Runtime": lambda: by_onnx({"image": image}),
            "OpenVINO": lambda: by_openvino({"image": image}),
        }
        console.print("compiling …")
        start = time.perf_counter()
        uses["compiled, channels last"]()
        took["compiled, channels last"] = time.perf_counter() - start
        wanted = uses["eager"]()
        off = {name: float((use() - wanted).abs().max()) for name, use in uses.items()}
        close = {name: psnr(use(), wanted) for name, use in uses.items()}
        assert max(off.values()) < MAX_DIFFERENCE, f"off by {off}"
        found: dict[str, list[Spent]] = {name: [] for name in uses}
        console.print(f"{turns} turns of {seconds:g} s each …")
        for turn in range(turns + 1):
            for name in list(uses) if turn % 2 else list(uses)[::-1]:
                spent = timed(uses[name], seconds)
                if turn:  # the first one warms up
                    found[name].append(spent)
    eager = median(each.wall for each in found["eager"])
    rows = []
    for name, spent in found.items():
        low, _, high = quantiles([1000 * each.wall / given.batch for each in spent], n=4)
        work = 1000 * median(each.cpu for each in spent) / given.batch
        detail = f"quartiles {low:.0f}–{high:.0f}; {work:.0f} ms of processor time"
        if name != "eager":
            detail += f"; off by {off[name]:.1e} at most, PSNR {close[name]:.0f} dB"
        if name in took:
            detail += f"; made in {took[name]:.0f} s"
        typical = median(each.wall for each in spent)
        ours = 1000 * typical / given.batch
        rows.append(Row(f"{name}, ms per image", 1000 * eager / given.batch, ours, typical / eager, "", None, detail))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    notes = [
        f"The default network of `ae` at {given.size} px, fresh weights: {parameters:,} parameters, code of "
        f"{model.code_shape}; reconstruct, float32, {given.batch} image(s) at a time, {given.threads} thread(s) each.",
        f"Peer: eager, channels first. Medians of {turns} turns of {seconds:g} s each, all in one process; the order "
        "changes with each turn.",
        f"ONNX Runtime {version('onnxruntime')} on ONNX of opset {written.opset} from torch's dynamo exporter; "
        f"OpenVINO {version('openvino')} converted from it, set to compute in float32. Threads wait without spinning.",
    ]
    tell(
        "exported",
        "Inference: eager PyTorch (peer), and other runtimes (ours)",
        rows,
        notes,
        quick=given.quick,
        seconds={name: [each.wall for each in spent] for name, spent in found.items()},
        processor_seconds={name: [each.cpu for each in spent] for name, spent in found.items()},
        differences=off,
        psnr=close,
        making=took,
    )


if __name__ == "__main__":
    main()
