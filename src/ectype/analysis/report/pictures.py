"""Images in a page: data URIs, lossless if the images are small."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, features
from torch import Tensor

from ectype.core.images import to_uint8
from ectype.runs.json_files import warn_once

__all__ = ["MAX_SIDE_PX", "Picture", "column", "data_uri", "load_picture", "strip"]

DAMAGED_SIZE = (64, 64)
"""Width and height of the square that stands for a picture whose file is damaged."""
MAX_SIDE_PX = 128
"""Longer side of an image in a page; larger images are downscaled."""
MAX_LOSSLESS_SIDE_PX = 64
"""Longer side of images that are stored without loss; larger ones are WebP of quality 90."""
MAX_FILE_WIDTH_PX = 320
"""Width of a picture that is read from a file."""


@dataclass(frozen=True)
class Picture:
    """A picture in a page.

    Attributes:
        src: The picture as a data URI.
        alt: Its description.
        width: In pixels.
        height: In pixels.
        across: Number of images side by side in the picture.
        below: A few words below it.
        crisp: Whether to show single pixels if it is enlarged.
    """

    src: str
    alt: str
    width: int
    height: int
    across: int = 1
    below: str = ""
    crisp: bool = True


def data_uri(picture: Image.Image, *, lossless: bool) -> str:
    """Encode a picture as a data URI: WebP, or PNG if Pillow was built without WebP."""
    buffer = io.BytesIO()
    if features.check("webp"):
        picture.save(buffer, "WEBP", lossless=lossless, quality=90, method=4)
        kind = "webp"
    else:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _downscale(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Downscale images to the size that a page needs."""
    longer = max(images.shape[2:])
    images = images.float().cpu().clamp(0, 1)
    if longer <= MAX_SIDE_PX:
        return images
    size = [max(1, round(side * MAX_SIDE_PX / longer)) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _join(images: Float[Tensor, "n c h w"], *, vertical: bool) -> tuple[Image.Image, int]:
    """Return images in one row or column with transparent gaps, and the longer side of one image."""
    pixels = to_uint8(_downscale(images)).permute(0, 2, 3, 1)
    n, height, width, _ = pixels.shape
    gap = max(1, min(height, width) // 16)
    size = (n * (height + gap) - gap, width) if vertical else (height, n * (width + gap) - gap)
    sheet = torch.zeros(*size, 4, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = (i * (height + gap), 0) if vertical else (0, i * (width + gap))
        sheet[top : top + height, left : left + width, :3] = image.expand(-1, -1, 3)
        sheet[top : top + height, left : left + width, 3] = 255
    return Image.fromarray(sheet.numpy(), "RGBA"), max(height, width)


def strip(images: Float[Tensor, "n c h w"], alt: str, below: str = "") -> Picture:
    """Join images from left to right, values in [0, 1]."""
    joined, side = _join(images, vertical=False)
    small = side <= MAX_LOSSLESS_SIDE_PX
    return Picture(data_uri(joined, lossless=small), alt, *joined.size, across=len(images), below=below, crisp=small)


def column(images: Float[Tensor, "n c h w"], alt: str, below: str = "") -> Picture:
    """Join images from top to bottom, values in [0, 1]."""
    joined, side = _join(images, vertical=True)
    small = side <= MAX_LOSSLESS_SIDE_PX
    return Picture(data_uri(joined, lossless=small), alt, *joined.size, below=below, crisp=small)


def load_picture(file: Path, alt: str, below: str = "", max_width: int = MAX_FILE_WIDTH_PX) -> Picture:
    """Read a picture from a PNG file; one that is wider than `max_width` pixels is downscaled.

    Of a file that is damaged, a gray square is shown, and a warning names it.
    """
    try:
        with Image.open(file, formats=["PNG"]) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow raises all of these
        warn_once(f"'{file}' is not shown in the report: it is damaged.")
        picture, alt = Image.new("RGB", DAMAGED_SIZE, "lightgray"), f"{alt} (damaged)"
    if picture.width > max_width:
        height = max(1, round(picture.height * max_width / picture.width))
        picture = picture.resize((max_width, height), Image.Resampling.BOX)
    return Picture(data_uri(picture, lossless=False), alt, *picture.size, below=below, crisp=False)
