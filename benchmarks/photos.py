"""Photographs for benchmarks: crops for training and evaluation, and figures of reconstructed images."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pixel_shuffle

from common import DATA, KEPT
from ectype.evaluation.metrics.image_errors import image_errors
from ectype.losses.perceptual import PerceptualLoss
from ectype.nets.pca import fit_pca
from ectype.nets.pca_residual import image_patches

SIDE = 256
STRIDE = 128
"""Distance between crops for training."""
PACKAGED = {
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
    "skimage": ("data", ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")),
}
"""Other photographs, from packages that Ectype's tests use."""
NETWORKS = ("MobileNetV2", "EfficientNet-Lite0")


class Crop(NamedTuple):
    """A part of a photograph."""

    photograph: str
    image: np.ndarray
    """[side, side, 3] uint8."""


def photographs(part: str) -> list[Path]:
    """Return the photographs of a split, or `others`."""
    if part != "others":
        return sorted((DATA / "photos" / part).iterdir())
    found = []
    for package, (folder, names) in PACKAGED.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += [Path(spec.origin).parent / folder / name for name in names]
    return [file for file in found if file.is_file()]


def crops(part: str, side: int, stride: int | None = None, shrink: int = 1) -> list[Crop]:
    """Return squares of photographs; without a stride they do not overlap."""
    found = []
    for file in photographs(part):
        image = Image.open(file).convert("RGB")
        pixels = np.asarray(image.reduce(shrink) if shrink > 1 else image)
        steps = [
            range((length - side) % (stride or side) // 2, length - side + 1, stride or side)
            for length in pixels.shape[:2]
        ]
        found += [Crop(file.stem, pixels[y : y + side, x : x + side]) for y in steps[0] for x in steps[1]]
    return found


def training_crops(side: int = SIDE, stride: int = STRIDE) -> Path:
    """Return a file of overlapping crops of the training photographs at full and half size; written once."""
    file = KEPT / f"photo-crops-{side}-{stride}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        images = [crop.image for shrink in (1, 2) for crop in crops("train", side, stride, shrink)]
        scratch = file.with_suffix(".tmp.npy")
        np.save(scratch, np.stack(images))
        scratch.replace(file)
    return file


def stacked(found: Sequence[Crop]) -> Tensor:
    """Return crops as [n, 3, side, side] in [0, 1]."""
    return torch.from_numpy(np.stack([crop.image for crop in found])).permute(0, 3, 1, 2).float() / 255


def bicubic(images: Tensor, numbers: int) -> Tensor:
    """Downscale with antialiasing to at least this many values, and upscale again."""
    small = int(np.ceil((numbers / images.shape[1]) ** 0.5))
    down = interpolate(images, (small, small), mode="bicubic", antialias=True)
    return interpolate(down, images.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)


class PatchPCA:
    """The best linear code of squares that do not overlap, fitted on images: a baseline for networks.

    Args:
        images: Images to fit on, [n, 3, h, w] in [0, 1].
        side: Side of a square.
        numbers: Code dimensions of each square.
    """

    def __init__(self, images: Tensor, side: int, numbers: int) -> None:
        self.side = side
        self.fitted = fit_pca(image_patches(images, side), numbers)

    def __call__(self, images: Tensor) -> Tensor:
        """Encode and decode, in [0, 1]; codes are not rounded."""
        n, _, height, width = images.shape
        back = self.fitted.reconstruct(image_patches(images, self.side)[:, :, None, None])[..., 0, 0]
        back = back.unflatten(0, (n, height // self.side, width // self.side))
        return pixel_shuffle(back.movedim(-1, 1), self.side)


def jpeg(image: np.ndarray, size: int) -> np.ndarray:
    """Return the best JPEG of at most this many bytes, in PSNR: any quality, color at full or half resolution."""
    best, least = None, np.inf
    for sampling in ("4:4:4", "4:2:0"):
        low, high = 0, 95  # quality 0 is assumed to fit
        while low < high:
            quality = (low + high + 1) // 2
            low, high = (quality, high) if len(_encoded(image, quality, sampling)) <= size else (low, quality - 1)
        coded = _encoded(image, low, sampling)
        back = np.asarray(Image.open(BytesIO(coded)))
        error = float(((back.astype(float) - image) ** 2).mean())
        if len(coded) <= size and error < least:
            best, least = back, error
    if best is None:
        raise ValueError(f"no JPEG of this image is as small as {size} bytes.")
    return best


def _encoded(image: np.ndarray, quality: int, sampling: str) -> bytes:
    target = BytesIO()
    Image.fromarray(image).save(target, "JPEG", quality=quality, subsampling=sampling, optimize=True, progressive=True)
    return target.getvalue()


class Judge:
    """Computes PSNR, SSIM and distances of packaged networks, for each image."""

    def __init__(self, networks: Sequence[str] = NETWORKS) -> None:
        self.networks = {name: PerceptualLoss(3, network=name).eval() for name in networks}

    @torch.inference_mode()
    def __call__(self, made: Tensor, wanted: Tensor) -> dict[str, np.ndarray]:
        """Return the name of each measure → [n]; images are rounded to 8 bits first, as in a file."""
        found: dict[str, list[Tensor]] = {}
        rounded = (made.clamp(0, 1) * 255).round() / 255
        for output, target in zip(rounded.split(8), wanted.split(8), strict=True):
            near = image_errors(output, target)
            values = {"PSNR": near.psnr, "SSIM": near.ssim}
            values |= {f"distance, {name}": network(output, target) for name, network in self.networks.items()}
            for name, value in values.items():
                found.setdefault(name, []).append(value)
        return {name: torch.cat(values).double().numpy() for name, values in found.items()}


def between(values: np.ndarray, photographs: Sequence[str], draws: int = 4000) -> tuple[float, float]:
    """Return the 95% interval of a mean over crops, by drawing photographs, then crops of each."""
    rng = np.random.default_rng(0)
    names = np.asarray(photographs)
    groups = [values[names == name] for name in dict.fromkeys(photographs)]
    means = []
    for _ in range(draws):
        chosen = [groups[i] for i in rng.integers(0, len(groups), len(groups))]
        means.append(np.concatenate([rng.choice(group, len(group)) for group in chosen]).mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def busiest(psnr: np.ndarray, photographs: Sequence[str]) -> list[int]:
    """Return the crop of each photograph with the largest error; smooth crops always look the same."""
    places = {name: [i for i, other in enumerate(photographs) if other == name] for name in dict.fromkeys(photographs)}
    return [min(some, key=lambda i: float(psnr[i])) for some in places.values()]


def sheet(columns: Mapping[str, Sequence[np.ndarray]], place: Path) -> None:
    """Draw a picture: a row for each image, a column for each contestant with its name above."""
    from PIL import ImageDraw, ImageFont

    first, height = next(iter(columns.values()))[0], 26
    times = max(1, 96 // first.shape[0])  # small images are enlarged
    side = first.shape[0] * times
    rows = len(next(iter(columns.values())))
    font = ImageFont.load_default(16)
    wide = max(side, *(int(font.getlength(name)) + 4 for name in columns)) + 4
    picture = Image.new("RGB", (len(columns) * wide, rows * (side + 4) + height), "white")
    draw = ImageDraw.Draw(picture)
    for column, (name, images) in enumerate(columns.items()):
        # Pillow's built-in font has no ×.
        draw.text((column * wide + 4, 4), name.replace("×", "x"), fill="black", font=font)
        for row, image in enumerate(images):
            shown = Image.fromarray(image.repeat(times, 0).repeat(times, 1))
            picture.paste(shown, (column * wide, row * (side + 4) + height))
    place.parent.mkdir(parents=True, exist_ok=True)
    picture.save(place, quality=92)


def bytes_of(images: Tensor) -> np.ndarray:
    """Convert [n, 3, h, w] in [0, 1] to [n, h, w, 3] uint8."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def in_parts(function: Callable[[Tensor], Tensor], images: Tensor, at_once: int = 8) -> Tensor:
    """Apply a function of a batch to a few images at a time."""
    with torch.inference_mode():
        return torch.cat([function(part) for part in images.split(at_once)])
