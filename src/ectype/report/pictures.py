"""Images as parts of a page: data URIs, lossless where they are small."""

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

from ectype.training.watch import to_uint8

__all__ = ["LARGEST", "Picture", "column", "encoded", "saved", "strip"]

LARGEST = 128
"""Pixels of an image's longer side in a page; larger ones are reduced."""
LOSSLESS = 64
"""Up to so many pixels a side nothing is lost; beyond, WebP of quality 90."""


@dataclass(frozen=True)
class Picture:
    """A picture in a page."""

    src: str
    """A data URI."""
    alt: str
    width: int
    height: int
    across: int = 1
    """Images side by side in it."""
    below: str = ""
    """A few words under it."""
    crisp: bool = True
    """Whether its pixels are to be seen when it is enlarged."""


def encoded(picture: Image.Image, *, lossless: bool) -> str:
    """A picture as a data URI."""
    held = io.BytesIO()
    if features.check("webp"):
        picture.save(held, "WEBP", lossless=lossless, quality=90, method=4)
        kind = "webp"
    else:
        picture.save(held, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"


def _fitted(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Images no larger than a page needs."""
    longer = max(images.shape[2:])
    images = images.float().cpu().clamp(0, 1)
    if longer <= LARGEST:
        return images
    size = [max(1, round(side * LARGEST / longer)) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _laid(images: Float[Tensor, "n c h w"], *, down: bool) -> tuple[Image.Image, int]:
    """Images in a row or a column with transparent gaps, and their longer side."""
    pixels = to_uint8(_fitted(images)).permute(0, 2, 3, 1)
    n, height, width, _ = pixels.shape
    gap = max(1, min(height, width) // 16)
    high, wide = (n * (height + gap) - gap, width) if down else (height, n * (width + gap) - gap)
    sheet = torch.zeros(high, wide, 4, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = (i * (height + gap), 0) if down else (0, i * (width + gap))
        sheet[top : top + height, left : left + width, :3] = image.expand(-1, -1, 3)
        sheet[top : top + height, left : left + width, 3] = 255
    return Image.fromarray(sheet.numpy(), "RGBA"), max(height, width)


def strip(images: Float[Tensor, "n c h w"], alt: str, below: str = "") -> Picture:
    """Images from left to right."""
    laid, side = _laid(images, down=False)
    src = encoded(laid, lossless=side <= LOSSLESS)
    return Picture(src, alt, *laid.size, across=len(images), below=below, crisp=side <= LOSSLESS)


def column(images: Float[Tensor, "n c h w"], alt: str, below: str = "") -> Picture:
    """Images from top to bottom."""
    laid, side = _laid(images, down=True)
    return Picture(encoded(laid, lossless=side <= LOSSLESS), alt, *laid.size, below=below, crisp=side <= LOSSLESS)


def saved(file: Path, alt: str, below: str = "", widest: int = 320) -> Picture:
    """A picture from a file, reduced where it is wider than a page needs."""
    with Image.open(file, formats=["PNG"]) as opened:
        picture = opened.convert("RGB")
    if picture.width > widest:
        picture = picture.resize((widest, max(1, round(picture.height * widest / picture.width))), Image.Resampling.BOX)
    return Picture(encoded(picture, lossless=False), alt, *picture.size, below=below, crisp=False)
