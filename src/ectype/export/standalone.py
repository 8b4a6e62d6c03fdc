"""Sample images from an exported model into one picture. Needs only numpy, Pillow, and ONNX Runtime or OpenVINO.

    python sample.py -n 16 --seed 1 --out samples.png

export.json next to this file describes the latents and the density that they are drawn from.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
IMAGES_PER_BATCH = 64


def runner(file: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Return a function that calls a graph with arrays by name."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda inputs: np.asarray(session.run(None, inputs)[0])
    import openvino

    model = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: np.array(model(inputs)[0])


def draw(n: int, shape: Sequence[int], density: str, random: np.random.Generator) -> np.ndarray:
    """Draw `n` latents from N(0, I), or from a mixture of Gaussians with covariances F Fᵀ + diag(d)."""
    if density == "normal":
        return random.standard_normal((n, *shape)).astype(np.float32)
    with np.load(FOLDER / f"density-{density}.npz", allow_pickle=False) as file:
        weights, means, factors, diagonals = (file[name] for name in ("weights", "means", "factors", "diagonals"))
    component = random.choice(len(weights), n, p=weights / weights.sum(dtype=np.float64))
    low_rank = random.standard_normal((n, factors.shape[2]))
    diagonal = random.standard_normal((n, means.shape[1]))
    latents = means[component] + np.sqrt(diagonals[component]) * diagonal
    latents += np.einsum("ndr,nr->nd", factors[component], low_rank)
    return latents.astype(np.float32).reshape(n, *shape)


def grid(images: np.ndarray) -> Image.Image:
    """Arrange images [n, c, h, w] in [0, 1] in a grid."""
    n, channels, height, width = images.shape
    across = math.ceil(math.sqrt(n))
    scale = max(1, math.ceil(64 / min(height, width)))
    gap = max(2, min(height, width) * scale // 32)
    high, wide = height * scale + gap, width * scale + gap
    sheet = np.full((math.ceil(n / across) * high + gap, across * wide + gap, channels), 255, np.uint8)
    for k, image in enumerate(np.rint(images.clip(0, 1) * 255).astype(np.uint8)):
        top, left = gap + k // across * high, gap + k % across * wide
        large = image.transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
        sheet[top : top + height * scale, left : left + width * scale] = large
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def main() -> None:
    """Draw latents, run the graph, and write the picture."""
    description = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
    sampler, images = description["sampler"], description["images"]
    graph = description["graphs"][sampler["graph"]]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=64, help="number of images (64)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers (0)")
    parser.add_argument("--density", choices=sampler["densities"], default=sampler["density"])
    parser.add_argument("--label", choices=images["classes"], help="a class, for conditional models")
    parser.add_argument("--latents", type=Path, help="an .npy file of latents to use instead of random ones")
    parser.add_argument("--out", type=Path, default=Path("samples.png"))
    options = parser.parse_args()
    if options.label is not None and not sampler["labels"]:
        parser.error("--label: this model is not conditional; leave it out")
    random = np.random.default_rng(options.seed)
    if options.latents is not None:
        latents = np.load(options.latents, allow_pickle=False).astype(np.float32)
    else:
        latents = draw(options.n, sampler["latent"], options.density, random)
    names = list(graph["inputs"])
    inputs = {names[0]: latents}
    if sampler["labels"]:
        weights = np.array(images["frequencies"] or [1.0] * len(images["classes"]))
        labels = random.choice(len(weights), len(latents), p=weights / weights.sum())
        if options.label is not None:
            labels = np.full(len(latents), images["classes"].index(options.label))
        inputs[names[1]] = labels.astype(np.int64)
    run = runner(FOLDER / graph["file"])
    starts = range(0, len(latents), IMAGES_PER_BATCH)
    batches = [run({name: value[at : at + IMAGES_PER_BATCH] for name, value in inputs.items()}) for at in starts]
    grid(np.concatenate(batches)).save(options.out)
    print(f"{len(latents)} samples → {options.out}")


if __name__ == "__main__":
    main()
