"""Tiles cover their image, and stay together with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataConfig
from ectype.core.errors import DataError, RecipeError
from ectype.data.dataset import open_store
from ectype.data.prepare import prepare

RNG = np.random.default_rng(0)


def folder(root: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    pictures = {}
    for name, (height, width) in sizes.items():
        pictures[name] = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[name]).save(root / name)
    return pictures


def prepared(root: Path, **keys):
    config = DataConfig(source=str(root), **{"size": 32, "resize": "tiles", "split": {"val": 0, "test": 0}, **keys})
    return prepare(config, workers=1), config


def test_files_of_several_pages_are_told_once_each(tmp_path: Path) -> None:
    pages = [Image.fromarray(RNG.integers(0, 256, (64, 96), dtype=np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    pages[1].save(tmp_path / "one.tif")
    found, _ = prepared(tmp_path)
    assert len(found) == 2 * 6
    assert (
        "only the first page of 1 TIFF files with several pages is used: save each page as a file to use all"
        in found.notes
    )


def test_parts_are_pixels_of_their_image_and_cover_it(tmp_path: Path) -> None:
    pictures = folder(tmp_path, {"a.png": (70, 100), "b.png": (32, 32), "c.png": (33, 64)})
    found, config = prepared(tmp_path)
    images = open_store(found, config).split("train")
    assert len(images) == 3 * 4 + 1 + 2 * 2
    seen = {name: np.zeros(picture.shape[:2], bool) for name, picture in pictures.items()}
    for part, name in zip(images, images.names, strict=True):
        file, _, place = name.partition("#")
        top, left = map(int, place.split(","))
        assert np.array_equal(part.permute(1, 2, 0).numpy(), pictures[file][top : top + 32, left : left + 32])
        seen[file][top : top + 32, left : left + 32] = True
    assert all(covered.all() for covered in seen.values())
    assert any("3 images cut into 17 tiles of 32×32" in note for note in found.notes)


def test_a_smaller_image_is_one_part_enlarged(tmp_path: Path) -> None:
    folder(tmp_path, {"small.png": (20, 30), "wide.png": (16, 64)})
    found, config = prepared(tmp_path)
    assert list(open_store(found, config).split("train").names) == ["small.png#0,0", "wide.png#0,0", "wide.png#0,32"]


def test_parts_of_an_image_stay_in_one_split_and_have_its_class(tmp_path: Path) -> None:
    sizes = {f"{kind}/{i}.png": (64, 64) for kind in ("cat", "dog") for i in range(20)}
    folder(tmp_path, sizes)
    found, config = prepared(tmp_path, split={"val": 0.2, "test": 0.2})
    store = open_store(found, config)
    homes: dict[str, set[str]] = {}
    for split, images in store.splits():
        assert images.labels is not None
        for name, label in zip(images.names, images.labels.tolist(), strict=True):
            homes.setdefault(name.partition("#")[0], set()).add(split)
            assert name.startswith(store.info.classes[label])
    assert len(homes) == 40
    assert all(len(home) == 1 for home in homes.values())
    assert len({home.copy().pop() for home in homes.values()}) == 3


def test_labels_from_a_file_are_those_of_whole_images(tmp_path: Path) -> None:
    folder(tmp_path / "in", {f"{i}.png": (40, 40) for i in range(6)})
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{i},{'odd' if i % 2 else 'even'}\n" for i in range(6)))
    found, config = prepared(tmp_path / "in", labels=str(table))
    images = open_store(found, config).split("train")
    assert images.labels is not None
    assert len(images) == 24
    for name, label in zip(images.names, images.labels.tolist(), strict=True):
        assert found.info.classes[label] == ("odd" if int(name[0]) % 2 else "even")


@pytest.mark.parametrize("layout", ["folders", "halves"])
def test_partners_are_cut_at_the_same_place(layout: str, tmp_path: Path) -> None:
    for i in range(4):
        image = RNG.integers(0, 200, (50, 70), dtype=np.uint8)
        mask = (image > 100).astype(np.uint8) * 255
        if layout == "folders":
            for name, pixels in (("images", image), ("masks", mask)):
                (tmp_path / name).mkdir(exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
        else:
            Image.fromarray(np.concatenate([image, mask], 1)).save(tmp_path / f"{i}.png")
    keys = {"pairs": "masks", "input": "left"} if layout == "halves" else {"pairs": "masks"}
    found, config = prepared(tmp_path, **keys)
    images = open_store(found, config).split("train")
    assert len(images) == 4 * 2 * 3
    pixels, target = images.separate_target(images.gather(torch.arange(len(images))))
    assert target is not None
    assert ((pixels[:, 0] > 100) == (target[:, 0] == 1)).all()


def test_partners_of_another_size_are_left_out_with_a_reason(tmp_path: Path) -> None:
    for i in range(3):
        for name, size in (("images", (64, 64)), ("masks", (64, 64) if i else (32, 64))):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(RNG.integers(0, 2, size, dtype=np.uint8) * 255).save(tmp_path / name / f"{i}.png")
    found, _ = prepared(tmp_path, pairs="masks", max_rejects=0.5)
    assert [(reject.path, reject.reason) for reject in found.rejects] == [
        ("0.png", "target: 64×32, but its image is 64×64")
    ]
    assert len(found) == 8


def test_broken_images_are_rejected_as_they_are_otherwise(tmp_path: Path) -> None:
    folder(tmp_path, {"a.png": (64, 64)})
    (tmp_path / "b.png").write_bytes(b"nothing")
    found, _ = prepared(tmp_path, max_rejects=0.5)
    assert [reject.path for reject in found.rejects] == ["b.png"]
    with pytest.raises(DataError, match="1 of 5 images"):
        prepared(tmp_path, max_rejects=0.1)


def test_the_size_of_parts_must_be_named() -> None:
    with pytest.raises(RecipeError, match="needs a fixed size: set size=256"):
        load_recipe("ae", ["resize=tiles"])
