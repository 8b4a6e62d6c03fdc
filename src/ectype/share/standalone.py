"""New images of an exported model, as one picture: needs numpy, Pillow, and ONNX Runtime or OpenVINO; nothing else.

    python sample.py -n 16 --seed 1 --out samples.png

What is drawn, and from which density, stands in export.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
AT_ONCE = 64


def runner(file: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """A function from arrays by name to the array that a graph makes of them."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda inputs: np.asarray(session.run(None, inputs)[0])
    import openvino

    model = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: np.array(model(inputs)[0])


def draw(n: int, shape: Sequence[int], density: str, random: np.random.Generator) -> np.ndarray:
    """`n` latents: of N(0, I), or of Gaussians with covariance F Fᵀ + diag(d)."""
    if density == "normal":
        return random.standard_normal((n, *shape)).astype(np.float32)
    with np.load(HERE / f"density-{density}.npz", allow_pickle=False) as held:
        weights, means, factors, diagonals = (held[name] for name in ("weights", "means", "factors", "diagonals"))
    part = random.choice(len(weights), n, p=weights / weights.sum(dtype=np.float64))
    narrow = random.standard_normal((n, factors.shape[2]))
    wide = random.standard_normal((n, means.shape[1]))
    latents = means[part] + np.sqrt(diagonals[part]) * wide + np.einsum("ndr,nr->nd", factors[part], narrow)
    return latents.astype(np.float32).reshape(n, *shape)


def grid(images: np.ndarray) -> Image.Image:
    """Images [n, c, h, w] in [0, 1] side by side."""
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
    """Draw, run, and write."""
    said = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    sampler, images = said["sampler"], said["images"]
    graph = said["graphs"][sampler["graph"]]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=64, help="images (64)")
    parser.add_argument("--seed", type=int, default=0, help="repeats the same draws (0)")
    parser.add_argument("--density", choices=sampler["densities"], default=sampler["density"])
    parser.add_argument("--label", choices=images["classes"], help="a class, where the model is told one")
    parser.add_argument("--latents", type=Path, help="an .npy file of latents to use instead of drawing")
    parser.add_argument("--out", type=Path, default=Path("samples.png"))
    given = parser.parse_args()
    if given.label is not None and not sampler["labels"]:
        parser.error("--label: this model is told no class; leave it out")
    random = np.random.default_rng(given.seed)
    if given.latents is not None:
        latents = np.load(given.latents, allow_pickle=False).astype(np.float32)
    else:
        latents = draw(given.n, sampler["latent"], given.density, random)
    names = list(graph["inputs"])
    inputs = {names[0]: latents}
    if sampler["labels"]:
        shares = images["frequencies"] or [1.0] * len(images["classes"])
        drawn = random.choice(len(shares), len(latents), p=np.array(shares) / sum(shares))
        wanted = drawn if given.label is None else np.full(len(latents), images["classes"].index(given.label))
        inputs[names[1]] = wanted.astype(np.int64)
    run = runner(HERE / graph["file"])
    starts = range(0, len(latents), AT_ONCE)
    parts = [run({name: value[at : at + AT_ONCE] for name, value in inputs.items()}) for at in starts]
    grid(np.concatenate(parts)).save(given.out)
    print(f"{len(latents)} samples → {given.out}")


if __name__ == "__main__":
    main()
