"""Exploring models of every kind: what is decoded, sampled and encoded equals what the API returns."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ectype
from ectype.core.errors import DataError, ModelError
from ectype.core.images import as_pixels
from ectype.inference.explore import Explorer
from ectype.training.run import train
from tests.conformance.small import small

pytestmark = pytest.mark.trains

FAST = {"train.images": 640, "monitor.every": 320, "run.pictures": 0, "run.log_every": 1000, "monitor.images": 100}
Get = Callable[[str], Explorer]


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Get:
    """Return the explorer of a preset's run, which is trained once."""
    root, found = tmp_path_factory.mktemp("runs"), {}

    def get(preset: str) -> Explorer:
        if preset not in found:
            found[preset] = Explorer(train(small(preset, **FAST), out=root / preset).path)
        return found[preset]

    return get


def png(side: int = 24, mode: str = "L") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(written, "PNG")
    return written.getvalue()


CAN = {  # encode, sample, classes, unit
    "vae": (True, True, False, "code"),
    "ae": (True, True, False, "code"),
    "vqvae": (True, True, False, "code"),
    "iwae-deep": (True, True, False, "code"),
    "cgan-mlp": (False, True, True, "z"),
    "flow": (False, True, False, "z"),
}


@pytest.mark.parametrize("preset", CAN)
def test_a_model_is_described_mapped_decoded_and_sampled(explorer: Get, preset: str) -> None:
    found = explorer(preset)
    told = found.describe()
    conditional = told["conditional"]
    if preset in CAN and preset != "flow":
        assert (told["canEncode"], told["canSample"], conditional, told["unit"]) == CAN[preset]
    points = found.points(seconds=60)
    n = len(points.coordinates)
    assert n == len(points.codes) >= 100
    assert points.coordinates.shape[1] == len(points.space.names)
    assert points.labels is None or len(points.labels) == n
    codes, labels, images = found.sample(3, seed=5)
    assert codes.shape == (3, found.length)
    assert torch.equal(images, found.decode(codes, labels))
    assert images.shape == (3, *found.info.shape)
    pictures, names = found.pictures([0, n - 1])
    assert pictures.shape == (2, *found.info.shape)
    assert len(names) == (2 if found.has_codes else 0)
    indices, distances = found.nearest(found.codes([7])[0], 4)
    assert indices[0] == 7
    assert distances == sorted(distances)
    assert distances[0] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("preset", ["vae", "cgan-mlp"])
def test_samples_are_those_of_the_command(explorer: Get, preset: str) -> None:
    found = explorer(preset)
    assert torch.equal(found.sample(6, seed=3)[2], ectype.sample(found.place, 6, seed=3).plain())
    cut = found.sample(4, seed=3, truncation=0.5, label=1 if preset == "cgan-mlp" else None)
    label = {"label": "1"} if preset == "cgan-mlp" else {}
    assert torch.equal(cut[2], ectype.sample(found.place, 4, seed=3, truncation=0.5, **label).plain())


def test_codes_and_images_are_those_of_the_api(explorer: Get) -> None:
    found = explorer("vae")
    found.points()
    images, _ = found.pictures([3, 4])
    codes = ectype.encode(found.place, images)
    assert isinstance(codes, torch.Tensor)
    assert torch.allclose(codes.flatten(1), found.codes([3, 4]), atol=1e-5)
    decoded = ectype.decode(found.place, codes)
    assert isinstance(decoded, ectype.ImageBatch)
    assert torch.allclose(decoded.plain(), found.decode(codes.flatten(1)), atol=1e-5)
    code, image = found.encode(png())
    assert torch.allclose(found.decode(code[None]), found.apply(png()).outputs, atol=1e-5)
    assert image.shape == found.info.shape


def test_time_that_is_up_leaves_a_fair_part_of_the_points(explorer: Get) -> None:
    found = explorer("vae")
    part = found.points(seconds=0.0)
    assert 2 <= len(part.coordinates) < len(found.points().coordinates)
    assert " of 1,797 images" in part.note


def test_examples_by_name_are_the_same_inputs_for_another_model(explorer: Get) -> None:
    one, two = explorer("vae").examples(None, 5), explorer("ae").examples
    assert one.what == "reconstructions"
    other = two(one.names, 5)
    assert other.names == one.names
    assert torch.equal(as_pixels_tensor(one.inputs), as_pixels_tensor(other.inputs))
    with pytest.raises(DataError, match="other images"):
        two(["nothing.png"], 5)
    with pytest.raises(ModelError, match="from noise"):
        explorer("cgan-mlp").examples(None, 5)


def as_pixels_tensor(images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(as_pixels(images))


@pytest.mark.parametrize("preset, what", [("unet-denoise", "restored images"), ("unet-segment", "masks")])
def test_a_translator_has_no_codes_but_outputs(explorer: Get, preset: str, what: str) -> None:
    found = explorer(preset)
    told = found.describe()
    assert (told["length"], told["output"], told["canSample"]) == (0, what, False)
    assert told["tasks"] == ["restore" if preset == "unet-denoise" else "translate"]
    made = found.examples(None, 3)
    assert len(made.outputs) == len(made.inputs) == 3
    assert as_pixels(made.outputs).shape[3] in (1, 3)
    for refused in (found.points, lambda: found.decode(torch.zeros(1, 4)), lambda: found.encode(png())):
        with pytest.raises(ModelError):
            refused()


def test_wrong_codes_labels_and_images_are_refused_in_one_line(explorer: Get) -> None:
    vae, gan = explorer("vae"), explorer("cgan-mlp")
    for refused in (
        lambda: vae.decode(torch.zeros(1, 3)),
        lambda: vae.decode(torch.full((1, vae.length), torch.nan)),
        lambda: vae.sample(2, density="nothing"),
        lambda: vae.sample(2, truncation=-1.0),
        lambda: vae.nearest(torch.zeros(3), 2),
        lambda: gan.decode(torch.zeros(2, gan.length)),
        lambda: gan.decode(torch.zeros(2, gan.length), [0, 99]),
        lambda: gan.sample(2, label=-1),
        lambda: gan.encode(png()),
        lambda: gan.apply(png()),
    ):
        with pytest.raises(ModelError) as error:
            refused()
        assert "\n" not in str(error.value)
    vae.points()
    for indices in ([], [-1], [10**6]):
        with pytest.raises(ModelError, match="points"):
            vae.codes(indices)
    for raw in (b"", b"no image", png()[:60]):
        with pytest.raises(DataError, match="cannot be used"):
            vae.encode(raw)


def test_pixels_are_bytes_with_one_or_three_channels() -> None:
    assert as_pixels(torch.ones(2, 1, 3, 4)).shape == (2, 3, 4, 1)
    assert as_pixels(torch.ones(2, 2, 3, 4)).shape == (2, 3, 4, 1)
    made = as_pixels(torch.full((1, 4, 2, 2), 0.5))
    assert made.shape == (1, 2, 2, 3)
    assert (made == 128).all()


def test_an_exported_model_has_no_points(explorer: Get, tmp_path: Path) -> None:
    import shutil

    place = Path(shutil.copytree(explorer("vae").place / "model", tmp_path / "model"))
    recipe = explorer("vae").recipe
    (place / "recipe.json").write_text(recipe.model_dump_json(serialize_as_any=True))
    found = Explorer(place)
    assert "score" not in found.describe()["tasks"]
    with pytest.raises(DataError, match="exported"):
        found.points()
