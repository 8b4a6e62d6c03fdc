"""Images that are passed as Python objects: what is accepted, what they become, what is refused."""

from __future__ import annotations

import doctest
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import ectype
from ectype.config.schema import DataConfig
from ectype.core.errors import DataError, EctypeWarning
from ectype.data import cache
from ectype.data.dataset import open_store
from ectype.data.prepare import prepare
from ectype.data.sources import memory
from ectype.data.sources.memory import open_memory, register, restore, source_text
from ectype.data.sources.open import open_source
from ectype.training.run import train
from tests.conformance.small import small

N = 40


def images(n: int = N, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *(shape or (16, 16, 3))), np.uint8)


class Items(Dataset):
    """A dataset of a function of the index."""

    def __init__(self, item: Any, n: int = N, **attributes: Any) -> None:
        self.item, self.n = item, n
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


def pixels(source: str, **config: Any) -> np.ndarray:
    """All prepared images of a source, in order."""
    found = prepare(DataConfig(source=source, **config))
    return np.concatenate([np.load(shard) for shard in found.shards])


def test_examples() -> None:
    assert doctest.testmod(memory).failed == 0


# ── What is accepted ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_equal_images_have_one_name_however_they_are_passed() -> None:
    x = images()
    tensor = torch.from_numpy(x).permute(0, 3, 1, 2)
    columns = datasets.Features({"image": datasets.Array3D((16, 16, 3), "uint8")})
    forms = [
        x,
        np.asfortranarray(x),
        tensor,
        tensor / 255,
        (tensor / 255).double(),
        [Image.fromarray(image) for image in x],
        list(tensor),
        TensorDataset(tensor),
        Items(lambda i: x[i]),
        Items(lambda i: (x[i] / 255,)),
        datasets.Dataset.from_dict({"image": list(x)}, features=columns),
    ]
    assert len({register(form) for form in forms}) == 1
    assert np.array_equal(pixels(register(x)), x.transpose(0, 3, 1, 2))
    assert register(x[::-1]) != register(x)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("first", [True, False])
def test_both_orders_of_axes(channels: int, first: bool) -> None:
    x = images(N, 8, 12, channels)
    given = x.transpose(0, 3, 1, 2) if first else x
    assert np.array_equal(pixels(register(given)), x.transpose(0, 3, 1, 2))


def test_grey_images_without_a_channel_axis() -> None:
    x = images(N, 8, 12)
    assert np.array_equal(pixels(register(x))[:, 0], x)
    assert register(x) == register(x[..., None]) == register([Image.fromarray(image) for image in x])


def test_floats_round_to_the_nearest_value() -> None:
    values = np.linspace(0, 1, N * 64, dtype=np.float32).reshape(N, 8, 8)
    assert np.array_equal(pixels(register(values))[:, 0], np.rint(values * 255).astype(np.uint8))
    # What resizing overshoots by less than half a step rounds to black and white.
    assert register(np.clip(values * 1.003 - 0.001, -0.0015, 1.0015)) is not None


def test_bfloat16_and_gradients_are_no_obstacle() -> None:
    x = torch.rand(N, 3, 8, 8).bfloat16().requires_grad_()
    assert pixels(register(x)).shape == (N, 3, 8, 8)


def test_bool_images_are_black_and_white() -> None:
    x = images(N, 8, 8) > 128
    assert set(np.unique(pixels(register(x)))) == {0, 255}


def test_images_of_any_sizes_and_modes() -> None:
    modes = ("L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16")
    given = [Image.new(mode, (10 + i % 7, 20 - i % 7)) for i, mode in enumerate(modes * 5)]
    assert pixels(register(given), size=8, channels=3).shape == (40, 3, 8, 8)


def test_pil_images_are_turned_as_their_exif_data_say() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(images(1, 8, 16, 3)[0])
    image.getexif()[0x0112] = 6
    turned = image.transpose(Image.Transpose.ROTATE_270)
    assert register([image] * 3) == register([turned] * 3)


def test_transparent_pixels_take_the_background() -> None:
    clear = np.zeros((N, 8, 8, 4), np.uint8)
    with pytest.warns(EctypeWarning, match="all images are wholly transparent, .*: data.alpha=ignore shows"):
        assert (pixels(register(clear), background="white", channels=3) == 255).all()


@pytest.mark.parametrize(
    "labels",
    [
        [i % 3 for i in range(N)],
        np.arange(N) % 3,
        torch.arange(N) % 3,
        (torch.arange(N) % 3)[:, None],
        [str(i % 3) for i in range(N)],
    ],
)
def test_labels_beside_an_array(labels: Any) -> None:
    found = prepare(DataConfig(source=register((images(), labels))))
    assert found.info.classes == ("0", "1", "2")
    assert found.labels is not None
    assert found.labels.tolist() == [i % 3 for i in range(N)]


def test_labels_of_a_dataset_and_its_class_names() -> None:
    x = images()
    plain = Items(lambda i: (Image.fromarray(x[i]), i % 2))
    named = Items(lambda i: (Image.fromarray(x[i]), torch.tensor(i % 2)), classes=["cat", "dog"])
    assert prepare(DataConfig(source=register(plain))).info.classes == ("0", "1")
    assert prepare(DataConfig(source=register(named))).info.classes == ("cat", "dog")
    assert open_memory(Subset(named, range(20))).listing().classes == ("cat", "dog")
    renamed = Items(named.item, classes=["cat", "dog"], target_transform=lambda label: 1 - label)
    assert open_memory(renamed).listing().classes == ("0", "1")


def test_class_names_that_do_not_fit_the_labels_are_reported() -> None:
    x = images()
    listing = open_memory(Items(lambda i: (x[i], i % 4), classes=["a", "b"])).listing()
    assert listing.classes == ("0", "1", "2", "3")
    assert "class names do not fit" in listing.notes[0]


def test_a_hugging_face_dataset() -> None:
    x = images()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    columns = {"image": [Image.fromarray(image) for image in x], "label": [i % 2 for i in range(N)]}
    data = datasets.Dataset.from_dict(columns, features=features)
    found = prepare(DataConfig(source=register(data)))
    assert found.info.classes == ("x", "y")
    assert np.array_equal(pixels(register(data)), x.transpose(0, 3, 1, 2))  # PNG is lossless
    both = datasets.DatasetDict(train=data, test=data.select(range(10)))
    assert prepare(DataConfig(source=register(both))).split_sizes["test"] == 10
    secret = datasets.DatasetDict(train=data, test=data.map(lambda row: {"label": -1}, load_from_cache_file=False))
    listing = open_memory(secret).listing()
    assert listing.labels is None
    assert "labels are ignored" in listing.notes[0]


def test_a_hugging_face_dataset_with_masks() -> None:
    x = images()
    masks = [Image.fromarray((image[..., 0] > 128).astype(np.uint8)) for image in x]
    columns = {"image": [Image.fromarray(image) for image in x], "annotation": masks}
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    source = register(datasets.Dataset.from_dict(columns, features=features))
    found = prepare(DataConfig(source=source, pairs="masks"))
    assert found.info.target is not None
    assert found.info.target.classes == ("0", "1")
    assert np.array_equal(pixels(source, pairs="masks")[:, 3], x[..., 0] > 128)


def test_splits_by_name_are_kept_and_missing_ones_taken_from_training() -> None:
    found = prepare(DataConfig(source=register({"train": images(30), "test": images(7, seed=1)})))
    assert found.split_sizes["test"] == 7
    assert found.split_sizes["val"] >= 1
    assert found.split_sizes["train"] + found.split_sizes["val"] == 30
    kept = prepare(DataConfig(source=register({"train": images(30), "val": images(5), "test": images(7)})))
    assert kept.split_sizes == {"train": 30, "val": 5, "test": 7}


@pytest.mark.parametrize("kind", ["int64", "bool", "float", "palette", "tensor"])
def test_masks(kind: str) -> None:
    x = images()
    mask = (x[..., 0] > 128).astype(np.uint8)

    def palette(i: int) -> Image.Image:
        image = Image.fromarray(mask[i]).convert("P")
        image.putdata(mask[i].ravel().tolist())
        image.putpalette([9, 9, 9, 200, 0, 0])
        return image

    second: Any = {
        "int64": lambda: (x, mask.astype(np.int64)),
        "bool": lambda: (x, mask.astype(bool)),
        "float": lambda: (x, mask.astype(np.float32)),
        "palette": lambda: Items(lambda i: (Image.fromarray(x[i]), palette(i))),
        "tensor": lambda: Items(
            lambda i: (torch.from_numpy(x[i] / 255).permute(2, 0, 1), torch.from_numpy(mask[i])[None].long())
        ),
    }[kind]()
    source = register(second)
    found = prepare(DataConfig(source=source, pairs="masks"))
    assert found.info.target is not None
    assert len(found.info.target.classes) == 2
    assert np.array_equal(pixels(source, pairs="masks")[:, 3], mask)
    if kind == "palette":
        assert found.info.target.colours == ((9, 9, 9), (200, 0, 0))
    plain = prepare(DataConfig(source=source))
    assert plain.info.target is None
    assert any("data.pairs" in note for note in plain.notes)


def test_pictures_as_partners() -> None:
    x, y = images(), images(seed=1)
    assert np.array_equal(pixels(register((x, y)), pairs="images")[:, 3:], y.transpose(0, 3, 1, 2))


def test_tiles_are_cut_from_images_in_memory() -> None:
    source = register(images(N, 32, 48, 3))
    assert prepare(DataConfig(source=source, size=16, resize="tiles")).split_sizes["train"] > 3 * N


# ── The cache ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_or_path_is_left_as_it_is(tmp_path: Path) -> None:
    assert source_text("digits") == "digits"
    assert source_text(tmp_path) == str(tmp_path)
    assert source_text(images()).startswith("memory:")


def test_another_process_finds_the_images_and_splits_them_alike() -> None:
    source = register((images(), [i % 2 for i in range(N)]))
    here = prepare(DataConfig(source=source))
    script = (
        "from ectype.data.prepare import prepare; from ectype.config.schema import DataConfig\n"
        f"one, two = (prepare(DataConfig(source={source!r}, size=size)) for size in ('auto', 8))\n"
        "print(one.fingerprint, two.info.size)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split(" ", 1) == [here.fingerprint, "(8, 8)\n"]


def test_a_cleaned_cache_asks_for_the_data_again() -> None:
    x = images()
    source = register(x)
    before = prepare(DataConfig(source=source))
    assert cache.clean().entries == 2
    with pytest.raises(DataError, match="pass the same images again from Python, data=images"):
        prepare(DataConfig(source=source))
    with pytest.raises(DataError, match="these are not the images of"):
        restore(source, images(seed=3))
    with pytest.raises(DataError, match="not in memory"):
        restore("digits", x)
    restore(source, x / 255)
    assert prepare(DataConfig(source=source)).fingerprint == before.fingerprint


def test_prepared_images_are_found_without_the_stored_ones() -> None:
    source = register(images())
    prepare(DataConfig(source=source))
    for entry in cache.cache_root().glob("memory-00*"):
        for file in entry.iterdir():
            file.unlink()
    assert not prepare(DataConfig(source=source)).built


def test_registering_twice_writes_once() -> None:
    source = register(images())
    (entry,) = cache.cache_root().glob("memory-00*")
    before = (entry / "images.bin").stat().st_mtime_ns
    assert register(list(images())) == register(images()) == source
    assert (entry / "images.bin").stat().st_mtime_ns == before
    assert [path.name for path in cache.cache_root().iterdir()] == [entry.name]


def test_the_source_lists_names_and_samples_evenly() -> None:
    source = open_source(register({"train": images(9), "test": images(3)}))
    assert list(source.listing().names)[:1] == ["train/00000"]
    assert source.listing().names[-1] == "test/00002"
    assert len(source.sample(4)) == 4
    assert sum(map(len, source.batches(5))) == 12


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

RNG = np.random.default_rng(0)
BAD: dict[str, tuple[Any, str]] = {
    "floats to 255": (images() * 1.0, "divide by 255"),
    "−1 to 1": (images() / 127.5 - 1, r"rescale them, \(x \+ 1\) / 2"),
    "normalized": (RNG.normal(size=(5, 8, 8)), "undo the normalization"),
    "NaN": (np.full((5, 8, 8), np.nan), "NaN or infinite"),
    "an infinite value": (np.full((5, 8, 8), np.inf), "NaN or infinite"),
    "integers": (images().astype(np.int64), r"astype\('uint8'\)"),
    "16 bits": (images().astype(np.uint16) * 257, r"images // 257"),
    "texts": (np.array([["a"]]), "has no height and width"),
    "two channels": (images(5, 8, 8, 2), "neither 1, 3 nor 4 channels"),
    "empty": (images(0, 8, 8, 3), "holds no images"),
    "an empty list": ([], "holds no images"),
    "either order": (images(5, 3, 9, 3), "can be read as"),
    "one image": (images(1)[0], "looks like one image"),
    "one image, channels first": (images(1)[0].transpose(2, 0, 1), "looks like one image"),
    "one PIL image": (Image.new("L", (8, 8)), "pass a list of them"),
    "rows": (images(5, 784), r"images.reshape\(-1, 28, 28\)"),
    "five axes": (images(1, 1, 1, 1, 1), "not a set of images"),
    "a path in a list": (["a.png"], "item 0 of the dataset is a str"),
    "a number": (3, "not a set of images with a length"),
    "nothing": (None, "not a set of images with a length"),
    "an iterator": (iter([1]), r"pass list\(dataset\)"),
    "a loader": (DataLoader(Items(lambda i: i)), "loader.dataset"),
    "unknown keys": ({"images": images()}, "names of splits as keys"),
    "no keys": ({}, "names of splits as keys"),
    "a split twice": ({"val": images(), "valid": images()}, "name a split twice"),
    "three in a tuple": ((images(),) * 3, "a tuple of 3"),
    "too few labels": ((images(), [1]), "40 images and 1 labels"),
    "one-hot labels": ((images(), np.eye(3)[[0] * N]), r"labels.argmax\(1\)"),
    "fractions as labels": ((images(), [0.5] * N), "class index or a class name"),
    "three in an item": (Items(lambda i: (images()[i], 1, 2)), "has 3 parts"),
    "a label here and there": (Items(lambda i: (images()[i], i) if i % 2 else images()[i]), "only some items"),
    "a broken dataset": (Items(lambda i: 1 / 0), r"item 0 of the dataset cannot be read \(ZeroDivisionError"),
    "masks of −1": ((images(), np.full((N, 16, 16), -1)), "use 255 for pixels"),
    "one-hot masks": (Items(lambda i: (images()[i], np.zeros((7, 16, 16), bool))), "one class index per pixel"),
    "no image column": (datasets.Dataset.from_dict({"text": ["a"]}), "no image columns"),
    "masks in one split": ({"train": images(), "test": (images(), images())}, "only some splits have masks"),
}


@pytest.mark.parametrize("data, message", BAD.values(), ids=list(BAD))
def test_what_cannot_be_used_is_refused_in_one_line(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        register(data)
    assert "\n" not in str(caught.value)
    assert not list(cache.cache_root().glob("*"))


def test_several_image_columns_are_refused() -> None:
    columns = {name: [Image.new("L", (8, 8))] * 3 for name in ("one", "two")}
    features = datasets.Features(dict.fromkeys(columns, datasets.Image()))
    with pytest.raises(DataError, match="several image columns"):
        register(datasets.Dataset.from_dict(columns, features=features))


def test_almost_black_images_are_warned_of() -> None:
    with pytest.warns(EctypeWarning, match="multiply by 255"):
        register(images() // 255)


def test_masks_that_were_not_given_are_asked_for() -> None:
    with pytest.raises(DataError, match="have no masks or partners"):
        prepare(DataConfig(source=register(images()), pairs="masks"))


# ── Training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_is_trained_on_an_array_and_resumed(tmp_path: Path) -> None:
    x = images(N, 8, 8)
    source = register((x, [i % 2 for i in range(N)]))
    fast = {"train.images": 320, "monitor.every": 160, "run.pictures": 0, "run.log_every": 1000}
    recipe = small("vae-fast", **fast)
    run = train(recipe, source, {"batch": 8}, out=tmp_path / "run")
    assert run.recipe.data.source == source
    store = open_store(prepare(run.recipe.data), run.recipe.data)
    image = store.split("test").batch(torch.arange(1)).image
    assert ectype.load(run.path).reconstruct(image).shape == image.shape
    assert train(recipe, source, {"batch": 8}, out=tmp_path / "run").seen() == 320


def test_masks_of_images_with_an_orientation_lie_as_they_do_or_are_refused() -> None:
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 2, (8, 8), np.uint8) * 255 for _ in range(N)]
    turned = Image.Exif()
    turned[0x0112] = 3

    def opened(pixels: np.ndarray, exif: Image.Exif | None) -> Image.Image:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", **({} if exif is None else {"exif": exif}))
        return Image.open(io.BytesIO(file.getvalue()))

    with pytest.raises(DataError, match=r"the image of item 0 has an EXIF orientation \(3\), which its mask lacks"):
        register([(opened(each, turned), each) for each in drawn])
    both = [(opened(each, turned), opened(each, turned)) for each in drawn]
    found = prepare(DataConfig(source=register(both), pairs="masks"), workers=1)
    pixels = np.concatenate([np.load(shard) for shard in found.shards])
    np.testing.assert_array_equal(pixels[:, 1], pixels[:, 0] // 255)
    np.testing.assert_array_equal(pixels[0, 0], drawn[0][::-1, ::-1])
