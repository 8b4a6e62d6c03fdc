"""Apply an exported model to image files. Needs only numpy, Pillow, and ONNX Runtime or OpenVINO.

    python apply.py score photos/*.jpg          # how odd each image is, as CSV
    python apply.py encode photos/*.jpg --out codes.npz
    python apply.py reconstruct photo.jpg --out pictures
    python apply.py translate photo.jpg --out pictures

export.json next to this file says how images are prepared, and what the scores of held-out images are.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

FOLDER = Path(__file__).parent


def runner(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that calls a graph with images."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: np.asarray(session.run(None, {name: images})[0])
    import openvino

    model = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.array(model(images)[0])


def prepare(file: Path, rules: dict[str, Any]) -> np.ndarray:
    """Return an image [1, c, h, w] as the model was trained on, float32."""
    with Image.open(file) as opened:
        if opened.mode.startswith(("I", "F")):
            raise SystemExit(f"{file}: more than 8 bits per value; convert it to 8 bits first.")
        image = _to_srgb(ImageOps.exif_transpose(opened))
    background = tuple(rules["background"])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, background)
        flat.paste(image, mask=image.getchannel("A"))
        image = flat
    mode = "L" if rules["channels"] == 1 else "RGB"
    # A gray image becomes RGB after it is resized: its border is gray as well.
    image = image.convert("L" if image.mode in ("1", "L", "LA") else mode)
    image = _resized(image, tuple(rules["size"]), rules["resize"], background)
    values = np.asarray(image.convert(mode), np.float32)
    values = values[None] if mode == "L" else values.transpose(2, 0, 1)
    low, high = rules["range"]
    return np.ascontiguousarray(low + values[None] / 255 * (high - low), np.float32)


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    except ImageCms.PyCMSError:
        return image
    return image if converted is None else converted


def _resized(image: Image.Image, size: tuple[int, int], rule: str, background: tuple[int, ...]) -> Image.Image:
    height, width = size
    x, y = width / image.width, height / image.height
    bicubic = Image.Resampling.BICUBIC
    if rule == "pad":
        factor = min(x, y)
        inner = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        color = (
            background if image.mode == "RGB" else Image.new("RGB", (1, 1), background).convert("L").getpixel((0, 0))
        )
        sheet = Image.new(image.mode, (width, height), color)
        picture = image.resize(inner, bicubic, reducing_gap=3.0)
        sheet.paste(picture, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return sheet
    kept = image.size if rule == "squash" else (width / max(x, y), height / max(x, y))
    left, top = (image.width - kept[0]) / 2, (image.height - kept[1]) / 2
    box = (max(0.0, left), max(0.0, top), min(image.width, left + kept[0]), min(image.height, top + kept[1]))
    return image.resize((width, height), bicubic, box=box, reducing_gap=3.0)


def picture_of(values: np.ndarray, target: dict[str, Any] | None) -> Image.Image:
    """Return an output [c, h, w] as a picture: an image in [0, 1], or the probabilities of classes."""
    if target is not None and target["kind"] == "masks":
        mask = Image.fromarray(values.argmax(0).astype(np.uint8))
        mask.putpalette([value for color in target["colours"] for value in color])
        return mask
    pixels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def write_scores(files: list[Path], scores: np.ndarray, reference: dict[str, list[float]]) -> None:
    """Print the scores of images as CSV, each with the share of held-out images that score at least as high."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "error", "share", "peak", "share of peaks"])
    for file, row in zip(files, scores, strict=True):
        name = str(file).encode("ascii", "backslashreplace").decode()
        cells = ["'" * name.startswith(("=", "+", "-", "@")) + name]
        for key, value in zip(("error", "peak"), row.tolist(), strict=True):
            higher = sum(known >= value for known in reference[key])
            cells += [f"{value:.6g}", f"{(1 + higher) / (1 + len(reference[key])):.4g}"]
        writer.writerow(cells)


def main() -> None:
    """Prepare images, run a graph, and write what it returns."""
    description = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
    rules, graphs = description["preprocessing"], description["graphs"]
    choices = [name for name in ("score", "encode", "reconstruct", "translate") if name in graphs]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", choices=choices)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="encode: an .npz file; reconstruct, translate: a folder")
    options = parser.parse_args()
    run = runner(FOLDER / graphs[options.graph]["file"])
    outputs = np.concatenate([run(prepare(file, rules)) for file in options.images])
    if options.graph == "score":
        write_scores(options.images, outputs, description["score"]["reference"])
        return
    out = options.out or Path("codes.npz" if options.graph == "encode" else "pictures")
    if options.graph == "encode":
        np.savez(out, path=np.array([str(file) for file in options.images]), code=outputs)
    else:
        out.mkdir(parents=True, exist_ok=True)
        target = rules["target"] if options.graph == "translate" else None
        for file, values in zip(options.images, outputs, strict=True):
            picture_of(values, target).save(out / f"{file.stem}.png")
    print(f"{len(outputs)} outputs → {out}")


if __name__ == "__main__":
    main()
