"""Any file is decoded to pixels of the target shape, or rejected with a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ectype.data.bit_depth import reduce_16_to_8_bits
from ectype.data.colors import parse_color
from ectype.data.decode import Spec, decode
from ectype.data.decode_batch import decode_batch, measure_batch
from ectype.data.raw_image import Rejected, Unreadable


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16-bit RGB, which Pillow reads but cannot write."""
    height, width, _ = values.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def reason(raw: bytes | str, spec: Spec | None = None) -> str:
    with pytest.raises(Rejected) as caught:
        decode(raw, spec or Spec((8, 8), 3))
    return str(caught.value)


# ── Modes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rgb_of_the_wanted_size_is_copied_exactly(picture):
    image = picture(size=(8, 6))
    out = decode(encoded(image), Spec((6, 8), 3))
    np.testing.assert_array_equal(out.pixels, np.asarray(image).transpose(2, 0, 1))
    assert out.pixels.flags.c_contiguous
    assert not out.marks


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_wanted_channels(picture, mode, channels):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = picture(size=(16, 16)).convert(mode)
    out = decode(encoded(image, kind), Spec((16, 16), channels)).pixels
    target = image.convert("RGB").convert("L" if channels == 1 else "RGB")
    values = np.asarray(target)
    expected = values[None] if channels == 1 else values.transpose(2, 0, 1)
    assert np.abs(out.astype(int) - expected).max() <= 1


def test_cmyk_jpeg_is_read_as_its_colours(picture):
    image = Image.new("RGB", (16, 16), (200, 30, 60))
    out = decode(encoded(image.convert("CMYK"), "JPEG", quality=95), Spec((16, 16), 3)).pixels
    assert np.abs(out.mean((1, 2)) - [200, 30, 60]).max() < 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_the_background(mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    if mode == "P":
        image = image.quantize(4)
    out = decode(encoded(image.convert(mode) if mode == "LA" else image), Spec((8, 8), 3, background=(255, 0, 0)))
    assert out.pixels[:, :, :4].reshape(3, -1).T.tolist() == [[255, 0, 0]] * 32
    assert out.pixels[:, :, 4:].max() <= 2
    assert out.marks == {"transparent"}


def test_half_transparent_pixels_are_mixed():
    out = decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))), Spec((4, 4), 3))
    assert abs(int(out.pixels[0, 0, 0]) - 127) <= 1


def test_opaque_alpha_is_no_transparency(picture):
    image = picture().convert("RGBA")
    out = decode(encoded(image), Spec((16, 16), 3))
    assert not out.marks
    np.testing.assert_array_equal(out.pixels, np.asarray(image)[..., :3].transpose(2, 0, 1))


def test_transparent_colours_do_not_bleed_when_shrunk():
    # Bright green in fully transparent pixels must not color the edge.
    image = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 64))
    out = decode(encoded(image), Spec((8, 8), 3, background=(255, 255, 255))).pixels
    assert (out[0] >= 240).all()  # red and white have full red; green has not


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_reduced_and_said(kind):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    out = decode(encoded(Image.fromarray(values), kind), Spec((8, 8), 1))
    np.testing.assert_array_equal(out.pixels[0], np.rint(values / 257).astype(np.uint8))
    assert out.marks == {"16-bit"}
    assert out.max_16_bit_value == 65535


def test_sixteen_bit_colour_is_said_too():
    out = decode(png16(np.full((8, 8, 3), 65535)), Spec((8, 8), 3))
    assert (out.pixels == 255).all()
    assert out.marks == {"16-bit"}


def test_sixteen_bit_ppm_is_said_too():
    assert decode(b"P6 8 8 65535\n" + bytes(8 * 8 * 6), Spec((8, 8), 3)).marks == {"16-bit"}


def test_float_tiff_in_the_unit_interval():
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    out = decode(encoded(Image.fromarray(values), "TIFF"), Spec((8, 8), 1)).pixels
    np.testing.assert_array_equal(out[0], np.rint(values * 255).astype(np.uint8))
    assert "floating-point" in reason(encoded(Image.fromarray(values * 300), "TIFF"))


@given(st.lists(st.integers(0, 65535), min_size=1))
def test_reduce16_rounds_to_nearest(values):
    array = np.array(values, np.uint16)
    np.testing.assert_array_equal(reduce_16_to_8_bits(array), np.floor(array / 257 + 0.5).astype(np.uint8))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), shade) for shade in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        content = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **({} if kind != "WEBP" else {"lossless": True})
        )
        out = decode(content, Spec((8, 8), 3))
        assert out.pixels[:, 4, 4].tolist() == [255, 0, 0], kind
        assert out.marks == {"paged" if kind == "TIFF" else "animated"}, kind


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_undone(picture, orientation, kind):
    upright = picture(3, size=(32, 16))
    # What a camera in this orientation stores: the inverse of the operation that the tag requests.
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = upright if inverse is None else upright.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(content))).size == (32, 16)
    out = decode(content, Spec((16, 32), 3)).pixels.astype(int)
    assert np.abs(out - np.asarray(upright).transpose(2, 0, 1)).mean() < 2
    assert measure_batch([content]) == [(16, 32)]


# ── Grey or not ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_guess_of_grey_is_checked(picture):
    spec = Spec((16, 16), 1, assume_gray=True)
    assert decode(encoded(picture()), spec).is_color
    assert not decode(encoded(picture(mode="L").convert("RGB"), "JPEG"), spec).is_color
    assert not decode(encoded(picture(mode="L")), spec).is_color
    assert not decode(encoded(picture(mode="L").convert("P")), spec).is_color


def test_one_coloured_pixel_is_colour():
    image = Image.new("RGB", (16, 16), (99, 99, 99))
    image.putpixel((3, 5), (99, 99, 120))
    assert decode(encoded(image), Spec((16, 16), 1, assume_gray=True)).is_color


# ── Geometry ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def stripes() -> Image.Image:
    """Red, green, blue thirds from left to right."""
    image = Image.new("RGB", (90, 30))
    for i, shade in enumerate(("#ff0000", "#00ff00", "#0000ff")):
        image.paste(shade, (30 * i, 0, 30 * i + 30, 30))
    return image


def test_crop_keeps_the_middle():
    out = decode(encoded(stripes()), Spec((30, 30), 3, "crop")).pixels
    assert (out[1] == 255).all()
    assert not out[0].any()


def test_squash_keeps_all():
    out = decode(encoded(stripes()), Spec((30, 30), 3, "squash")).pixels
    assert out[0, 15, 2] > 250
    assert out[1, 15, 15] > 250
    assert out[2, 15, 27] > 250


def test_pad_keeps_all_on_the_background():
    out = decode(encoded(stripes()), Spec((30, 30), 3, "pad", (10, 20, 30))).pixels
    assert out[:, 0, 0].tolist() == out[:, 29, 29].tolist() == [10, 20, 30]
    assert out[0, 15, 2] > 250
    assert out[2, 15, 27] > 250
    grey = decode(encoded(stripes().convert("L")), Spec((30, 30), 1, "pad", (10, 20, 30))).pixels
    assert grey[0, 0, 0] == Image.new("RGB", (1, 1), (10, 20, 30)).convert("L").getpixel((0, 0))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(4, 90), st.integers(4, 90)),
    st.tuples(st.integers(4, 40), st.integers(4, 40)),
    st.sampled_from(["crop", "pad", "squash"]),
    st.sampled_from(["PNG", "JPEG"]),
    st.sampled_from([1, 3]),
)
def test_any_size_becomes_any_size(size, target_size, resize, kind, channels):
    """An image of one color keeps it whatever the geometry, and has the target shape."""
    image = Image.new("RGB", size, (128, 128, 128))
    out = decode(encoded(image, kind), Spec(target_size, channels, resize, (128, 128, 128))).pixels
    assert out.shape == (channels, *target_size)
    assert np.abs(out.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("size", [(640, 480), (641, 479), (1023, 769)])
@pytest.mark.parametrize("rule", ["crop", "squash"])
def test_drafted_jpegs_look_like_fully_decoded_ones(size, rule):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    content = encoded(image, "JPEG", quality=95)
    ours = decode(content, Spec((96, 96), 3, rule)).pixels.astype(float)
    whole = Image.open(io.BytesIO(content))
    reference = (
        whole.resize((96, 96), Image.Resampling.BICUBIC)
        if rule == "squash"
        else ImageOps.fit(whole, (96, 96), Image.Resampling.BICUBIC)
    )
    error = np.mean((ours - np.asarray(reference, float).transpose(2, 0, 1)) ** 2)
    assert 10 * np.log10(255**2 / error) > 38


def test_shrinking_averages():
    # Every second column is white: anything but an average over the area of a pixel gives moiré.
    values = np.zeros((64, 64), np.uint8)
    values[:, ::2] = 255
    out = decode(encoded(Image.fromarray(values)), Spec((8, 8), 1)).pixels
    assert np.abs(out.astype(int) - 127).max() <= 3


# ── Rejects ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reasons(picture, tmp_path):
    good = encoded(picture(size=(64, 64)))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert reason(b"") == "empty (0 bytes)"
    assert reason(b"this is no image") == "not an image"
    assert reason(encoded(noise, "JPEG")[:-2000]) == "truncated"
    assert reason(encoded(noise)[:5000]) == "truncated"
    assert reason(encoded(picture(size=(3, 50)))) == "too small (3×50 pixels)"
    assert reason(good, Spec((8, 8), 3, min_size=65)) == "too small (64×64 pixels)"
    (tmp_path / "empty.png").touch()
    assert reason(str(tmp_path / "empty.png")) == "empty (0 bytes)"
    assert reason(str(tmp_path / "none.png")).startswith("not found")
    with pytest.raises(Rejected, match="of its own"):
        decode(Unreadable("of its own"), Spec((8, 8), 3))


def test_decompression_bombs_are_not_unpacked():
    bomb = png16(np.zeros((1, 1, 3)))
    header = bomb[:16] + struct.pack(">II", 20_000, 20_000) + bomb[24:29]
    bomb = header + struct.pack(">I", zlib.crc32(header[12:29])) + bomb[33:]
    assert reason(bomb).startswith("too many pixels")
    smaller = bomb[:16] + struct.pack(">II", 10_000, 10_000) + bomb[24:29]  # here Pillow only warns
    assert reason(smaller + struct.pack(">I", zlib.crc32(smaller[12:29])) + bomb[33:]).startswith("too many pixels")


def test_formats_outside_the_list_are_not_tried():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    assert reason(eps) == "not an image"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "AVIF"]), st.data())
def test_damaged_files_are_rejected_and_never_raise_anything_else(kind, data):
    image = Image.fromarray(np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3))
    content = bytearray(encoded(image, kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    outcome = decode_batch([bytes(content)], Spec((8, 8), 3))
    assert outcome.pixels.shape == (1, 3, 8, 8)
    if outcome.reasons[0] is not None:
        assert not outcome.pixels.any()
        assert "\n" not in outcome.reasons[0]


# ── Batches and arrays ───────────────────────────────────────────────────────────────────────────────────────────────


def test_blocks_take_the_quick_way_to_the_same_result():
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        block = rng.integers(0, 256, (5, 8, 8, channels), np.uint8)
        for target_channels in (1, 3):
            spec = Spec((8, 8), target_channels)
            quick, slow = decode_batch(block, spec), decode_batch(list(block), spec)
            np.testing.assert_array_equal(quick.pixels, slow.pixels)
            np.testing.assert_array_equal(quick.digests, slow.digests)


def test_block_of_equal_channels_counts_as_grey():
    grey = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    spec = Spec((8, 8), 1, assume_gray=True)
    assert not decode_batch(grey.repeat(3, 3), spec).is_color
    assert decode_batch(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8), spec).is_color


def test_arrays_with_alpha_and_too_small_ones():
    block = np.zeros((2, 8, 8, 4), np.uint8)
    assert (decode_batch(block, Spec((8, 8), 3)).pixels == 255).all()
    assert decode_batch(block, Spec((8, 8), 3, min_size=9)).reasons == ["too small (8×8 pixels)"] * 2


def test_digests_tell_images_apart():
    block = np.zeros((3, 8, 8, 1), np.uint8)
    block[2] = 1
    digests = decode_batch(block, Spec((8, 8), 1)).digests
    assert (digests[0] == digests[1]).all()
    assert (digests[0] != digests[2]).any()


def test_colour():
    assert parse_color("navy") == (0, 0, 128)
    assert parse_color("#10203040") == (16, 32, 48)
    with pytest.raises(ValueError, match="unknown"):
        parse_color("whit")
