"""Color profiles are converted to sRGB, as littleCMS does it and as the formulas of the color spaces say."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from ectype.config.schema import DataConfig
from ectype.data.decode import Spec, decode
from ectype.data.decode_pairs import decode_pair
from ectype.data.prepare import prepare
from ectype.data.raw_image import SideBySide

ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
"""XYZ of the primaries, adapted to D50."""
D50 = (0.9642, 1.0, 0.8249)


def profile(primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """An ICC profile of version 2: three primaries and a gamma, or only the gamma for gray."""

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": xyz(D50), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)
    if primaries:
        tags |= {name: xyz(p) for name, p in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    else:
        tags[b"kTRC"] = curve
    return assembled(tags, b"mntr", b"RGB " if primaries else b"GRAY", b"XYZ ")


def assembled(tags: dict[bytes, bytes], kind: bytes, space: bytes, connection: bytes) -> bytes:
    table, content = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    size = 128 + len(table + content)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in D50))
    return header.ljust(128, b"\0") + table + content


def cmyk_profile() -> bytes:
    """A profile whose inks are all gray: they darken linearly from L* 100, black by itself, the others by a third."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    grid = b"".join(bytes((round(255 * max(0, 1 - k - (c + m + y) / 3)), 128, 128)) for c, m, y, k in corners)
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + 4 * identity + grid + 3 * identity
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in D50))
    tags = {b"wtpt": white, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"A2B0": table}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)
    return assembled(tags, b"prtr", b"CMYK", b"Lab ")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def to_srgb(values: np.ndarray, primaries: tuple[tuple[float, float, float], ...], gamma: float) -> np.ndarray:
    """Convert colors [..., 3] by the definition of the color spaces."""
    xyz = (values / 255) ** gamma @ np.array(primaries)
    linear = (xyz @ np.linalg.inv(np.array(SRGB))).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


COLORS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
PROFILE = profile(ADOBE_RGB, 2.19921875)


def reference(image: Image.Image, content: bytes = PROFILE) -> np.ndarray:
    target = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(content)), target)
    assert converted is not None
    return np.asarray(converted)


def test_wide_colors_become_srgb():
    found = decode(encoded(Image.fromarray(COLORS), icc_profile=PROFILE), Spec((16, 16), 3))
    pixels = found.pixels.transpose(1, 2, 0)
    np.testing.assert_array_equal(pixels, reference(Image.fromarray(COLORS)))
    assert np.abs(pixels - to_srgb(COLORS, ADOBE_RGB, 2.19921875)).max() <= 1.5
    assert np.abs(pixels.astype(int) - COLORS).mean() > 5
    assert found.marks == {"color profile"}


def test_every_kind_of_image_is_converted():
    expected = reference(Image.fromarray(COLORS))
    alpha = np.full((16, 16, 1), 255, np.uint8)
    alpha[:8] = 0
    rgba = encoded(Image.fromarray(np.concatenate([COLORS, alpha], 2)), icc_profile=PROFILE)
    found = decode(rgba, Spec((16, 16), 3, background=(255, 255, 255))).pixels.transpose(1, 2, 0)
    np.testing.assert_array_equal(found[8:], expected[8:])
    assert (found[:8] == 255).all()
    palette = Image.fromarray(COLORS[:, :8]).quantize(128)
    found = decode(encoded(palette, icc_profile=PROFILE), Spec((16, 8), 3)).pixels.transpose(1, 2, 0)
    np.testing.assert_array_equal(found, reference(palette.convert("RGB")))
    tiff = encoded(Image.fromarray(COLORS), "TIFF", icc_profile=PROFILE)
    np.testing.assert_array_equal(decode(tiff, Spec((16, 16), 3)).pixels.transpose(1, 2, 0), expected)
    # A JPEG that is decoded to gray is converted before its colors are lost.
    jpeg = encoded(Image.new("RGB", (16, 16), (20, 200, 40)), "JPEG", quality=100, icc_profile=PROFILE)
    gray = reference(Image.new("RGB", (16, 16), (20, 200, 40)))[0, 0] @ (0.299, 0.587, 0.114)
    assert abs(float(decode(jpeg, Spec((16, 16), 1)).pixels.mean()) - gray) < 1.5


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_color_stays_transparent(mode: str):
    image = Image.fromarray(COLORS // 2 + 64).convert(mode)
    image.paste(image.getpixel((0, 0)), (0, 0, 16, 8))
    key = image.getpixel((0, 0))
    content = profile((), 1.0) if mode == "L" else PROFILE
    for options in ({}, {"icc_profile": content}):
        raw = encoded(image, transparency=key, **options)
        found = decode(raw, Spec((16, 16), 3, background=(1, 2, 3))).pixels
        assert (found[:, :8].reshape(3, -1).T == [1, 2, 3]).all(), options
        assert (found[:, 8:].transpose(1, 2, 0) != [1, 2, 3]).any(2).mean() > 0.9


def test_gray_profiles_change_the_curve():
    content = profile((), 1.0)
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = decode(encoded(Image.fromarray(values), icc_profile=content), Spec((16, 16), 1)).pixels[0]
    linear = values / 255
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(found - expected).max() <= 1.5
    both = Image.merge("LA", [Image.fromarray(values), Image.new("L", (16, 16), 255)])
    again = decode(encoded(both, icc_profile=content), Spec((16, 16), 1)).pixels[0]
    np.testing.assert_array_equal(again, found)


def test_cmyk_is_converted_by_its_profile():
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[:, 4:, 3] = 128
    image, content = Image.fromarray(inks, "CMYK"), cmyk_profile()
    target = ImageCms.createProfile("sRGB")
    expected = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(content)), target, outputMode="RGB")
    assert expected is not None
    found = decode(encoded(image, "TIFF", icc_profile=content), Spec((8, 8), 3))
    np.testing.assert_array_equal(found.pixels.transpose(1, 2, 0), np.asarray(expected))
    assert found.marks == {"color profile"}
    assert (found.pixels[:, :, :4] >= 253).all()
    lightness = 100 * (1 - 128 / 255)  # CIE L*, of which the luminance is the cube
    linear = ((lightness + 16) / 116) ** 3
    assert np.abs(found.pixels[:, :, 4:] - 255 * (1.055 * linear ** (1 / 2.4) - 0.055)).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_srgb_is_left_as_it_is(kind: str):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = decode(encoded(Image.fromarray(COLORS), kind), Spec((16, 16), 3))
    found = decode(encoded(Image.fromarray(COLORS), kind, icc_profile=srgb), Spec((16, 16), 3))
    np.testing.assert_array_equal(found.pixels, plain.pixels)
    assert not found.marks


@pytest.mark.parametrize("content", [b"nothing", PROFILE[:200], profile((), 1.0)])
def test_profiles_that_cannot_be_used_are_ignored_and_counted(content: bytes):
    found = decode(encoded(Image.fromarray(COLORS), icc_profile=content), Spec((16, 16), 3))
    np.testing.assert_array_equal(found.pixels.transpose(1, 2, 0), COLORS)
    assert found.marks == {"unusable profile"}


def test_masks_keep_their_values():
    from ectype.data.decode import TargetSpec
    from ectype.data.mask_values import inspect_mask
    from ectype.data.masks import find_encoding

    half = np.zeros((16, 16, 3), np.uint8)
    half[:, 4:] = (20, 200, 40)
    encoding = find_encoding([inspect_mask(Image.fromarray(half))])
    file = encoded(Image.fromarray(np.concatenate([COLORS, half], 1)), icc_profile=PROFILE)
    found = decode_pair(SideBySide(file, "left"), Spec((16, 16), 3, target=TargetSpec(encoding))).pixels
    np.testing.assert_array_equal(found[:3].transpose(1, 2, 0), reference(Image.fromarray(COLORS)))
    np.testing.assert_array_equal(found[3], (half[..., 1] > 0).astype(np.uint8))


def test_the_number_of_converted_images_is_noted(tmp_path):
    for i in range(12):
        image = Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8))
        content = {"icc_profile": PROFILE if i < 5 else b"nothing" if i < 7 else None}
        image.save(tmp_path / f"{i}.png", **content)
    notes = prepare(DataConfig(source=str(tmp_path)), workers=1).notes
    assert "5 images were converted to sRGB from the color space of their profile" in notes
    assert "2 images have a color profile that is damaged or of another kind, and is ignored" in notes
