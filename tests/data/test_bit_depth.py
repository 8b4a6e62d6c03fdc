"""Files of more than 8 bits, with unused alpha, or with more pixels than allowed are read right, or rejected."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ectype.config.schema import DataConfig
from ectype.core.errors import DataError
from ectype.data.decode import Spec, decode
from ectype.data.image_file import LoadOptions
from ectype.data.prepare import prepare
from ectype.data.raw_image import Rejected, Tile

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (12, 10, 3), np.uint16)


def tiff(
    values: np.ndarray, *, planar: bool = False, order: str = "<", rows_per_strip: int = 5, deflate: bool = False
) -> bytes:
    """A TIFF of [h, w, bands] in strips, which Pillow cannot write."""
    height, width, bands = values.shape
    stored = values.astype(values.dtype.newbyteorder(order))
    planes = [stored[..., i : i + 1] for i in range(bands)] if planar else [stored]
    strips = [
        plane[top : top + rows_per_strip].tobytes() for plane in planes for top in range(0, height, rows_per_strip)
    ]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    bits, number = 8 * values.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: [width],
        257: [height],
        258: [bits] * bands,
        259: [8 if deflate else 1],
        262: [2 if bands == 3 else 1],
        273: [0] * len(strips),
        277: [bands],
        278: [rows_per_strip],
        279: [len(strip) for strip in strips],
        284: [2 if planar else 1],
        339: [number] * bands,
    }
    if bands > 3:
        tags[338] = [0] * (bands - 1)
    start = 8 + 2 + 12 * len(tags) + 4
    long = [4 * len(value) if len(value) > 1 else 0 for value in tags.values()]
    position = start + sum(long)
    for strip in range(len(strips)):
        tags[273][strip] = position
        position += len(strips[strip])
    entries, outside = b"", b""
    for tag, value in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(value)}I", *value)
        entries += struct.pack(f"{order}HHI", tag, 4, len(value))
        entries += packed if len(value) == 1 else struct.pack(f"{order}I", start + len(outside))
        outside += packed if len(value) > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + outside + b"".join(strips)


def png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits with 3 or 4 channels, which Pillow cannot write."""
    height, width, channels = values.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def spec_of(values: np.ndarray, value_range: tuple[float, float] | None = None, channels: int = 3) -> Spec:
    return Spec((values.shape[0], values.shape[1]), channels, load=LoadOptions(value_range=value_range))


def reason(raw: bytes, spec: Spec | None = None) -> str:
    with pytest.raises(Rejected) as caught:
        decode(raw, spec or Spec((8, 8), 3))
    return str(caught.value)


@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("rows_per_strip", [5, 12])
def test_tiffs_of_16_bit_colors_are_rounded_exactly(planar: bool, order: str, rows_per_strip: int) -> None:
    file = tiff(DEEP, planar=planar, order=order, rows_per_strip=rows_per_strip)
    found = decode(file, spec_of(DEEP))
    np.testing.assert_array_equal(found.pixels, np.rint(DEEP / 257).astype(np.uint8).transpose(2, 0, 1))
    assert found.marks == {"16-bit"}
    assert found.max_16_bit_value == DEEP.max()


@pytest.mark.parametrize("planar", [True, False])
def test_compressed_tiffs_of_16_bit_colors(planar: bool) -> None:
    found = decode(tiff(DEEP, planar=planar, deflate=True), spec_of(DEEP)).pixels.transpose(1, 2, 0)
    # libtiff gives only the high bytes of planes.
    exact = DEEP >> 8 if planar else np.rint(DEEP / 257)
    np.testing.assert_array_equal(found, exact.astype(np.uint8))


def test_a_range_of_16_bits_that_cannot_be_read_is_refused() -> None:
    file = tiff(DEEP >> 4, planar=True, deflate=True)
    assert "save it as PNG for data.value_range" in reason(file, spec_of(DEEP, (0, 4095)))
    found = decode(file, spec_of(DEEP, (0, 15))).pixels.transpose(1, 2, 0)  # the high bytes, as they are reported
    np.testing.assert_array_equal(found, (17 * (DEEP >> 12)).astype(np.uint8))


def test_eight_bit_planes_are_read_as_before() -> None:
    values = RNG.integers(0, 256, (12, 10, 3), np.uint8)
    np.testing.assert_array_equal(decode(tiff(values, planar=True), spec_of(values)).pixels, values.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [3, 4])
def test_pngs_of_16_bit_colors_use_a_range(channels: int) -> None:
    values = np.concatenate([DEEP >> 4, np.full((12, 10, channels - 3), 65535, np.uint16)], 2)
    expected = np.rint((DEEP >> 4) * (255 / 4095)).astype(np.uint8)
    found = decode(png(values), spec_of(DEEP, (0, 4095)))
    np.testing.assert_array_equal(found.pixels, expected.transpose(2, 0, 1))
    assert found.max_16_bit_value == (DEEP >> 4).max()
    tile = decode(Tile(png(values), 2, 3, 6, 5), Spec((6, 5), 3, load=LoadOptions(value_range=(0, 4095))))
    np.testing.assert_array_equal(tile.pixels, expected[2:8, 3:8].transpose(2, 0, 1))
    assert tile.marks == {"16-bit"}


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_a_range_of_8_bits_floats_and_gray() -> None:
    values = RNG.integers(0, 2, (8, 8), np.uint8)
    found = decode(encoded(Image.fromarray(values)), spec_of(values, (0, 1), 1)).pixels[0]
    np.testing.assert_array_equal(found, 255 * values)
    both = np.stack([values, values, 1 - values, np.full_like(values, 255)], 2)
    found = decode(encoded(Image.fromarray(both)), spec_of(values, (0, 1))).pixels
    np.testing.assert_array_equal(found, 255 * both[..., :3].transpose(2, 0, 1))
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", transparency=1)
    found = decode(file.getvalue(), spec_of(values, (0, 2), 1)._replace(background=(70, 70, 70))).pixels[0]
    np.testing.assert_array_equal(found, 70 * values)
    # A range beyond 255 is about deeper images.
    found = decode(encoded(Image.fromarray(values)), spec_of(values, (0, 4095), 1)).pixels[0]
    np.testing.assert_array_equal(found, values)
    floats = RNG.normal(0, 1, (8, 8)).astype(np.float32)
    found = decode(encoded(Image.fromarray(floats), "TIFF"), spec_of(floats, (-1, 1), 1)).pixels[0]
    np.testing.assert_array_equal(found, np.rint((floats.astype(float) + 1) * 127.5).clip(0, 255).astype(np.uint8))
    gray = RNG.integers(0, 1024, (8, 8), np.uint16)
    found = decode(encoded(Image.fromarray(gray)), spec_of(gray, (0, 1023), 1)).pixels[0]
    np.testing.assert_array_equal(found, np.rint(gray * (255 / 1023)).astype(np.uint8))


@pytest.mark.parametrize(
    "dtype, top", [(np.uint8, 1), (np.uint16, 1), (np.uint16, 4095), (np.float32, 3), (np.int32, 700)]
)
def test_a_range_of_arrays(dtype: type, top: int, tmp_path: Path) -> None:
    values = (RNG.integers(0, 8, (10, 8, 8)) * top // 7).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    config = DataConfig(source=str(tmp_path / "a.npy"), value_range=(0, top))
    if dtype is np.uint16:
        with pytest.warns(UserWarning, match="10 images of 16 bits"):
            found = prepare(config, workers=1)
    else:
        found = prepare(config, workers=1)
    expected = np.rint(values.astype(float) * (255 / top)).astype(np.uint8)
    np.testing.assert_array_equal(np.load(found.shards[0])[:, 0], expected)


@pytest.mark.parametrize(
    "values, words",
    [
        (np.zeros((8, 8, 5), np.uint8), "TIFF of 5 bands (save the 1 or 3 bands"),
        (np.zeros((8, 8, 3), np.float32), "TIFF of 3 bands of floating-point numbers (convert it to 8 or 16 bits"),
        (np.zeros((8, 8, 3), np.int16), "TIFF of 3 bands of signed integers (convert it"),
        (np.zeros((8, 8, 3), np.uint32), "TIFF of 3 bands of 32 bits (convert it"),
    ],
)
def test_tiffs_that_cannot_be_read_are_described(values: np.ndarray, words: str, tmp_path: Path) -> None:
    assert reason(tiff(values)).startswith(words)
    (tmp_path / "a.tif").write_bytes(tiff(values))
    assert reason(str(tmp_path / "a.tif")).startswith(words)
    assert reason(b"II*\0nothing that is a TIFF") == "not an image"


def test_unused_alpha_of_bmp_is_opaque() -> None:
    values = RNG.integers(1, 256, (8, 8, 3), np.uint8)

    def bmp(alpha: int) -> bytes:
        pixels = np.concatenate([values[::-1, :, ::-1], np.full((8, 8, 1), alpha, np.uint8)], 2).tobytes()
        masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        header = struct.pack("<IiiHHIIiiII", 108, 8, 8, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks + b"BGRs"
        header += bytes(108 - len(header))
        return b"BM" + struct.pack("<IHHI", 14 + 108 + len(pixels), 0, 0, 14 + 108) + header + pixels

    assert Image.open(io.BytesIO(bmp(0))).mode == "RGBA"
    for raw, marks in ((bmp(0), set()), (bmp(255), set())):
        found = decode(raw, Spec((8, 8), 3))
        np.testing.assert_array_equal(found.pixels, values.transpose(2, 0, 1))
        assert found.marks == marks
    assert (decode(Tile(bmp(0), 0, 0, 4, 4), Spec((4, 4), 3)).pixels.transpose(1, 2, 0) == values[:4, :4]).all()
    assert decode(bmp(128), Spec((8, 8), 3)).marks == {"transparent"}


def test_ignored_alpha_shows_the_stored_colors() -> None:
    values = RNG.integers(0, 256, (8, 8, 4), np.uint8)
    values[0, 0, 3] = 0
    found = decode(encoded(Image.fromarray(values)), Spec((8, 8), 3, ignore_alpha=True))
    np.testing.assert_array_equal(found.pixels, values[..., :3].transpose(2, 0, 1))
    assert not found.marks


def test_the_limit_of_pixels_is_named_and_can_be_raised(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{i}.png")
    Image.fromarray(RNG.integers(0, 256, (40, 25, 3), np.uint8)).save(tmp_path / "large.png")
    large = str(tmp_path / "large.png")
    limit = Image.MAX_IMAGE_PIXELS
    assert reason(large, Spec((8, 8), 3, load=LoadOptions(max_pixels=999))) == (
        "too many pixels (1,000, more than data.max_pixels=999)"
    )
    assert decode(large, Spec((8, 8), 3, load=LoadOptions(max_pixels=1000))).pixels.shape == (3, 8, 8)
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match="1 too many pixels"):
        prepare(DataConfig(source=str(tmp_path), max_pixels=999), workers=1)
    found = prepare(DataConfig(source=str(tmp_path), max_pixels=999, max_rejects=0.5), workers=1)
    assert [reject.path for reject in found.rejects] == ["large.png"]
    assert not prepare(DataConfig(source=str(tmp_path), max_pixels=1000), workers=1).rejects
