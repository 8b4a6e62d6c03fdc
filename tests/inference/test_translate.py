from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base

import ectype
from ectype.analysis.results import evaluate, report
from ectype.config.schema import DataConfig
from ectype.core.errors import DataError, EctypeError, ModelError
from ectype.inference.outlines import draw_outlines
from ectype.inference.translate import trained_size, translate
from ectype.runs.run_dir import RunDir
from ectype.training.run import train

pytestmark = pytest.mark.trains

QUICK = [
    *("net.width=4", "net.levels=2", "ema_images=0", "run.pictures=4"),
    *("train.images=960", "monitor.every=480", "batch=8", "optimizer.lr=0.004"),
]


def scene(seed: int, height: int = 40, width: int = 52) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture of bright discs, and where they are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(4):
        mask |= (y - rng.integers(height)) ** 2 + (x - rng.integers(width)) ** 2 < 64
    noise = rng.normal(0, 12, mask.shape)
    return np.clip(np.where(mask, 170, 60) + noise, 0, 255).astype(np.uint8), mask.astype(np.uint8)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cells")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for i in range(40):
        image, mask = scene(i)
        Image.fromarray(image).save(root / f"images/{i}.png")
        Image.fromarray(255 * mask).save(root / f"masks/{i}.png")
    return root


@pytest.fixture(scope="module")
def segmented(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train("unet-segment", cells, QUICK, out=tmp_path_factory.mktemp("runs") / "segment")


@pytest.fixture(scope="module")
def restored(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train("unet-denoise", cells / "images", QUICK, out=tmp_path_factory.mktemp("runs") / "denoise")


def test_masks_are_found_and_said(segmented: RunDir) -> None:
    found = evaluate(segmented)
    dice = found["mean_dice"]
    assert dice.low is not None
    assert dice.high is not None
    assert dice.low < dice.value < dice.high
    assert dice.value > dice.baselines["one_class"] + 0.1
    assert found["dice_255"].value == pytest.approx(2 * dice.value - found["dice_0"].value, abs=1e-6)
    assert {"mean_iou", "pixel_accuracy", "boundary_f1"} <= {figure.key for figure in found.figures}
    assert set(found.cases) == {"best", "median", "worst"}
    page = report([segmented]).read_text()
    assert "Inputs, outputs and targets" in page
    assert "Confusion matrix" in page
    assert "one class for all pixels" in page
    assert len(list(segmented.samples.glob("translations-*.png"))) == 2


def test_masks_are_written_as_indices_with_a_palette_at_the_images_own_size(segmented: RunDir, tmp_path: Path) -> None:
    sizes = {"wide": (233, 197), "low": (512, 30), "square": (31, 31)}
    for name, size in sizes.items():
        Image.fromarray(scene(1, size[1], size[0])[0]).save(tmp_path / f"{name}.png")
    said = translate(segmented.path, [str(tmp_path)], tmp_path / "out", overlay=True, probabilities=True).summary
    assert said.startswith("3 masks")
    for name, size in sizes.items():
        with Image.open(tmp_path / f"out/{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == size
            assert set(np.unique(np.asarray(mask))) <= {0, 1}
        with Image.open(tmp_path / f"out/{name}-overlay.png") as overlay:
            assert (overlay.mode, overlay.size) == ("RGB", size)
        chances = [np.asarray(Image.open(tmp_path / f"out/{name}-p-{k}.png"), int) for k in ("0", "255")]
        assert np.abs(chances[0] + chances[1] - 255).max() <= 1
        assert ((chances[1] > chances[0]) == (np.asarray(Image.open(tmp_path / f"out/{name}.png")) == 1)).mean() > 0.99


def test_large_images_go_through_in_tiles_without_seams(segmented: RunDir, tmp_path: Path) -> None:
    Image.fromarray(scene(3, 150, 200)[0]).save(tmp_path / "large.png")
    whole = translate(segmented.path, [str(tmp_path / "large.png")], tmp_path / "whole", tile=256).summary
    tiled = translate(segmented.path, [str(tmp_path / "large.png")], tmp_path / "tiles", tile=96).summary
    assert "in tiles" not in whole
    assert "1 larger than 96 pixels, in tiles" in tiled
    one, two = (np.asarray(Image.open(tmp_path / place / "large.png")) for place in ("whole", "tiles"))
    assert (one == two).mean() > 0.98


def test_images_go_through_at_the_scale_of_training(cells: Path, tmp_path: Path) -> None:
    """As large as in training: what an image is shrunk to by hand gives the same, but for being enlarged again."""
    run = train("unet-segment", cells, ["size=40", "resize=crop", *QUICK], out=tmp_path / "run")
    image = Image.fromarray(scene(7, 120, 156)[0])
    image.save(tmp_path / "large.png")
    image.resize((52, 40), Image.Resampling.LANCZOS).save(tmp_path / "small.png")
    found = {}
    for name, scale in (("large", "auto"), ("large", "trained"), ("large", "full"), ("small", "full")):
        file = str(tmp_path / f"{name}.png")
        said = translate(run.path, [file], tmp_path / scale, scale=scale, probabilities=True).summary
        assert ("1 processed at the scale of the training images" in said) == (scale != "full")
        found[name, scale] = Image.open(tmp_path / scale / f"{name}-p-255.png")
    assert found["large", "auto"].size == image.size
    assert np.array_equal(*(np.asarray(found["large", scale]) for scale in ("auto", "trained")))
    again = found["small", "full"].resize(image.size, Image.Resampling.BICUBIC)
    apart = {
        scale: np.abs(np.asarray(found["large", scale], int) - np.asarray(again)).mean() for scale in ("auto", "full")
    }
    assert apart["auto"] < 3
    assert apart["auto"] < apart["full"] / 2


@pytest.mark.parametrize(
    "words, size",
    [
        ({"size": 40, "resize": "crop"}, (40, 60)),
        ({"size": 40, "resize": "pad"}, (27, 40)),
        ({"size": 40, "resize": "squash"}, (40, 40)),
        ({"size": 40, "resize": "tiles"}, (80, 120)),
        ({"size": "own"}, (80, 120)),
    ],
)
def test_the_scale_of_training_follows_how_images_were_fitted(words: dict[str, Any], size: tuple[int, int]) -> None:
    assert trained_size((80, 120), (40, 40), DataConfig(source="", **words)) == size


def test_the_scale_of_images_that_were_shrunk_to_what_their_own_size_may_be() -> None:
    assert trained_size((768, 1024), (384, 512), DataConfig(source="", size="own")) == (384, 512)


def test_mirror_images_can_be_averaged(segmented: RunDir, tmp_path: Path) -> None:
    image = Image.fromarray(scene(4)[0])
    image.save(tmp_path / "a.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    translate(segmented.path, [str(tmp_path)], tmp_path / "out", flips=True, probabilities=True)
    one, two = (np.asarray(Image.open(tmp_path / f"out/{name}-p-0.png"), int) for name in "ab")
    assert np.abs(one - two[:, ::-1]).max() <= 1


def test_restored_images_keep_size_name_and_what_their_files_say(restored: RunDir, tmp_path: Path) -> None:
    image = Image.fromarray(scene(5, 61, 47)[0])
    exif = Image.Exif()
    exif[Base.Artist], exif[Base.Orientation] = "someone", 6
    (tmp_path / "in/deep").mkdir(parents=True)
    image.save(tmp_path / "in/deep/photo.jpg", exif=exif.tobytes(), dpi=(300, 300))
    translate(restored.path, [str(tmp_path / "in")], tmp_path / "out")
    with Image.open(tmp_path / "out/deep/photo.png") as back:
        assert back.size == (61, 47)  # upright
        assert back.getexif().get(Base.Artist) == "someone"
        assert back.getexif().get(Base.Orientation) is None
        assert back.info["dpi"][0] == pytest.approx(300, abs=1)
    with pytest.raises(ModelError, match="predicts images, not masks"):
        translate(restored.path, [str(tmp_path / "in")], tmp_path / "out", overlay=True)


def test_restoration_is_compared_with_the_spoiled_image_and_beyond_its_training(restored: RunDir) -> None:
    found = evaluate(restored)
    psnr = found["psnr"]
    assert psnr.group == "pictures"
    # Noise of deviation 0.2: 10·log₁₀ 25 dB.
    assert psnr.baselines["input"] == pytest.approx(13.98, abs=0.1)
    assert psnr.value > psnr.baselines["input"] + 1
    page = report([restored]).read_text()
    assert "Strength of the degradation" in page
    assert "PSNR against noise" in page


def test_pictures_are_compared_with_their_partners(cells: Path, tmp_path: Path) -> None:
    words = ["input=images", "target=masks", *QUICK]
    run = train("unet-translate", cells, words, out=tmp_path / "run")
    found = evaluate(run)
    assert {"psnr", "ssim", "l1"} <= {figure.key for figure in found.figures}
    assert found["l1"].value < found["l1"].baselines["input"]
    model = ectype.load(run.path)
    assert model.info.target == ectype.load(run.path / "model").info.target
    with torch.no_grad():
        assert model.translate(torch.rand(1, 1, 33, 47)).shape == (1, 1, 33, 47)


def test_another_source_is_measured_by_its_own_masks(segmented: RunDir, cells: Path, tmp_path: Path) -> None:
    for i in range(6):
        image, mask = scene(100 + i)
        for folder, pixels in (("images", image), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    found = evaluate(segmented, str(tmp_path))
    assert found.test_images == 6
    assert found["mean_dice"].value > 0.5
    # Masks without the first class leave the second where it was.
    for file in (tmp_path / "masks").iterdir():
        Image.fromarray(np.full((40, 52), 255, np.uint8)).save(file)
    full = evaluate(segmented, str(tmp_path))
    assert full["dice_255"].value > 0.1
    assert full["dice_0"].value == 0


def test_what_cannot_be_used_is_said_in_one_line(segmented: RunDir, cells: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot be used \(not an image"):
        translate(segmented.path, [str(tmp_path / "broken.png")], tmp_path / "out")
    with pytest.raises(DataError, match=r"no image in .* can be used; 1 skipped"):
        translate(segmented.path, [str(tmp_path)], tmp_path / "out")
    with pytest.raises(EctypeError, match=r"no targets to be translated to: set data\.pairs"):
        train("unet-translate", cells / "images", ["pairs=none", *QUICK], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_large_photographs_can_be_looked_at_in_numbers(tmp_path: Path) -> None:
    """More images are shown at once than are drawn for together at such a size."""
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (384, 512, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    words = ["net.width=2", "net.levels=1", "train.images=8", "batch=4", "run.pictures=16", "degrade={noise: [0, 0.2]}"]
    run = train("unet-denoise", tmp_path, [*words, "split={val: 0.5, test: 0.3}"], out=tmp_path / "run")
    assert len(list(run.samples.glob("translations-*.png"))) >= 1
    assert report([run]).is_file()


def test_nothing_is_written_over(restored: RunDir, tmp_path: Path) -> None:
    Image.fromarray(scene(5)[0]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="would be overwritten"):
        translate(restored.path, [str(tmp_path)], tmp_path)
    (tmp_path / "b").mkdir()
    Image.fromarray(scene(6)[0]).save(tmp_path / "b/a.png")
    with pytest.raises(DataError, match="would be one file"):
        translate(restored.path, [str(tmp_path / "a.png"), str(tmp_path / "b/a.png")], tmp_path / "out")
    Image.fromarray(scene(6)[0]).save(tmp_path / "b/overview.jpg")
    with pytest.raises(DataError, match=r"two results would be one file.*overview\.png"):
        translate(restored.path, [str(tmp_path / "b")], tmp_path / "out")


def test_partners_of_another_kind_are_said_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for place, shape in (("a", (24, 24, 3)), ("b", (24, 24))):
        for i in range(12):
            for folder, size in (("images", (24, 24)), ("targets", shape)):
                (tmp_path / place / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / place / folder / f"{i}.png")
    words = ["net.width=2", "net.levels=1", "train.images=8", "batch=4", "run.pictures=0"]
    run = train("unet-translate", tmp_path / "a", words, out=tmp_path / "run")
    with pytest.raises(DataError, match="are grey, the model produces images in color"):
        evaluate(run, str(tmp_path / "b"))


def test_true_masks_next_to_images_are_compared_with_and_not_translated(
    segmented: RunDir, cells: Path, tmp_path: Path
) -> None:
    for i in range(5):
        image, mask = scene(100 + i, 44, 60)
        for folder, pixels in (("images", image), ("masks", 255 * mask)):
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
            if (folder, i) != ("masks", 4):
                Image.fromarray(pixels).save(tmp_path / "in" / folder / f"{i}.png")
    found = translate(segmented.path, [str(tmp_path / "in")], tmp_path / "out", scale="full")
    assert found.summary.startswith("5 masks → ")
    assert re.search(
        r"against 4 true masks, .*: mean Dice 0\.\d+ \(95% interval 0\.\d+ to \S+\), mean IoU", found.summary
    )
    assert not (tmp_path / "out/masks").exists()
    assert found.table is not None
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == [f"images/{i}.png" for i in range(4)]
    for i in range(4):
        predicted = np.asarray(Image.open(tmp_path / f"out/images/{i}.png")) == 1
        truth = scene(100 + i, 44, 60)[1] == 1
        dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in ((~predicted, ~truth), (predicted, truth))]
        assert float(rows[f"images/{i}.png"]["dice of 255"]) == pytest.approx(dice[1], abs=1e-5)
        assert float(rows[f"images/{i}.png"]["dice"]) == pytest.approx(np.mean(dice), abs=1e-5)
        with Image.open(tmp_path / f"out/images/{i}-outlines.png") as outlines:
            assert outlines.mode == "RGB"
            assert outlines.width >= 60
            assert outlines.height > 44  # the legend
            color = np.asarray(outlines)[:44, :60] == np.array([230, 159, 0])
            assert color.all(2).sum() > 20
    assert not (tmp_path / "out/images/4-outlines.png").exists()
    # A folder without targets has images only, and files that are named are taken as they are.
    shutil.rmtree(tmp_path / "in/images")
    plain = translate(segmented.path, [str(tmp_path / "in")], tmp_path / "plain").summary
    assert plain.startswith("4 masks → ")
    assert "true masks" not in plain


def test_masks_of_other_classes_are_left_out_and_said(segmented: RunDir, tmp_path: Path) -> None:
    for folder, values in (("images", 200), ("masks", 3)):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, values, (40, 52), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "in" / folder / f"{i}.png")
    said = translate(segmented.path, [str(tmp_path / "in")], tmp_path / "out").summary
    assert said.startswith("4 masks → ")
    assert "are not used: none of the 4 images" in said
    assert "the value 2 is not a class of these masks" in said
    assert not (tmp_path / "out/scores.csv").exists()


def test_outlines_are_of_the_edges_inside_of_an_image() -> None:
    truth, predicted = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    truth[10:30, 0:20] = 1
    predicted[10:30, 20:40] = 1
    image = np.full((40, 40, 3), 99, np.uint8)
    drawn = draw_outlines(image, predicted, truth, [(0, 0, 0), (255, 0, 0)])
    assert (drawn[10, :20] == (255, 0, 0)).all()  # whole
    assert (drawn[12:28, 0] == 99).all(), "the border of the image is no edge"
    assert {tuple(pixel) for pixel in drawn[10, 20:].tolist()} == {(255, 0, 0), (0, 0, 0)}  # dashed
    assert (image == 99).all()
