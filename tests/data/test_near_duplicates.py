"""Pairs of images that nearly equal each other are found whole, and nothing else is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ectype.data import near_duplicates
from ectype.data.held_out_duplicates import find_held_out_duplicates
from ectype.data.near_duplicates import NearPairs, compute_pairs, stored_pairs
from ectype.data.prepare import prepare
from tests.data.test_prepare import config


def scene(seed: int, side: int = 32) -> np.ndarray:
    """A smooth color picture."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC))


def saved_again(image: np.ndarray, quality: int = 85) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def drawing(seed: int, tone: tuple[int, int, int]) -> np.ndarray:
    """A figure in a tone, on white, with details that have their own colors."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    x, y, radius = (int(v) for v in rng.integers((20, 14, 8), (44, 26, 13)))
    draw.rectangle((x - radius - 4, y + radius, x + radius + 4, 63), fill=tuple(rng.integers(0, 200, 3).tolist()))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tone)
    for _ in range(5):
        left, top = rng.integers(2, 50, 2).tolist()
        draw.rectangle((left, top, left + 6, top + 4), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return np.asarray(image)


def pairs_of(tmp_path: Path, images: list[np.ndarray]) -> NearPairs:
    pixels = np.stack(images).transpose(0, 3, 1, 2)
    np.save(tmp_path / "images.npy", np.ascontiguousarray(pixels))
    _, originals, inverse = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True, return_inverse=True)
    return compute_pairs([tmp_path / "images.npy"], 3, originals[inverse.ravel()], np.ones(len(images), bool))


def found_pairs(pairs: NearPairs) -> set[tuple[int, int]]:
    return {(int(one), int(other)) for one, other in pairs.rows}


def test_other_encodings_are_found(tmp_path: Path) -> None:
    scenes = [scene(i) for i in range(40)]
    pairs = pairs_of(tmp_path, [*scenes, *(saved_again(image) for image in scenes[:10])])
    assert found_pairs(pairs) == {(i, 40 + i) for i in range(10)}
    assert (pairs.distances > 0).all()
    assert (pairs.distances < 1).all()


def test_a_drawing_in_other_tones_is_found_and_other_drawings_are_not(tmp_path: Path) -> None:
    tones = (250, 215, 160), (200, 150, 110), (110, 70, 50)
    pairs = pairs_of(tmp_path, [drawing(i, tone) for i in range(30) for tone in tones])
    assert all(one // 3 == other // 3 for one, other in found_pairs(pairs))
    connected = {one // 3 for one, _ in found_pairs(pairs)}
    assert len(connected) == 30


def test_equal_shapes_in_quite_other_colors_are_not_found(tmp_path: Path) -> None:
    def flag(colors: list[tuple[int, int, int]]) -> np.ndarray:
        return np.repeat(np.array(colors, np.uint8), [11, 11, 10], axis=0)[:, None].repeat(32, 1)

    red, green, blue = (220, 30, 30), (30, 160, 60), (30, 40, 170)
    flags = [flag([red, green, blue]), flag([blue, red, green]), flag([green, blue, red])]
    assert not found_pairs(pairs_of(tmp_path, [*flags, *(scene(i) for i in range(40))]))


def test_exact_copies_are_chained(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, [scene(0), scene(1), scene(0), scene(2), scene(0), *(scene(i) for i in range(3, 20))])
    assert found_pairs(pairs) == {(0, 2), (2, 4)}
    assert (pairs.distances == 0).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images(tmp_path: Path, count: int) -> None:
    assert len(pairs_of(tmp_path, [scene(i) for i in range(count)]).rows) == 0
    assert found_pairs(pairs_of(tmp_path, [scene(0)] * count)) == {(i, i + 1) for i in range(count - 1)}


def test_no_pair_is_lost_by_the_projection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs are compared, in small blocks of which most are left out by their first component."""
    rng = np.random.default_rng(0)
    scenes = [scene(int(i % 90)) for i in range(300)]
    images = [np.clip(image + rng.normal(0, rng.uniform(0, 30), image.shape), 0, 255) for image in scenes]
    monkeypatch.setattr(near_duplicates, "ROWS_PER_PRODUCT", 16)
    monkeypatch.setattr(near_duplicates, "COLUMNS_PER_PRODUCT", 32)
    found = pairs_of(tmp_path, [image.astype(np.uint8) for image in images])
    comparison = near_duplicates._Comparison(
        near_duplicates._pictures([tmp_path / "images.npy"], 3, np.arange(len(images)))
    )
    one, other = np.triu_indices(len(images), 1)
    is_near = np.isfinite(comparison.compare(one, other))
    assert found_pairs(found) == set(zip(one[is_near].tolist(), other[is_near].tolist(), strict=True))
    assert 50 < is_near.sum() < 1000
    assert found.num_crowded == 0


def test_many_similar_images_are_counted_and_still_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", 4)
    rng = np.random.default_rng(0)
    same = [np.clip(scene(0) + rng.normal(0, 2, (32, 32, 3)), 0, 255).astype(np.uint8) for _ in range(60)]
    pairs = pairs_of(tmp_path, [*same, *(scene(i) for i in range(1, 80))])
    assert pairs.num_crowded > 30
    group = np.arange(139)
    for _ in range(60):
        for one, other in pairs.rows:
            group[[one, other]] = min(group[one], group[other])
    assert set(group[:60]) == {0}


def test_more_images_than_can_be_compared_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "MAX_IMAGES", 5)
    assert not pairs_of(tmp_path, [scene(i) for i in range(6)]).is_complete


def test_copies_stand_for_each_other_in_held_out_images(tmp_path: Path) -> None:
    """A held-out copy of a held-out image is as close to training as that image is."""
    for name, image in {
        **{f"train/{i:02d}": scene(i) for i in range(30)},
        "test/a": saved_again(scene(3)),
        "test/b": saved_again(scene(3)),
        "test/c": scene(5),
        "test/d": scene(99),
    }.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
    found = find_held_out_duplicates(prepare(config(tmp_path / "images", size=32, split={"val": 0}), workers=1))
    names = sorted([*(f"test/{name}" for name in "abcd"), *(f"train/{i:02d}" for i in range(30))])
    assert found.num_compared == 4
    pairs = zip(found.held_out, found.training, strict=True)
    assert {names[a]: names[b] for a, b in pairs} == {
        "test/a": "train/03",
        "test/b": "train/03",
        "test/c": "train/05",
    }


@pytest.mark.parametrize("damage", [b"", b"nothing", "cut", "flipped"])
def test_damaged_pairs_are_found_again(tmp_path: Path, own_cache: Path, damage: bytes | str) -> None:
    (tmp_path / "images").mkdir()
    for i in range(30):
        Image.fromarray(saved_again(scene(i % 20), 85 + i)).save(tmp_path / "images" / f"{i:02d}.png")
    first = prepare(config(tmp_path / "images", size=32), workers=1)
    pairs, file = stored_pairs(first.root, first.shards, 3), first.root / "near-duplicates.npz"
    assert len(pairs.rows) >= 5
    content = file.read_bytes()
    if damage == "flipped":
        middle = content.index(b"distances") + 200
        content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    elif damage == "cut":
        content = content[: len(content) // 2]
    file.write_bytes(damage if isinstance(damage, bytes) else content)
    again = stored_pairs(first.root, first.shards, 3)
    assert found_pairs(again) == found_pairs(pairs)
    np.testing.assert_array_equal(again.distances, pairs.distances)
    assert prepare(config(tmp_path / "images", size=32), workers=1).fingerprint == first.fingerprint
