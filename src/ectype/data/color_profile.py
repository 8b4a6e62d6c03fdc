"""Conversion of images with an ICC color profile to sRGB, the color space of all prepared images. No PyTorch import."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from ectype.data.bit_depth import with_alpha_channel

__all__ = ["changes_colors", "convert_to_srgb"]

MAX_CACHED_PROFILES = 64
MAX_IDENTITY_DIFFERENCE = 2
"""A profile that changes no color by more than this many levels of 255 describes sRGB."""
IDENTITY_STEP = 17
"""Levels between the colors for which this is checked."""
_INPUT_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The mode of images that a profile of each color space describes."""


class _Conversion(NamedTuple):
    """How the colors of a profile are converted; both are None if nothing changes."""

    transform: ImageCms.ImageCmsTransform | None = None
    gray_table: Sequence[int] | None = None
    """The converted value of each gray value."""


@functools.lru_cache(maxsize=MAX_CACHED_PROFILES)
def _conversion(profile: bytes, mode: str) -> _Conversion | None:
    """Return the conversion from a profile to sRGB; None if the profile is damaged or describes other images.

    Args:
        profile: The content of the profile.
        mode: L, RGB, RGBA or CMYK.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        color_mode = mode.removesuffix("A")
        color_space = source.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue]
        if _INPUT_MODES.get(color_space) != color_mode:
            return None
        target = ImageCms.createProfile("sRGB")
        if color_mode == "CMYK":
            return _Conversion(ImageCms.buildTransform(source, target, mode, "RGB"))  # type: ignore[arg-type]
        levels = np.arange(0, 256, IDENTITY_STEP if color_mode == "RGB" else 1, dtype=np.uint8)
        # The curves that littleCMS optimizes for gray are off by up to 10 levels in the shadows.
        flags = ImageCms.Flags.NONE if color_mode == "RGB" else ImageCms.Flags.NOOPTIMIZE
        colors = np.meshgrid(levels, levels, levels) if color_mode == "RGB" else ()
        samples = np.stack(colors, axis=-1).reshape(1, -1, 3) if colors else levels[None]
        check = ImageCms.buildTransform(source, target, color_mode, "RGB", flags=flags)  # type: ignore[arg-type]
        applied = ImageCms.applyTransform(Image.fromarray(samples), check)
        assert applied is not None
        converted = np.asarray(applied) if color_mode == "RGB" else np.asarray(applied)[..., 1]
        if np.abs(converted.astype(int) - samples).max() <= MAX_IDENTITY_DIFFERENCE:
            return _Conversion()
        if color_mode == "L":
            return _Conversion(gray_table=converted[0].tolist())
        return _Conversion(ImageCms.buildTransform(source, target, mode, mode))  # type: ignore[arg-type]
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _color_mode(image: Image.Image) -> str:
    """Return the mode in which the colors of an image are converted."""
    if image.mode in ("L", "RGB", "RGBA", "CMYK"):
        return image.mode
    if image.mode == "LA":
        return "L"
    return "RGBA" if image.has_transparency_data else "RGB"


def changes_colors(image: Image.Image) -> bool:
    """Return whether an image has a profile of another color space than sRGB. Pixels need not be loaded."""
    profile = image.info.get("icc_profile")
    if not profile:
        return False
    found = _conversion(profile, _color_mode(image))
    return found is not None and found != _Conversion()


def convert_to_srgb(image: Image.Image, marks: set[str]) -> Image.Image:
    """Convert an image of 8 bits with a color profile to sRGB; others are returned unchanged.

    Colors are converted by littleCMS with the perceptual intent, as `PIL.ImageCms.profileToProfile` does by default.
    Gray images stay gray, and alpha stays as it is.

    Args:
        image: The loaded image.
        marks: `color profile` is added if colors are converted, and `unusable profile` if the profile is damaged or
            does not describe images of this kind.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode == "1":
        return image
    image = with_alpha_channel(image)
    mode = _color_mode(image)
    found = _conversion(profile, mode)
    if found is None:
        marks.add("unusable profile")
        return image
    if found == _Conversion():
        return image
    marks.add("color profile")
    if found.gray_table is not None:
        info = image.info
        image = image.point([*found.gray_table, *(range(256) if image.mode == "LA" else ())])
        image.info = info
        return image
    assert found.transform is not None
    converted = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), found.transform)
    assert converted is not None
    return converted
